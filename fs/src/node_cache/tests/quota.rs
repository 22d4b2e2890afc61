//! The quota, what goes when it is reached, and disks that are full below it.

use super::*;

const MIB: u64 = 1 << 20;

/// A limited cache and its time.
struct Limited {
    folder: TempDir,
    reader: Arc<MemoryReader>,
    clock: Arc<TestClock>,
    cache: NodeCache,
}

impl Limited {
    fn new(bytes_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (reader, clock) = (Arc::default(), Arc::default());
        let cache = open_limited(folder.path(), &reader, &clock, bytes_max);
        Self {
            folder,
            reader,
            clock,
            cache,
        }
    }

    /// Reads a content of 100,000 bytes and lets time pass.
    async fn read(&self, number: u64) -> ContentId {
        let bytes = pseudo_random(100_000, number);
        let content = self.reader.add_content(&bytes, CHUNK_BYTES);
        let read = self.cache.read(content, 100_000, 0, 100_000).await;
        assert_eq!(read.unwrap(), bytes);
        settle(&self.cache).await;
        self.clock.advance(Duration::from_secs(11));
        content
    }

    fn has(&self, content: ContentId) -> bool {
        file(self.folder.path(), "store", content).exists()
    }

    async fn assert_counted(&self) {
        let (usage, stats) = (self.cache.usage().await.unwrap(), self.cache.stats());
        let bytes = usage.content_bytes + usage.partial_bytes + usage.unverified_bytes;
        let contents = usage.contents + usage.partials + usage.unverified;
        assert_eq!((stats.bytes, stats.contents), (bytes, contents));
        assert!(stats.bytes <= stats.bytes_max, "{stats:?}");
    }
}

