//! Tests of the cache on a real disk, with a reader that counts and fails on demand.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use nacre_blobstore::{Digest, SystemClock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use super::*;
use crate::testing::MemoryReader;
use crate::testing::model::pseudo_random;

mod ahead;
mod load;
mod model;
mod overlay;
mod place;
mod power;
mod quota;
mod restart;
mod unread;

const CHUNK_BYTES: usize = 128 << 10;

struct Node {
    folder: TempDir,
    reader: Arc<MemoryReader>,
    cache: NodeCache,
}

/// Time that passes when a test says so.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn advance(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
        tokio::task::yield_now().await;
    }
}

/// A small disk; unmounted when it is dropped. Needs root.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &std::ffi::CStr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = MountFlags::empty();
        mount("tmpfs", folder.path(), "tmpfs", flags, Some(options)).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Opens a cache of at most `bytes_max` that goes by `clock`, and waits until it is loaded.
fn open_limited(
    folder: &Path,
    reader: &Arc<MemoryReader>,
    clock: &Arc<TestClock>,
    bytes_max: u64,
) -> NodeCache {
    let options = NodeCacheOptions {
        bytes_max: Some(bytes_max),
        files_max: None,
    };
    let (reader, clock) = (Arc::clone(reader), Arc::clone(clock));
    let cache = NodeCache::open_with(folder, reader as _, clock as _, options).unwrap();
    assert!(cache.inner.quota.wait_loaded(Duration::from_secs(60)));
    cache
}

async fn settle(cache: &NodeCache) {
    cache.tasks.close();
    cache.tasks.wait().await;
}

fn open(folder: &Path, reader: &Arc<MemoryReader>) -> NodeCache {
    let clock = Arc::new(SystemClock::new());
    NodeCache::open(folder, Arc::clone(reader) as _, clock).unwrap()
}

/// Makes the next start believe that the machine was started anew.
fn lose_power(folder: &Path) {
    fs::write(folder.join("session"), "another boot").unwrap();
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reader = Arc::new(MemoryReader::default());
        let cache = open(folder.path(), &reader);
        Self {
            folder,
            reader,
            cache,
        }
    }

    /// Waits until everything that was there at the start is counted.
    fn loaded(&self) {
        let deadline = Duration::from_secs(60);
        assert!(self.cache.inner.quota.wait_loaded(deadline));
    }

    /// Waits until everything is written.
    async fn settle(&self) {
        settle(&self.cache).await;
    }

    /// Ends as a power loss does, but for writes under way, and starts again.
    async fn lose_power_and_restart(self) -> Self {
        self.settle().await;
        lose_power(self.folder.path());
        self.kill_and_restart().await
    }

    /// Ends as `kill -9` does, but for writes under way, and starts again.
    async fn kill_and_restart(self) -> Self {
        self.settle().await;
        let Self {
            folder,
            reader,
            cache,
        } = self;
        drop(cache);
        let cache = open(folder.path(), &reader);
        Self {
            folder,
            reader,
            cache,
        }
    }

    async fn read_all(&self, content: ContentId, size: usize) -> Result<Bytes, ReadError> {
        let size_bytes = size as u64;
        let mut all = BytesMut::new();
        while all.len() < size {
            let part = self
                .cache
                .read(content, size_bytes, all.len() as u64, 100_000)
                .await?;
            assert!(!part.is_empty());
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }

    fn file(&self, folder: &str, content: ContentId) -> PathBuf {
        file(self.folder.path(), folder, content)
    }
}

/// Returns where a content is in a cache's folder.
fn file(cache: &Path, folder: &str, content: ContentId) -> PathBuf {
    let hex = content.to_string();
    let path = cache.join(folder);
    if folder == "partial" {
        path.join(hex)
    } else {
        path.join(&hex[..2]).join(&hex[2..])
    }
}

