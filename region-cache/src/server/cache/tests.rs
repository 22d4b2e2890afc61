mod devices;
mod faults;
mod overload;
mod scan;

use std::time::Duration;

use nacre_blobstore::SystemClock;
use nacre_blobstore::testing::{FaultStore, Operation, memory_store};
use tempfile::TempDir;

use super::*;

const BLOCK: u32 = UNIT_BYTES;
const BLOCK_U64: u64 = BLOCK as u64;

/// A cache over a store that fails on demand.
struct Lab {
    store: Arc<FaultStore>,
    cache: Arc<Cache>,
}

impl Lab {
    fn new(options: &CacheOptions, clock: Arc<dyn Clock>) -> Self {
        let store = Arc::new(FaultStore::new(memory_store()));
        let cache = Cache::open(options, Arc::clone(&store) as Arc<dyn BlobStore>, clock).unwrap();
        Self {
            store,
            cache: Arc::new(cache),
        }
    }

    fn memory() -> Self {
        Self::new(&options(None), Arc::new(SystemClock::new()))
    }

    fn disk(folder: &TempDir, blocks: u64) -> Self {
        let disk = Some((folder.path().to_owned(), blocks * BLOCK_U64));
        Self::new(&options(disk), Arc::new(SystemClock::new()))
    }

    /// Stores an object of so many bytes.
    async fn put(&self, number: u32, len: u64) -> ObjectName {
        let name = name(number);
        self.store.put(name.key(), body(number, len)).await.unwrap();
        name
    }

    /// Reads a range as an answer does.
    async fn read(&self, name: &ObjectName, range: Range<u64>) -> Result<Vec<u8>, CacheError> {
        self.read_as(name, range, &asker("reader")).await
    }

    async fn read_as(
        &self,
        name: &ObjectName,
        range: Range<u64>,
        asker: &Asker,
    ) -> Result<Vec<u8>, CacheError> {
        let last = u32::try_from((range.end - 1) / BLOCK_U64).unwrap();
        let mut bytes = Vec::new();
        for part in parts(range, BLOCK) {
            bytes.extend(self.cache.part(name, &part, last, asker).await?.bytes);
        }
        Ok(bytes)
    }

    fn gets(&self) -> u64 {
        self.store.count(Operation::GetRange).requests
    }

    /// Drops what is in memory, so that the disk is asked.
    fn empty_memory(&self) {
        let mut memory = lock(&self.cache.memory);
        while memory.evict().is_some() {}
    }