#[tokio::test]
async fn the_quota_holds_and_what_is_used_again_stays() {
    let node = Limited::new(MIB);
    let hot = [node.read(0).await, node.read(1).await];
    for content in hot {
        node.cache.used(content);
    }
    for number in 2..40 {
        node.read(number).await;
        node.assert_counted().await;
    }
    assert!(hot.iter().all(|content| node.has(*content)));
    let stats = node.cache.stats();
    assert_eq!(stats.contents + stats.evicted, 40);
    assert!(stats.bytes > MIB / 10 * 8, "room is not left unused");
    assert_eq!(stats.unstored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn chunks_that_are_written_side_by_side_are_all_counted() {
    const CHUNKS: u32 = 4096;
    const CHUNK: usize = 4096;
    /// What a file system adds to say where so many chunks are, when it writes them out.
    const EXTENTS: u64 = 16 << 10;
    let node = Limited::new(64 * MIB);
    let bytes = pseudo_random(CHUNKS as usize * CHUNK, 1);
    let content = node.reader.add_content(&bytes, CHUNK);
    let size = bytes.len() as u64;
    // All but the last, which would have it moved to the store.
    for first in (0..CHUNKS - 16).step_by(16) {
        let admits = (first..first + 16).map(|n| node.cache.admit(content, size, n..n + 1));
        for admitted in join_all(admits).await {
            admitted.unwrap();
        }
        settle(&node.cache).await;
        let (stats, written) = (node.cache.stats(), u64::from(first + 16) * CHUNK as u64);
        let counted = (stats.bytes, stats.contents);
        assert!(
            (written..written + EXTENTS).contains(&stats.bytes),
            "{written} and {counted:?}"
        );
        let usage = node.cache.usage().await.unwrap();
        assert!(
            usage.partial_bytes.abs_diff(stats.bytes) < EXTENTS,
            "{usage:?}"
        );
        assert_eq!((usage.partials, stats.contents), (1, 1));
    }
}

#[tokio::test]
async fn what_was_placed_just_now_stays_and_others_are_unstored() {
    let node = Limited::new(MIB);
    let place = async |number: u64| {
        let bytes = pseudo_random(100_000, number);
        let content = node.reader.add_content(&bytes, CHUNK_BYTES);
        (content, node.cache.place(content, 100_000).await.unwrap())
    };
    let mut placed = Vec::new();
    for number in 0..20 {
        placed.push(place(number).await);
    }
    let local = placed.iter().filter(|(_, placed)| *placed == Placed::Local);
    assert_eq!(local.clone().count(), 10);
    for (content, _) in local {
        assert!(node.has(*content));
    }
    node.clock.advance(Duration::from_secs(11));
    // A lookup of what is there counts too.
    assert_eq!(place(0).await.1, Placed::Local);
    for number in 20..28 {
        assert_eq!(place(number).await.1, Placed::Local);
    }
    assert!(node.has(placed[0].0));
    node.assert_counted().await;
}

#[tokio::test]
async fn a_smaller_quota_at_the_next_start_is_kept_to() {
    let mut node = Limited::new(2 * MIB);
    for number in 0..15 {
        node.read(number).await;
    }
    drop(node.cache);
    node.cache = open_limited(node.folder.path(), &node.reader, &node.clock, MIB / 2);
    while node.cache.stats().bytes > MIB / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(node.cache);
    let (reader, clock) = (Arc::clone(&node.reader), Arc::clone(&node.clock));
    let options = NodeCacheOptions {
        bytes_max: None,
        files_max: Some(3),
    };
    node.cache = NodeCache::open_with(node.folder.path(), reader, clock, options).unwrap();
    assert!(node.cache.inner.quota.wait_loaded(Duration::from_secs(60)));
    node.read(20).await;
    node.read(21).await;
    let stats = node.cache.stats();
    assert!(stats.contents <= 3, "{stats:?}");
    node.assert_counted().await;
}

#[tokio::test]
async fn a_content_too_large_for_the_quota_is_stored_in_part() {
    let node = Limited::new(2 * MIB);
    let kept = node.read(0).await;
    let bytes = pseudo_random(4 << 20, 9);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    for offset in (0..bytes.len()).step_by(50_000) {
        let read = node.cache.read(content, 4 << 20, offset as u64, 50_000);
        let end = bytes.len().min(offset + 50_000);
        assert_eq!(read.await.unwrap(), bytes[offset..end]);
        settle(&node.cache).await;
    }
    node.assert_counted().await;
    let stats = node.cache.stats();
    assert!(
        (MIB / 2..=MIB + 200_000).contains(&stats.bytes),
        "{stats:?}"
    );
    assert!(stats.unstored > 0);
    assert!(node.has(kept));
}

#[tokio::test]
async fn files_that_are_read_natively_get_a_second_chance() {
    let node = Limited::new(MIB / 2);
    let mut contents = Vec::new();
    for number in 0..5 {
        contents.push(node.read(number).await);
    }
    let folder = fs::File::open(node.folder.path()).unwrap();
    rustix::fs::syncfs(folder).unwrap();
    node.clock.advance(Duration::from_secs(61));
    // Looks at all of them first, and drops their pages.
    assert_eq!(node.cache.inner.evict_one(true), Some(102_400));
    assert!(!node.has(contents[0]));
    for read in [1, 3] {
        fs::read(file(node.folder.path(), "store", contents[read])).unwrap();
    }
    for _ in 0..2 {
        node.cache.inner.evict_one(true).unwrap();
    }
    let left: Vec<_> = contents.iter().map(|content| node.has(*content)).collect();
    assert_eq!(left, [false, true, false, true, false]);
    // But not for ever.
    for _ in 0..2 {
        node.cache.inner.evict_one(true).unwrap();
    }
    assert_eq!(node.cache.stats().contents, 0);
}

#[tokio::test]
async fn pruning_leaves_what_is_being_read_and_no_more_than_asked() {
    let node = Limited::new(4 * MIB);
    for number in 0..20 {
        node.read(number).await;
    }
    let pruned = node.cache.prune(MIB).await;
    assert_eq!((pruned.contents, pruned.done), (10, true));
    assert_eq!(node.cache.stats().contents, 10);
    let content = node.read(30).await;
    let held = node.cache.inner.locals.get(content).unwrap();
    assert!(node.cache.prune(0).await.done);
    assert_eq!(node.cache.stats().contents, 1);
    assert!(node.has(content));
    drop(held);
    node.cache.prune(0).await;
    assert!(!node.has(content));
    node.assert_counted().await;
}

#[tokio::test]
async fn a_disk_that_is_full_below_the_quota_lowers_it_until_there_is_space() {
    let disk = SmallDisk::new(c"size=2m");
    let mut node = Limited::new(MIB);
    node.cache = open_limited(
        &disk.path().join("cache"),
        &node.reader,
        &node.clock,
        8 * MIB,
    );
    let mut held = Vec::new();
    for number in 0..10 {
        let content = node.read(number).await;
        // As a mount does; what it holds takes space after it was evicted.
        held.push(fs::File::open(file(&disk.path().join("cache"), "store", content)).unwrap());
    }
    let ballast = disk.path().join("ballast");
    let full = fs::write(&ballast, vec![1; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    node.read(20).await;
    let stats = node.cache.stats();
    assert!(stats.unstored > 0 && stats.evicted > 0, "{stats:?}");
    assert!(stats.bytes_in_force < MIB, "{stats:?}");
    fs::remove_file(ballast).unwrap();
    drop(held);
    for number in 30..60 {
        node.read(number).await;
    }
    let risen = node.cache.stats();
    assert!(risen.bytes_in_force > MIB * 3 / 2, "{risen:?}");
    assert!(risen.bytes > MIB * 3 / 2, "{risen:?}");
    assert_eq!(risen.unstored, stats.unstored);
    assert_eq!(risen.failed_reads, 0);
}

#[tokio::test]
async fn rot_is_found_in_the_background_and_by_its_next_reader() {
    let node = Limited::new(8 * MIB);
    let mut contents = Vec::new();
    for number in 0..20 {
        contents.push(node.read(number).await);
    }
    let path = file(node.folder.path(), "store", contents[13]);
    let rotten = fs::File::options().write(true).open(&path).unwrap();
    rotten.write_all_at(b"rot", 70_000).unwrap();
    let mut slot = node.cache.recheck_some(0).await;
    while slot > 0 {
        slot = node.cache.recheck_some(slot).await;
    }
    assert!(!path.exists());
    assert_eq!(node.cache.stats().rotten, 1);
    assert_eq!(node.cache.stats().rechecked, 20);
    node.read(13).await;
    assert!(path.exists());
    node.assert_counted().await;

    // What a power loss made doubtful is checked in the same way.
    let Limited {
        folder,
        reader,
        clock,
        cache,
    } = node;
    drop(cache);
    lose_power(folder.path());
    let cache = open_limited(folder.path(), &reader, &clock, 8 * MIB);
    let unverified = async || cache.usage().await.unwrap().unverified;
    assert_eq!(unverified().await, 20);
    let mut slot = cache.recheck_some(0).await;
    while slot > 0 {
        slot = cache.recheck_some(slot).await;
    }
    assert_eq!(unverified().await, 0);
    assert_eq!(cache.usage().await.unwrap().contents, 20);
}

#[tokio::test]
async fn an_eviction_waits_for_who_gives_the_content_a_name() {
    let node = Limited::new(MIB);
    let content = node.read(0).await;
    let inner = Arc::clone(&node.cache.inner);
    let candidate = inner.quota.choose(inner.now()).unwrap();
    assert_eq!(candidate.content, content);
    let (evicted, outcome) = std::sync::mpsc::channel();
    let naming = inner.names.lock(content);
    let evicting = Arc::clone(&inner);
    let thread = std::thread::spawn(move || evicted.send(evicting.evict(content)));
    let early = outcome.recv_timeout(Duration::from_millis(50));
    assert!(early.is_err(), "it does not wait");
    // As a lookup does that finds it meanwhile.
    node.cache.used(content);
    drop(naming);
    assert_eq!(outcome.recv().unwrap(), None);
    thread.join().unwrap().unwrap();
    assert!(node.has(content));
    node.assert_counted().await;
}

#[tokio::test]
async fn what_is_found_at_a_start_counts_and_makes_room_for_what_comes() {
    let mut node = Limited::new(MIB);
    let mut before = Vec::new();
    for number in 0..10 {
        before.push(node.read(number).await);
    }
    drop(node.cache);
    // The walk and the reads race; a write waits for it where the disk holds more than the quota.
    let options = NodeCacheOptions {
        bytes_max: Some(MIB),
        files_max: None,
    };
    let (reader, clock) = (Arc::clone(&node.reader), Arc::clone(&node.clock));
    node.cache = NodeCache::open_with(node.folder.path(), reader, clock, options).unwrap();
    for number in 10..15 {
        let content = node.read(number).await;
        assert!(node.has(content));
        node.assert_counted().await;
    }
    let left = before.iter().filter(|content| node.has(**content)).count();
    assert!((5..10).contains(&left), "{left}");
    let stats = node.cache.stats();
    assert_eq!((stats.contents, stats.evicted, stats.unstored), (10, 5, 0));
}
