//! What is on the disk before anybody reads it: found by those who come for it, and by nobody else.

use std::sync::Mutex;

use super::*;
use crate::access::on_behalf_of;
use crate::node_cache::ahead::AHEAD_MAX;
use crate::{Access, AccessObserver, Accessed};
use nacre_blobstore::Chunk;

const SMALL: usize = 10_000;
const LARGE: usize = (1 << 20) + 3 * CHUNK_BYTES;

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk::of(Bytes::copy_from_slice(bytes))
}

impl Node {
    /// Brings a small content ahead that no reader has.
    fn bring(&self, seed: u64) -> (ContentId, Vec<u8>) {
        self.loaded();
        let bytes = pseudo_random(SMALL, seed);
        let content = ContentId::new(Digest::of(&bytes));
        self.cache.bring_ahead(content, 0, &chunk(&bytes));
        (content, bytes)
    }

    /// Tells whether any of the folders of overlayfs or of a read has a content.
    fn is_seen(&self, content: ContentId) -> bool {
        let folders = ["store", "arrivals", "partial"];
        folders
            .iter()
            .any(|folder| self.file(folder, content).exists())
    }
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<ContentId>>);

impl AccessObserver for Seen {
    fn is_active(&self) -> bool {
        true
    }

    fn accessed(&self, access: Access) {
        if let Accessed::Content { content, .. } = access.what {
            self.0.lock().unwrap().push(content);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_ahead_is_found_by_who_comes_for_it_and_seen_to_be_read() {
    let node = Node::new();
    let seen = Arc::new(Seen::default());
    node.cache.observe_with(Arc::clone(&seen) as _);
    let (placed, bytes) = node.bring(1);
    let (read, read_bytes) = node.bring(2);
    let size = SMALL as u64;
    for content in [placed, read] {
        assert!(node.cache.is_ahead(content) && !node.is_seen(content));
        let missing = node.cache.missing(content, size, 0..size).await.unwrap();
        assert_eq!(missing, [(0, content.as_single_chunk())], "nobody came");
        assert!(node.cache.is_ahead(content), "to ask is not to come");
    }
    assert_eq!(node.reader.came_for(), []);
    let place = on_behalf_of(7, node.cache.place(placed, size));
    assert_eq!(place.await.unwrap(), Placed::Local);
    for folder in ["store", "arrivals"] {
        assert_eq!(fs::read(node.file(folder, placed)).unwrap(), bytes);
    }
    let whole = on_behalf_of(7, node.cache.read(read, size, 0, 1 << 20));
    assert_eq!(whole.await.unwrap(), read_bytes);
    assert_eq!(fs::read(node.file("store", read)).unwrap(), read_bytes);
    for content in [placed, read] {
        assert!(!node.cache.is_ahead(content));
        let missing = node.cache.missing(content, size, 0..size).await.unwrap();
        assert_eq!(missing, []);
    }
    assert_eq!(*seen.0.lock().unwrap(), [placed, read]);
    assert_eq!(node.reader.came_for(), [placed, read]);
    assert_eq!(node.reader.chunk_reads(), 0, "no reader has them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trace_names_is_taken_from_ahead_into_the_store() {
    let node = Node::new();
    let (content, bytes) = node.bring(1);
    node.cache.admit(content, SMALL as u64, 0..1).await.unwrap();
    assert_eq!(fs::read(node.file("store", content)).unwrap(), bytes);
    assert_eq!(node.reader.chunk_reads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ahead_ends_with_the_process_and_counts_until_then() {
    let node = Node::new();
    let brought = [node.bring(1), node.bring(2)];
    let counted = |node: &Node| (node.cache.stats().contents, node.cache.stats().bytes);
    let usage = node.cache.usage().await.unwrap();
    assert_eq!(counted(&node), (usage.contents, usage.content_bytes));
    assert_eq!(usage.contents, 2);
    let node = node.kill_and_restart().await;
    node.loaded();
    assert_eq!(counted(&node), (0, 0));
    for (content, bytes) in brought {
        assert!(!node.cache.is_ahead(content) && !node.is_seen(content));
        node.reader.add_content(&bytes, CHUNK_BYTES);
        assert_eq!(node.read_all(content, SMALL).await.unwrap(), bytes);
    }
    assert_eq!(node.reader.chunk_reads(), 2, "fetched");
    // Trash that the last run had no time to take out is in nobody's way.
    let trash = node.folder.path().join("trash/00/ahead");
    fs::create_dir_all(&trash).unwrap();
    fs::write(trash.join("left"), b"left").unwrap();
    let node = node.kill_and_restart().await;
    node.loaded();
    assert!(!trash.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_that_nobody_came_for_make_room() {
    let node = Node::new();
    node.loaded();
    let content = |number: usize| {
        let chunk = chunk(&number.to_le_bytes());
        (ContentId::new(*chunk.id().digest()), chunk)
    };
    let count = AHEAD_MAX + 3;
    for number in 0..count {
        let (content, chunk) = content(number);
        node.cache.bring_ahead(content, 0, &chunk);
        if number == 1 {
            node.cache.place(content, 8).await.unwrap();
        }
    }
    let is_ahead = |number| node.cache.is_ahead(content(number).0);
    assert!(!is_ahead(0) && !is_ahead(1) && !is_ahead(2) && is_ahead(3));
    let stored = fs::read(node.file("store", content(1).0)).unwrap();
    assert_eq!(stored, 1_usize.to_le_bytes(), "somebody came for it");
    assert_eq!(node.cache.stats().contents, AHEAD_MAX as u64 + 1);
    assert_eq!(
        node.cache.usage().await.unwrap().contents,
        AHEAD_MAX as u64 + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_ahead_lacks_its_first_chunk_and_is_seen_to_be_read() {
    let node = Node::new();
    node.loaded();
    let bytes = pseudo_random(LARGE, 3);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let size = LARGE as u64;
    let bring = |number: usize, of: usize| {
        let bytes = &bytes[of * CHUNK_BYTES..(of + 1) * CHUNK_BYTES];
        let number = u32::try_from(number).unwrap();
        node.cache.bring_ahead(content, number, &chunk(bytes));
    };
    bring(1, 1);
    assert_eq!(
        node.cache
            .missing(content, size, 0..size)
            .await
            .unwrap()
            .len(),
        11
    );
    for (number, of) in [(1, 2), (11, 0), (u32::MAX as usize, 1)] {
        bring(number, of);
    }
    let missing = node.cache.missing(content, size, 0..size).await.unwrap();
    assert_eq!(missing.len(), 11, "no chunk gets to the place of another");
    for number in 0..11 {
        bring(number, number);
    }
    let missing = node.cache.missing(content, size, 0..size).await.unwrap();
    assert_eq!(missing.len(), 1, "the first");
    assert!(!node.file("store", content).exists());
    let read = node.cache.read(content, size, CHUNK_BYTES as u64, 1 << 20);
    assert_eq!(read.await.unwrap(), bytes[CHUNK_BYTES..][..1 << 20]);
    assert_eq!(node.reader.chunk_reads(), 0);
    assert_eq!(node.read_all(content, LARGE).await.unwrap(), bytes);
    node.settle().await;
    assert_eq!(node.reader.chunk_reads(), 1, "the first");
    assert_eq!(fs::read(node.file("store", content)).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_chunk_may_come_ahead_of_a_content_that_is_read() {
    let node = Node::new();
    node.loaded();
    let bytes = pseudo_random(LARGE, 3);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    node.cache.read(content, LARGE as u64, 0, 10).await.unwrap();
    for (number, bytes) in (0_u32..).zip(bytes.chunks(CHUNK_BYTES)) {
        node.cache.bring_ahead(content, number, &chunk(bytes));
    }
    node.settle().await;
    assert_eq!(fs::read(node.file("store", content)).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_a_content_is_written_ahead_gets_it() {
    let node = Node::new();
    node.loaded();
    for seed in 0..64 {
        let bytes = pseudo_random(SMALL, seed);
        let content = node.reader.add_content(&bytes, CHUNK_BYTES);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| node.cache.bring_ahead(content, 0, &chunk(&bytes)));
            }
            let place = async {
                assert_eq!(
                    node.cache.place(content, SMALL as u64).await.unwrap(),
                    Placed::Local
                );
                for folder in ["store", "arrivals"] {
                    assert_eq!(fs::read(node.file(folder, content)).unwrap(), bytes);
                }
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(place));
        });
        assert!(!node.cache.is_ahead(content), "it is in the store");
    }
    let usage = node.cache.usage().await.unwrap();
    assert_eq!((usage.contents, node.cache.stats().contents), (64, 64));
}

/// Needs root, to mount a small tmpfs.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_closed_cache_take_nothing_ahead() {
    let disk = SmallDisk::new(c"size=1m");
    let reader = Arc::<MemoryReader>::default();
    let folder = disk.path().join("cache");
    let cache = open_limited(&folder, &reader, &Arc::default(), 8 << 20);
    fs::write(disk.path().join("ballast"), vec![1; 2 << 20]).unwrap_err();
    let bytes = pseudo_random(100_000, 1);
    let content = ContentId::new(Digest::of(&bytes));
    cache.bring_ahead(content, 0, &chunk(&bytes));
    assert!(!cache.is_ahead(content));
    assert_eq!(fs::read_dir(folder.join("ahead")).unwrap().count(), 0);
    fs::remove_file(disk.path().join("ballast")).unwrap();
    cache.bring_ahead(content, 0, &chunk(&bytes));
    assert!(cache.is_ahead(content), "it is tried anew");
    cache.close().await.unwrap();
    let other = chunk(b"late");
    let late = ContentId::new(*other.id().digest());
    cache.bring_ahead(late, 0, &other);
    assert!(!cache.is_ahead(late));
}
