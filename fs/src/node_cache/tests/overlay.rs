//! Eviction and restarts under a live overlay mount. Needs root, and a temporary folder that keeps
//! trusted xattrs.

use rustix::fs::{Advice, XattrFlags, fadvise, setxattr};

use super::*;
use crate::mount::{Lower, OverlaySpec, overlay};

/// A mount of files whose data is in the layers of a cache.
struct Mounted(TempDir);

impl Mounted {
    fn new(cache: &NodeCache, contents: &[(ContentId, u64)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = folder.path().join("names");
        let target = folder.path().join("merged");
        fs::create_dir(&names).unwrap();
        fs::create_dir(&target).unwrap();
        for (number, (content, size_bytes)) in contents.iter().enumerate() {
            let path = names.join(number.to_string());
            fs::File::create(&path)
                .unwrap()
                .set_len(*size_bytes)
                .unwrap();
            let hex = content.to_string();
            let redirect = format!("/{}/{}", &hex[..2], &hex[2..]);
            let set = |name, value: &[u8]| setxattr(&path, name, value, XattrFlags::empty());
            set("trusted.overlay.metacopy", b"").unwrap();
            set("trusted.overlay.redirect", redirect.as_bytes()).unwrap();
        }
        let lower = Lower {
            layers: vec![names],
            data: cache.layers().into(),
        };
        overlay(&OverlaySpec {
            lower,
            upper: None,
            target,
            options: Vec::new(),
        })
        .unwrap();
        Self(folder)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.0.path().join("merged").join(number.to_string())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = unmount(self.0.path().join("merged"), UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn open_files_outlive_eviction_and_evicted_ones_come_back_by_placing() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Arc::<MemoryReader>::default();
    let clock = Arc::<TestClock>::default();
    let cache = open_limited(folder.path(), &reader, &clock, 8 << 20);
    let bytes: Vec<_> = (0..4).map(|seed| pseudo_random(300_000, seed)).collect();
    let ids: Vec<_> = bytes
        .iter()
        .map(|bytes| (reader.add_content(bytes, CHUNK_BYTES), 300_000))
        .collect();
    let mounted = Mounted::new(&cache, &ids);
    assert!(fs::read(mounted.path(0)).is_err(), "nothing is there yet");
    for (content, size_bytes) in &ids {
        let placed = cache.place(*content, *size_bytes).await.unwrap();
        assert_eq!(placed, Placed::Local);
    }
    let open = fs::File::open(mounted.path(0)).unwrap();
    assert_eq!(fs::read(mounted.path(1)).unwrap(), bytes[1]);

    settle(&cache).await;
    clock.advance(Duration::from_secs(20));
    assert!(cache.prune(0).await.done);
    assert_eq!(cache.stats().contents, 0);
    for folder in cache.layers() {
        for shard in fs::read_dir(folder).unwrap() {
            assert_eq!(fs::read_dir(shard.unwrap().path()).unwrap().count(), 0);
        }
    }
    // From the disk, where the file has no name any more.
    fadvise(&open, 0, None, Advice::DontNeed).unwrap();
    let mut read = vec![0; 300_000];
    open.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, bytes[0]);
    assert!(fs::read(mounted.path(2)).is_err(), "it was never opened");
    let placed = cache.place(ids[2].0, 300_000).await.unwrap();
    assert_eq!(placed, Placed::Local);
    assert_eq!(fs::read(mounted.path(2)).unwrap(), bytes[2]);
}

#[tokio::test]
async fn a_killed_daemon_leaves_the_store_where_live_mounts_look_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Arc::<MemoryReader>::default();
    let clock = Arc::<TestClock>::default();
    let cache = open_limited(folder.path(), &reader, &clock, 8 << 20);
    let bytes = pseudo_random(300_000, 1);
    let content = reader.add_content(&bytes, CHUNK_BYTES);
    cache.place(content, 300_000).await.unwrap();
    let mounted = Mounted::new(&cache, &[(content, 300_000)]);
    settle(&cache).await;
    drop(cache);
    let cache = open_limited(folder.path(), &reader, &clock, 8 << 20);
    assert!(file(folder.path(), "store", content).exists());
    assert!(!file(folder.path(), "arrivals", content).exists());
    assert_eq!(fs::read(mounted.path(0)).unwrap(), bytes);
    assert_eq!(cache.usage().await.unwrap().unverified, 0);
    // What a power loss may have damaged is out of sight.
    drop((mounted, cache));
    lose_power(folder.path());
    let cache = open_limited(folder.path(), &reader, &clock, 8 << 20);
    let mounted = Mounted::new(&cache, &[(content, 300_000)]);
    assert!(fs::read(mounted.path(0)).is_err());
    cache.place(content, 300_000).await.unwrap();
    assert_eq!(fs::read(mounted.path(0)).unwrap(), bytes);
    assert_eq!(reader.chunk_reads(), 1);
}
