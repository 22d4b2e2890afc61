//! Stores that are elsewhere or damaged, and daemons that are killed.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::node::Node;
use crate::proxy::Proxy;
use crate::two_files::{large_bytes, read_both, source};

const BUSY: i32 = 11;
const CORRUPT: i32 = 12;
const EIO: i32 = 5;

#[test]
fn images_come_from_an_s3_server() {
    if std::env::var_os("NACRE_TEST_S3_ENDPOINT").is_none() {
        println!("SKIPPED: NACRE_TEST_S3_ENDPOINT is not set");
        return;
    }
    let bucket = std::env::var_os("NACRE_TEST_S3_BUCKET").unwrap_or_else(|| "nacre".into());
    let bucket = bucket.to_str().unwrap();
    let node = Node::new();
    let unique = node
        .path("")
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let store = format!("s3://{bucket}/{unique}");
    let on = |arguments: &[&str]| node.json(&[&["--store", &store], arguments].concat());
    assert_eq!(on(&["store", "check"])["conditional_writes"], true);
    let added = on(&["image", "add", &source(&node), "--name", "s3"]);
    assert_eq!(added["chunks_known"], 0);
    let again = on(&["image", "add", &source(&node), "--name", "again"]);
    assert_eq!(
        (&again["tree"], &again["chunks_new"]),
        (&added["tree"], &json!(0))
    );
    let mount = node.empty("mount");
    on(&["mount", "s3", mount.to_str().unwrap()]);
    read_both(&mount);
    assert!(on(&["cache", "stats"])["origin"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(on(&["store", "fsck", "--read-data"])["problems"], json!([]));
    on(&["umount", mount.to_str().unwrap()]);
    // The same root with another store would mix up two worlds.
    let line = node.fails(BUSY, &["mount", "s3", mount.to_str().unwrap()]);
    assert!(line.contains(&store), "{line}");
}

/// The files of a directory and all below it, the largest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    found
}

#[test]
fn damage_is_an_error_and_never_wrong_bytes() {
    let node = Node::new();
    node.ok(&["image", "add", &source(&node), "--name", "app"]);
    let pack = files(&node.path("root/store")).remove(0);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&pack)
        .unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();

    let mount = node.empty("mount");
    node.ok(&["mount", "app", mount.to_str().unwrap()]);
    let mut large = std::fs::File::open(mount.join("large")).unwrap();
    let mut read = Vec::new();
    let error = large.read_to_end(&mut read).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO));
    assert!(large_bytes().starts_with(&read), "wrong bytes were read");
    // What is whole goes on to be served.
    assert_eq!(std::fs::read(mount.join("small")).unwrap(), b"small");

    let output = node.output(&["--json", "store", "fsck", "--read-data"]);
    assert_eq!(output.status.code(), Some(CORRUPT));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["corrupt"].as_array().unwrap().len(), 1, "{found}");

    // The right byte again: what failed before is not remembered as bad.
    file.write_all_at(&byte, at).unwrap();
    node.fsck();
    read_both(&mount);
    drop(large);
    node.ok(&["umount", mount.to_str().unwrap()]);
}

#[test]
fn a_root_has_one_daemon() {
    let node = Node::new();
    node.ok(&["image", "add", &source(&node), "--name", "app"]);
    let mount = node.empty("mount");
    node.ok(&["mount", "app", mount.to_str().unwrap()]);
    let first = node.daemon().unwrap();
    node.fails(BUSY, &["daemon"]);
    assert_eq!(node.daemon(), Some(first));
    read_both(&mount);
}

#[test]
fn a_killed_daemon_is_replaced() {
    let node = Node::new();
    node.ok(&["image", "add", &source(&node), "--name", "app"]);
    let (before, after) = (node.empty("before"), node.empty("after"));
    node.ok(&["mount", "app", before.to_str().unwrap()]);
    read_both(&before);
    let killed = node.daemon().unwrap();
    let process = rustix::process::Pid::from_raw(killed).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    node.ok(&["umount", before.to_str().unwrap()]);
    node.ok(&["mount", "app", after.to_str().unwrap()]);
    assert_ne!(node.daemon(), Some(killed));
    read_both(&after);
    node.fsck();
}

#[test]
fn a_dead_origin_costs_what_is_missing_for_as_long_as_it_is_dead() {
    let Some(endpoint) = std::env::var_os("NACRE_TEST_S3_ENDPOINT") else {
        println!("SKIPPED: NACRE_TEST_S3_ENDPOINT is not set");
        return;
    };
    for mode in ["kernel", "fuse"] {
        dead_origin(endpoint.to_str().unwrap(), mode);
    }
}

fn dead_origin(endpoint: &str, mode: &str) {
    let bucket = std::env::var_os("NACRE_TEST_S3_BUCKET").unwrap_or_else(|| "nacre".into());
    let bucket = bucket.to_str().unwrap();
    let proxy = Proxy::to(endpoint.strip_prefix("http://").unwrap());
    let node = Node::new();
    let unique = node.path("").file_name().unwrap().to_owned();
    let store = format!("s3://{bucket}/{}", unique.to_str().unwrap());
    let on = |arguments: &[&str]| {
        let all = [&["--store", &store, "--store-timeout", "2"], arguments].concat();
        let output = node
            .command(&all)
            .env("AWS_ENDPOINT_URL", format!("http://{}", proxy.address))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
    };
    on(&["image", "add", &source(&node), "--name", "app"]);
    let mount = node.empty("mount");
    on(&["mount", "--mode", mode, "app", mount.to_str().unwrap()]);
    let small = || std::fs::read(mount.join("small")).unwrap();
    assert_eq!(small(), b"small");
    proxy.dead.store(true, Ordering::Relaxed);
    let large = mount.join("large");
    let late = std::thread::spawn(move || std::fs::read(large).map(|bytes| bytes.len()));
    for _ in 0..100 {
        assert_eq!(small(), b"small");
    }
    assert!(!late.is_finished(), "it should wait for the store");
    let error = late.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO), "{mode}: {error}");
    proxy.dead.store(false, Ordering::Relaxed);
    read_both(&mount);
    on(&["umount", mount.to_str().unwrap()]);
}