#[tokio::test]
async fn a_small_content_is_fetched_once_and_then_plain_in_the_store() {
    let node = Node::new();
    let bytes = pseudo_random(10_000, 1);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    assert_eq!(
        node.cache
            .read(content, 10_000, 9_000, 5_000)
            .await
            .unwrap(),
        bytes[9_000..]
    );
    node.settle().await;
    let file = node.file("store", content);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(fs::metadata(&file).unwrap().mode(), 0o100_644);
    assert_eq!(
        node.cache.read(content, 10_000, 0, 10).await.unwrap(),
        bytes[..10]
    );
    assert!(
        node.cache
            .read(content, 10_000, 10_000, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let stats = node.cache.stats();
    assert_eq!(
        (
            node.reader.chunk_reads(),
            stats.fetched_reads,
            stats.fetched_bytes
        ),
        (1, 1, 1_000)
    );
    assert_eq!((stats.node_reads, stats.node_bytes), (1, 10));
}

#[tokio::test]
async fn a_large_content_collects_its_chunks_and_moves_to_the_store() {
    let node = Node::new();
    let bytes = pseudo_random(20 * CHUNK_BYTES + 77, 2);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let size = bytes.len() as u64;
    let middle = 15 * CHUNK_BYTES - 5;
    let read = node
        .cache
        .read(content, size, middle as u64, 10)
        .await
        .unwrap();
    assert_eq!(read, bytes[middle..middle + 10]);
    node.settle().await;
    assert_eq!(node.reader.chunk_reads(), 2, "only what the read overlaps");
    assert!(!node.file("store", content).exists());
    assert_eq!(node.read_all(content, bytes.len()).await.unwrap(), bytes);
    node.settle().await;
    assert_eq!(node.reader.chunk_reads(), 21);
    assert_eq!(fs::read(node.file("store", content)).unwrap(), bytes);
    assert!(!node.file("partial", content).exists());
    node.reader.set_unavailable(true);
    assert_eq!(node.read_all(content, bytes.len()).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_cost_one_fetch_and_share_its_error() {
    let node = Node::new();
    node.reader.delay(Duration::from_millis(30));
    let bytes = pseudo_random(1000, 3);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let large = pseudo_random(2 << 20, 4);
    let large_content = node.reader.add_content(&large, CHUNK_BYTES);
    for read in join_all((0..32).map(|_| node.cache.read(content, 1000, 0, 1000))).await {
        assert_eq!(read.unwrap(), bytes);
    }
    assert_eq!(node.reader.chunk_reads(), 1);
    let reads = (0..32).map(|_| node.cache.read(large_content, 2 << 20, 1 << 20, 1000));
    for read in join_all(reads).await {
        assert_eq!(read.unwrap(), large[1 << 20..(1 << 20) + 1000]);
    }
    assert_eq!(node.reader.chunk_reads(), 2);
    let bad = node.reader.add_content(b"bad", CHUNK_BYTES);
    node.reader.corrupt(*bad.digest());
    for read in join_all((0..32).map(|_| node.cache.read(bad, 3, 0, 3))).await {
        assert!(matches!(read, Err(ReadError::Corrupt { .. })));
    }
    assert_eq!(node.reader.chunk_reads(), 3);
    assert_eq!(node.cache.stats().failed_reads, 32);
    assert!(node.cache.stats().wait_p50_us >= 30_000);
}

#[tokio::test]
async fn a_corrupt_chunk_fails_its_own_reads_until_it_is_healed() {
    let node = Node::new();
    let bytes = pseudo_random(2 << 20, 5);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let bad = Digest::of(&bytes[CHUNK_BYTES..2 * CHUNK_BYTES]);
    node.reader.corrupt(bad);
    let read = async |offset: usize| node.cache.read(content, 2 << 20, offset as u64, 100).await;
    assert!(matches!(
        read(CHUNK_BYTES + 7).await,
        Err(ReadError::Corrupt { .. })
    ));
    assert!(matches!(
        read(CHUNK_BYTES - 50).await,
        Err(ReadError::Corrupt { .. })
    ));
    assert_eq!(read(0).await.unwrap(), bytes[..100]);
    assert_eq!(
        read(2 * CHUNK_BYTES).await.unwrap(),
        bytes[2 * CHUNK_BYTES..][..100]
    );
    node.reader.heal(bad);
    assert_eq!(
        read(CHUNK_BYTES + 7).await.unwrap(),
        bytes[CHUNK_BYTES + 7..][..100]
    );
}

#[tokio::test]
async fn what_is_on_the_node_does_not_wait_for_slow_fetches() {
    let node = Node::new();
    let local = node.reader.add_content(b"local", CHUNK_BYTES);
    node.read_all(local, 5).await.unwrap();
    let bytes = pseudo_random(16 * CHUNK_BYTES, 10);
    let partial = node.reader.add_content(&bytes, CHUNK_BYTES);
    let offset = 7 * CHUNK_BYTES;
    let read = async |node: &Node| {
        let read = node
            .cache
            .read(partial, bytes.len() as u64, offset as u64, 10)
            .await;
        assert_eq!(read.unwrap(), bytes[offset..offset + 10]);
    };
    read(&node).await;
    let node = node.kill_and_restart().await;
    // Its list of chunks is read from the reader.
    node.cache
        .open_local(partial, bytes.len() as u64)
        .await
        .unwrap();
    node.reader.delay(Duration::from_secs(3));
    let slow: Vec<_> = (0..2 * FETCHES_MAX)
        .map(|i| {
            node.reader
                .add_content(format!("slow {i}").as_bytes(), CHUNK_BYTES)
        })
        .collect();
    let slow = join_all(slow.iter().map(|id| node.cache.read(*id, 6, 0, 1)));
    let reads = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(node.read_all(local, 5).await.unwrap(), "local");
        read(&node).await;
    };
    let reads = tokio::time::timeout(Duration::from_secs(2), reads);
    tokio::select! {
        biased;
        read = reads => read.unwrap(),
        _ = slow => panic!("the slow reads were not slow"),
    }
}

#[tokio::test]
async fn a_fetch_outlives_the_reader_that_asked() {
    let node = Node::new();
    node.reader.delay(Duration::from_millis(20));
    let content = node.reader.add_content(b"wanted", CHUNK_BYTES);
    let read = node.cache.read(content, 6, 0, 6);
    tokio::time::timeout(Duration::from_millis(5), read)
        .await
        .unwrap_err();
    // The fetch may not have been asked for yet: opening the content may still have been under way.
    assert_eq!(node.cache.read(content, 6, 0, 6).await.unwrap(), "wanted");
    node.settle().await;
    assert_eq!(node.reader.chunk_reads(), 1);
    assert!(node.file("store", content).exists());
}

#[tokio::test]
async fn chunks_that_do_not_make_their_content_are_found_out() {
    let node = Node::new();
    let bytes = pseudo_random(12 * CHUNK_BYTES, 8);
    let content = ContentId::new(Digest::of(b"something else"));
    node.reader.add_content_as(content, &bytes, CHUNK_BYTES);
    // Read-ahead may find it out before the last of these reads.
    drop(node.read_all(content, bytes.len()).await);
    node.settle().await;
    assert!(!node.file("store", content).exists());
    let read = node.cache.read(content, bytes.len() as u64, 0, 10).await;
    assert!(matches!(read, Err(ReadError::Corrupt { .. })));
}

/// Needs root, to mount a small tmpfs.
#[tokio::test]
async fn a_full_disk_costs_fetches_and_no_errors() {
    let small_disk = SmallDisk::new(c"size=300k");
    let mut node = Node::new();
    node.cache = open(&small_disk.path().join("cache"), &node.reader);
    let contents: Vec<_> = (0..4).map(|seed| pseudo_random(200_000, seed)).collect();
    for content in &contents {
        let id = node.reader.add_content(content, CHUNK_BYTES);
        assert_eq!(node.read_all(id, 200_000).await.unwrap(), *content);
        node.settle().await;
        assert_eq!(node.read_all(id, 200_000).await.unwrap(), *content);
    }
    let large = pseudo_random(11 * CHUNK_BYTES, 9);
    let id = node.reader.add_content(&large, CHUNK_BYTES);
    assert_eq!(node.read_all(id, large.len()).await.unwrap(), large);
    node.settle().await;
    assert_eq!(node.read_all(id, large.len()).await.unwrap(), large);
    node.settle().await;
    assert!(node.cache.stats().unstored > 10);
    assert_eq!(node.cache.stats().failed_reads, 0);
}
