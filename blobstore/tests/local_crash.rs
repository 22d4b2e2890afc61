//! A local store whose writer is killed, or whose disk is full.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::TryStreamExt;
use nacre_blobstore::{BlobStore, Digest, Key, LocalStore, StoreError};

/// Tells the test below that it is the process to be killed, and where to write.
const WRITER_DIRECTORY: &str = "NACRE_TEST_WRITER_DIRECTORY";
const LIMIT: u64 = 8 << 20;

/// Writes until it is killed; a line on stdout acknowledges each write.
#[tokio::test]
async fn writer_to_be_killed() {
    let Some(directory) = std::env::var_os(WRITER_DIRECTORY) else {
        return;
    };
    let store = LocalStore::open(directory).unwrap();
    let counter = Key::new("refs/counter").unwrap();
    let (mut version, start) = match store.get(&counter, LIMIT).await {
        Ok((bytes, version)) => (version, parse(&bytes)),
        Err(StoreError::NotFound(_)) => (store.create(&counter, "0".into()).await.unwrap(), 0),
        Err(error) => panic!("{error}"),
    };
    for count in start + 1.. {
        let body = vec![(count % 251) as u8; 1 << 20];
        let name = Digest::of(&body).to_string();
        let key = Key::new(format!("packs/{}/{name}-{count}", &name[..2])).unwrap();
        store.put(&key, body.into()).await.unwrap();
        version = store
            .replace(&counter, count.to_string().into(), &version)
            .await
            .unwrap();
        println!("acknowledged {count}");
    }
}

fn parse(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

fn start_writer(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "writer_to_be_killed",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(WRITER_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What was acknowledged is there, what is there is whole, and the next writer goes on.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_and_breaks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12 {
        let mut writer = start_writer(directory.path());
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // It works now; then it dies at some point of one of its next writes.
        let first = lines.find(|line| line.as_ref().unwrap().contains("acknowledged"));
        assert!(first.is_some(), "the writer ended in round {round}");
        tokio::time::sleep(Duration::from_micros(1_300 * round)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        let told = first.into_iter().chain(lines).map_while(Result::ok);
        for line in told {
            if let Some((_, count)) = line.split_once("acknowledged ") {
                acknowledged = acknowledged.max(count.trim().parse().unwrap());
            }
        }
        let counted = check_store(directory.path()).await;
        assert!(
            counted == acknowledged || counted == acknowledged + 1,
            "{counted} {acknowledged}"
        );
    }
}

/// Checks every object of the store and returns the counter.
async fn check_store(directory: &Path) -> u64 {
    let store = LocalStore::open(directory).unwrap();
    let objects: Vec<_> = store.list("packs").try_collect().await.unwrap();
    let mut packs = BTreeMap::new();
    for object in objects {
        let (body, _) = store.get(&object.key, LIMIT).await.unwrap();
        let name = object.key.as_str().rsplit('/').next().unwrap();
        let (digest, count) = name.split_once('-').unwrap();
        assert_eq!(Digest::of(&body).to_string(), digest, "{name} is not whole");
        packs.insert(count.parse::<u64>().unwrap(), ());
    }
    let (bytes, _) = store
        .get(&Key::new("refs/counter").unwrap(), LIMIT)
        .await
        .unwrap();
    let counted = parse(&bytes);
    for count in 1..=counted {
        assert!(
            packs.contains_key(&count),
            "the pack of count {count} is lost"
        );
    }
    store.list("").try_collect::<Vec<_>>().await.unwrap();
    for folder in std::fs::read_dir(directory.join("packs")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let name = file.unwrap().file_name();
            assert!(
                !nacre_blobstore::is_staging(&name),
                "{name:?} was not swept"
            );
        }
    }
    counted
}

/// A small file system of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns `None` without the right to mount.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, c"size=1m") {
            Ok(()) => Some(Self(directory)),
            Err(rustix::io::Errno::PERM) => None,
            Err(error) => panic!("mount a small disk: {error}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_no_half_object() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED: needs the right to mount a tmpfs");
        return;
    };
    let store = LocalStore::open(disk.0.path()).unwrap();
    let key = |name: &str| Key::new(format!("packs/{name}")).unwrap();
    let body = |len: usize| bytes::Bytes::from(vec![7; len]);
    store.put(&key("fits"), body(600 << 10)).await.unwrap();
    let version = store.create(&key("ref"), "old".into()).await.unwrap();

    let full = store.put(&key("pack"), body(600 << 10)).await.unwrap_err();
    assert!(
        matches!(&full, StoreError::NoSpace(k) if *k == key("pack")),
        "{full}"
    );
    assert!(!full.is_retryable());
    let full = store
        .create(&key("other"), body(600 << 10))
        .await
        .unwrap_err();
    assert!(matches!(full, StoreError::NoSpace(_)), "{full}");
    let full = store
        .replace(&key("ref"), body(600 << 10), &version)
        .await
        .unwrap_err();
    assert!(matches!(full, StoreError::NoSpace(_)), "{full}");

    let mut objects: Vec<_> = store.list("").try_collect().await.unwrap();
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let listed: Vec<_> = objects.into_iter().map(|o| (o.key, o.size_bytes)).collect();
    assert_eq!(listed, [(key("fits"), 600 << 10), (key("ref"), 3)]);
    let files = std::fs::read_dir(disk.0.path().join("packs"))
        .unwrap()
        .count();
    assert_eq!(files, 2, "a staging file stays behind");

    store.delete(&key("fits")).await.unwrap();
    store.put(&key("pack"), body(600 << 10)).await.unwrap();
    store
        .replace(&key("ref"), "new".into(), &version)
        .await
        .unwrap();
}
