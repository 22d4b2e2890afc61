//! Taking in what will be read, saying what may be, and telling who reads what.

use std::sync::Mutex;

use nacre_blobstore::{ChunkId, Tier, TreeReader};

use super::*;
use crate::access::on_behalf_of;
use crate::{Access, AccessObserver, Accessed};

const LARGE: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_is_read_without_the_reader() {
    let node = Node::new();
    let small = pseudo_random(5000, 1);
    let large = pseudo_random(LARGE, 2);
    let small_id = node.reader.add_content(&small, CHUNK_BYTES);
    let large_id = node.reader.add_content(&large, CHUNK_BYTES);
    let large_bytes = LARGE as u64;
    let missing = async |range| {
        let missing = node.cache.missing(large_id, large_bytes, range).await;
        let missing = missing.unwrap();
        missing
            .into_iter()
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    assert_eq!(missing(200_000..400_000).await, [1, 2, 3]);
    assert_eq!(
        node.cache
            .missing(small_id, 5000, 0..1)
            .await
            .unwrap()
            .len(),
        1
    );

    node.cache.admit(small_id, 5000, 0..1).await.unwrap();
    node.cache.admit(large_id, large_bytes, 2..4).await.unwrap();
    // Numbers that the content does not have are passed over.
    node.cache
        .admit(large_id, large_bytes, 23..u32::MAX)
        .await
        .unwrap();
    assert_eq!(node.reader.chunk_reads(), 4);
    node.settle().await;
    assert_eq!(missing(200_000..400_000).await, [1]);
    assert_eq!(node.cache.missing(small_id, 5000, 0..1).await.unwrap(), []);
    assert_eq!(node.read_all(small_id, 5000).await.unwrap(), small);
    let start = 2 * CHUNK_BYTES as u64;
    let read = node.cache.read(large_id, large_bytes, start, 1000).await;
    assert_eq!(read.unwrap(), large[2 * CHUNK_BYTES..][..1000]);
    assert_eq!(node.reader.chunk_reads(), 4);

    node.reader.set_unavailable(true);
    assert!(node.cache.admit(large_id, large_bytes, 0..1).await.is_err());
    node.reader.set_unavailable(false);
    assert_eq!(node.read_all(large_id, LARGE).await.unwrap(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_what_was_admitted_and_no_guess_what_is_known() {
    let node = Node::new();
    let large = pseudo_random(LARGE, 5);
    let (content, size) = (node.reader.add_content(&large, CHUNK_BYTES), LARGE as u64);
    let read = async |chunk: usize| {
        let offset = (chunk * CHUNK_BYTES) as u64;
        let read = node.cache.read(content, size, offset, 1000).await;
        assert_eq!(read.unwrap(), large[chunk * CHUNK_BYTES..][..1000]);
        node.settle().await;
        node.reader.chunk_reads()
    };
    node.cache.admit(content, size, 0..8).await.unwrap();
    node.settle().await;
    for chunk in 0..8 {
        assert_eq!(read(chunk).await, 8);
    }
    node.reader.know(true);
    assert_eq!((read(8).await, read(9).await), (9, 10));
    node.reader.know(false);
    assert_eq!(read(10).await, 12, "the chunk, and one ahead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_is_expected_whole_and_a_huge_one_around_reads() {
    let node = Node::new();
    let large = pseudo_random(LARGE, 3);
    let content = node.reader.add_content(&large, CHUNK_BYTES);
    node.cache.read(content, LARGE as u64, 0, 10).await.unwrap();
    assert_eq!(node.reader.expected().len(), 24, "whole, at the first read");
    node.cache
        .read(content, LARGE as u64, LARGE as u64 - 10, 10)
        .await
        .unwrap();
    assert_eq!(node.reader.expected().len(), 24, "once");

    let huge = pseudo_random(2 * LARGE, 4);
    let content = node.reader.add_content(&huge, CHUNK_BYTES);
    let middle = 30 * CHUNK_BYTES as u64;
    node.cache
        .read(content, 2 * LARGE as u64, middle, 10)
        .await
        .unwrap();
    let expected = node.reader.expected()[24..].to_vec();
    let list = ContentReader::chunk_list(&*node.reader, content, 2 * LARGE as u64).await;
    let list = list.unwrap();
    let number = |id: &ChunkId| list.extents().iter().position(|e| e.id == *id).unwrap();
    let numbers: Vec<usize> = expected.iter().map(number).collect();
    assert_eq!(numbers, [31, 32, 28, 29]);
    let tail = pseudo_random(2 * LARGE, 5);
    let content = node.reader.add_content(&tail, CHUNK_BYTES);
    node.cache
        .read(content, 2 * LARGE as u64, 0, 10)
        .await
        .unwrap();
    // Head and tail, then two after.
    assert_eq!(node.reader.expected().len(), 24 + 4 + 11 + 1 + 2);
}

#[derive(Debug, Default)]
struct Notes {
    active: std::sync::atomic::AtomicBool,
    seen: Mutex<Vec<Access>>,
}

impl AccessObserver for Notes {
    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn accessed(&self, access: Access) {
        self.seen.lock().unwrap().push(access);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_told_of_with_who_waited_for_what() {
    let node = Node::new();
    let notes = Arc::new(Notes::default());
    node.cache.observe_with(Arc::clone(&notes) as _);
    let content = node
        .reader
        .add_content(&pseudo_random(5000, 1), CHUNK_BYTES);
    let read = |pid| on_behalf_of(pid, node.cache.read(content, 5000, 4000, 4000));
    read(7).await.unwrap();
    assert_eq!(*notes.seen.lock().unwrap(), [], "nobody wanted to know");
    notes.active.store(true, Ordering::Relaxed);
    node.cache.read(content, 5000, 0, 1).await.unwrap();
    read(0).await.unwrap();
    assert_eq!(*notes.seen.lock().unwrap(), [], "by nobody known");
    node.settle().await;
    let node = node.kill_and_restart().await;
    node.cache.observe_with(Arc::clone(&notes) as _);
    let cold = node
        .reader
        .add_content(&pseudo_random(6000, 2), CHUNK_BYTES);
    for (content, size_bytes) in [(cold, 6000), (content, 5000)] {
        let read = node.cache.read(content, size_bytes, 4000, 4000);
        on_behalf_of(7, read).await.unwrap();
    }
    let place = node.cache.place(content, 5000);
    on_behalf_of(8, place).await.unwrap();
    let tree = TreeReader::tree(&node.cache, nacre_blobstore::TreeId::new(Digest::of(b"no")));
    assert!(on_behalf_of(9, tree).await.is_err());
    let seen = notes.seen.lock().unwrap();
    let found: Vec<_> = seen
        .iter()
        .map(|access| match &access.what {
            Accessed::Content { content, range, .. } => (access.pid, *content, range.clone()),
            Accessed::Tree(_) => (access.pid, content, 0..0),
        })
        .collect();
    assert_eq!(
        found,
        [
            (7, cold, 4000..6000),
            (7, content, 4000..5000),
            (8, content, 0..5000),
            (9, content, 0..0),
        ]
    );
    let tiers: Vec<Tier> = seen.iter().map(|access| access.tier).collect();
    assert_eq!(tiers, [Tier::Origin, Tier::Node, Tier::Node, Tier::Origin]);
}