    /// Waits until no fetch is under way and all is on the disk.
    async fn landed(&self) {
        while !lock(&self.cache.flights).is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

fn options(disk: Option<(PathBuf, u64)>) -> CacheOptions {
    CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        disk,
        block_bytes: BLOCK,
        origin_requests: 4,
    }
}

fn name(number: u32) -> ObjectName {
    let id = Digest::of(&number.to_le_bytes());
    ObjectName::from_key(&format!("packs/{id}")).unwrap()
}

/// The bytes of an object: no two blocks of any objects are equal.
fn body(number: u32, len: u64) -> Bytes {
    let word = |at: u64| (u64::from(number) << 40 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..len.div_ceil(8)).flat_map(|at| word(at).to_le_bytes());
    words.take(usize::try_from(len).unwrap()).collect()
}

fn part_of(number: u32, range: Range<u64>) -> Vec<u8> {
    let start = usize::try_from(range.start).unwrap();
    body(number, range.end)[start..].to_vec()
}

fn asker(client: &str) -> Asker {
    Asker {
        client: client.into(),
        priority: Priority::Demand,
        admission: Admission::MayShed,
        span: Span::none(),
    }
}

#[tokio::test]
async fn ranges_are_served_and_kept() {
    let lab = Lab::memory();
    let len = 5 * BLOCK_U64 + 100;
    let name = lab.put(1, len).await;
    for range in [
        0..1,
        0..len,
        BLOCK_U64 - 1..BLOCK_U64 + 1,
        len - 1..len,
        7..4 * BLOCK_U64,
    ] {
        let bytes = lab.read(&name, range.clone()).await.unwrap();
        assert_eq!(bytes, part_of(1, range));
    }
    // Each block once.
    assert_eq!(lab.gets(), 6);
    assert_eq!(lab.cache.known_length(name.id()), Some(len));
}

#[tokio::test]
async fn ranges_past_the_end_are_told_from_missing_objects() {
    let lab = Lab::memory();
    let short = lab.put(1, 10).await;
    let beyond = lab.read(&short, 3 * BLOCK_U64..4 * BLOCK_U64).await;
    assert!(matches!(beyond, Err(CacheError::Beyond(10))), "{beyond:?}");
    assert_eq!(lab.read(&short, 5..100).await.unwrap(), part_of(1, 5..10));
    let missing = lab.read(&name(2), 0..1).await;
    assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
}

#[tokio::test]
async fn an_extent_that_is_wanted_whole_is_one_request() {
    let lab = Lab::memory();
    let extent = u64::from(ORIGIN_GET_BYTES_MAX);
    let name = lab.put(1, 3 * extent).await;
    lab.read(&name, 0..3 * extent).await.unwrap();
    assert_eq!(lab.gets(), 3);
    // From the middle of one to the middle of the next but one.
    let name = lab.put(2, 3 * extent).await;
    let before = lab.store.count(Operation::GetRange);
    lab.read(&name, extent - 2 * BLOCK_U64..2 * extent + 3 * BLOCK_U64)
        .await
        .unwrap();
    let after = lab.store.count(Operation::GetRange);
    assert_eq!(after.requests - before.requests, 2 + 1 + 3);
    assert_eq!(after.bytes - before.bytes, extent + 5 * BLOCK_U64);
}

/// Whoever comes first, and whatever they have in common: the origin is asked for each block once.
#[tokio::test]
async fn overlapping_reads_cost_the_same_in_any_order() {
    let ranges = [0..2, 1..3, 2..4, 3..5, 1..5].map(|blocks: Range<u64>| {
        let (start, end) = (blocks.start * BLOCK_U64, blocks.end * BLOCK_U64);
        start + 1..end - 1
    });
    for order in [
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
        [0, 2, 1, 4, 3],
        [3, 1, 0, 2, 4],
    ] {
        let lab = Lab::memory();
        let name = lab.put(1, 9 * BLOCK_U64).await;
        for read in order {
            lab.read(&name, ranges[read].clone()).await.unwrap();
        }
        assert_eq!(lab.gets(), 5, "{order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_is_fetched_once_however_many_wait() {
    let clock = Arc::new(nacre_blobstore::testing::TokioClock::new());
    let lab = Lab::new(&options(None), clock);
    let name = lab.put(1, 4 * BLOCK_U64).await;
    lab.store.delay(Duration::from_millis(40));
    let readers = (0..500).map(|number| {
        let asker = asker(&format!("client {}", number % 100));
        let (lab, name) = (&lab, &name);
        async move { lab.read_as(name, 0..4 * BLOCK_U64, &asker).await.unwrap() }
    });
    for bytes in futures::future::join_all(readers).await {
        assert_eq!(bytes, body(1, 4 * BLOCK_U64));
    }
    assert_eq!(lab.gets(), 4);
    assert_eq!(lab.cache.metrics.joined.get(), 4 * 499);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shared_and_not_kept() {
    let clock = Arc::new(nacre_blobstore::testing::TokioClock::new());
    let lab = Lab::new(&options(None), clock);
    let name = lab.put(1, BLOCK_U64).await;
    lab.store.delay(Duration::from_millis(40));
    lab.store.fail_next_gets(1);
    let readers = (0..100).map(|_| lab.read(&name, 0..BLOCK_U64));
    for outcome in futures::future::join_all(readers).await {
        assert!(
            matches!(outcome, Err(CacheError::Unavailable(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(lab.gets(), 1);
    assert_eq!(
        lab.read(&name, 0..BLOCK_U64).await.unwrap(),
        body(1, BLOCK_U64)
    );
}

#[tokio::test]
async fn what_was_evicted_from_memory_is_on_the_disk() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let name = lab.put(1, 10 * BLOCK_U64).await;
    lab.read(&name, 0..10 * BLOCK_U64).await.unwrap();
    lab.landed().await;
    lab.empty_memory();
    let gets = lab.gets();
    for _ in 0..2 {
        let bytes = lab.read(&name, 5..10 * BLOCK_U64 - 5).await.unwrap();
        assert_eq!(bytes, part_of(1, 5..10 * BLOCK_U64 - 5));
    }
    assert_eq!(lab.gets(), gets);
    assert!(lab.cache.metrics.tier(Tier::Disk).reads.get() >= 10);
}

#[tokio::test]
async fn what_the_disk_serves_often_goes_to_memory() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let name = lab.put(1, BLOCK_U64).await;
    lab.read(&name, 0..BLOCK_U64).await.unwrap();
    lab.landed().await;
    lab.empty_memory();
    let quarter = BLOCK / 4;
    // Its length twice, and once more.
    for number in 0..10 {
        let part = Part {
            number: 0,
            within: 3..quarter + 3,
        };
        let piece = lab
            .cache
            .part(&name, &part, 0, &asker("reader"))
            .await
            .unwrap();
        assert_eq!(piece.bytes, part_of(1, 3..u64::from(quarter) + 3));
        let expected = if number < 9 { Tier::Disk } else { Tier::Memory };
        assert_eq!(piece.tier, expected, "{number}");
    }
}

#[tokio::test]
async fn reported_blocks_are_fetched_anew() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let name = lab.put(1, 3 * BLOCK_U64).await;
    lab.store.flip_bit_in_next_gets(1, 8 * 7_000);
    let bad = lab.read(&name, 0..3 * BLOCK_U64).await.unwrap();
    assert_ne!(bad, body(1, 3 * BLOCK_U64), "nothing here can know");
    lab.landed().await;
    assert_eq!(lab.cache.forget(&name, 7_000..7_001), 1);
    assert_eq!(lab.cache.forget(&name, 7_000..7_001), 0);
    let gets = lab.gets();
    let good = lab.read(&name, 0..3 * BLOCK_U64).await.unwrap();
    assert_eq!(good, body(1, 3 * BLOCK_U64));
    assert_eq!(lab.gets(), gets + 1);
}

#[tokio::test]
async fn an_object_that_was_written_through_needs_no_origin() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let (name, bytes) = (name(1), body(1, 2 * BLOCK_U64 + 7));
    let blocks = bytes.chunks(BLOCK as usize).map(|block| Block {
        bytes: Bytes::copy_from_slice(block),
        object_bytes: bytes.len() as u64,
    });
    assert!(lab.cache.keep(&name, 0, blocks.collect()).await);
    for _ in 0..2 {
        let read = lab.read(&name, 0..bytes.len() as u64).await.unwrap();
        assert_eq!(read, bytes);
        lab.empty_memory();
    }
    assert_eq!(lab.gets(), 0);
}

/// Small objects take more of the limit than they have bytes; if the tier did not count that, it
/// would fill the memory and never let go of it.
#[tokio::test]
async fn many_small_objects_leave_room_for_others() {
    let lab = Lab::memory();
    for number in 0..u32::try_from(MEMORY_BYTES_MIN >> 10).unwrap() + 1000 {
        let name = lab.put(number, 3).await;
        assert_eq!(lab.read(&name, 0..3).await.unwrap(), part_of(number, 0..3));
        lab.store.delete(name.key()).await.unwrap();
    }
    lab.landed().await;
    assert!(lab.cache.budget.bytes() <= lab.cache.budget.tier_bytes());
}

#[tokio::test]
async fn memory_stays_within_its_limit() {
    let lab = Lab::memory();
    let len = 2 * MEMORY_BYTES_MIN;
    let name = lab.put(1, len).await;
    let whole = body(1, len);
    let mut at = 0;
    while at < len {
        let end = (at + 8 * BLOCK_U64).min(len);
        let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(end).unwrap());
        assert_eq!(lab.read(&name, at..end).await.unwrap(), whole[from..to]);
        assert!(lab.cache.budget.bytes() <= MEMORY_BYTES_MIN);
        at = end;
    }
    lab.landed().await;
    let (weight, _) = lab.cache.memory_use();
    assert!(weight <= lab.cache.budget.tier_bytes());
    assert!(weight >= lab.cache.budget.tier_bytes() / 2);
    assert_eq!(lab.cache.budget.bytes(), weight);
}
