//! Fetching ahead: what is asked of the store, and that nobody who reads is worse off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::StreamExt;
use tokio::sync::Semaphore;

use super::*;
use crate::testing::{Fault, FaultKind};
use crate::{PackName, StoreError, Tier};

/// Two chunks of a [`Bench`] share a frame.
const CHUNKS: std::ops::Range<u8> = 0..24;
const FRAMES: u64 = 12;

const NOT_AHEAD: ReaderOptions = ReaderOptions {
    frame_cache_bytes: 64 << 20,
    ahead_cache_bytes: 64 << 20,
    tree_cache_bytes: 0,
    read_ahead_percent: 0,
    wait_max: READ_WAIT_MAX,
};

fn items(numbers: impl IntoIterator<Item = u8>) -> Vec<ItemKind> {
    let item = |number| ItemKind::Chunk(chunk(number).id());
    numbers.into_iter().map(item).collect()
}

async fn prefetch(reader: &Reader, numbers: impl IntoIterator<Item = u8>) -> Vec<Prefetched> {
    reader.prefetch(items(numbers)).collect().await
}

fn arrived(groups: &[Prefetched]) -> Vec<ItemKind> {
    groups.iter().flat_map(|g| g.items().to_vec()).collect()
}

async fn read_all(reader: &Reader) {
    read(reader, CHUNKS).await;
}

async fn read(reader: &Reader, numbers: std::ops::Range<u8>) {
    for number in numbers {
        let read = reader.chunk(chunk(number).id()).await;
        assert_eq!(read.unwrap(), chunk(number));
    }
}

fn requests(bench: &Bench) -> u64 {
    bench.faults.count(Operation::GetRange).requests
}

/// A tier whose answers to ranges of several frames wait for a permit.
#[derive(Debug)]
struct Narrow {
    inner: Origin,
    wide: Semaphore,
    /// Requests that were held up.
    held: AtomicUsize,
    frame_bytes: u64,
}

#[async_trait::async_trait]
impl ChunkSource for Narrow {
    fn tier(&self) -> Tier {
        Tier::Origin
    }

    async fn fetch(
        &self,
        pack: PackName,
        range: std::ops::Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        if range.end - range.start > self.frame_bytes {
            self.held.fetch_add(1, Ordering::SeqCst);
            self.wide.acquire().await.unwrap().forget();
        }
        self.inner.fetch(pack, range).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_come_in_one_request_and_stay_while_they_are_held() {
    let bench = Bench::new(CHUNKS).await;
    let reader = bench.reader(UNCACHED);
    // The last frame first, and all but the frame of 10 and 11: the hole is small.
    let wanted = (18..24).chain(0..10).chain(12..18);
    let groups = prefetch(&reader, wanted.clone()).await;
    assert_eq!(requests(&bench), 1);
    let mut found = arrived(&groups);
    found.sort_unstable();
    let mut expected = items(wanted);
    expected.sort_unstable();
    assert_eq!(found, expected);
    reader.chunk(chunk(23).id()).await.unwrap();
    assert_eq!(requests(&bench), 1);
    reader.chunk(chunk(10).id()).await.unwrap();
    assert_eq!(requests(&bench), 2, "what was not wanted was not kept");
    drop(groups);
    reader.chunk(chunk(23).id()).await.unwrap();
    assert_eq!(requests(&bench), 3, "nothing is kept that nobody holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_or_unknown_costs_nothing() {
    let bench = Bench::new(CHUNKS).await;
    let reader = bench.reader(NOT_AHEAD);
    assert_eq!(arrived(&prefetch(&reader, [200, 201]).await), []);
    assert_eq!(requests(&bench), 0);
    reader.warm(items(CHUNKS)).await;
    assert_eq!(requests(&bench), 1);
    let again = prefetch(&reader, [7, 200, 3]).await;
    assert_eq!(arrived(&again), items([3, 7]));
    read_all(&reader).await;
    assert_eq!(requests(&bench), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_warmed_is_told_of_and_at_hand() {
    let bench = Bench::new(CHUNKS).await;
    let reader = bench.reader(NOT_AHEAD);
    let is_at_hand = |number| reader.at_hand(chunk(number).id()).is_some();
    assert!(!is_at_hand(3) && !reader.is_foretold(chunk(3).id()));
    let warmed: Vec<Vec<ItemKind>> = reader.warmed(items([3, 200, 0, 20])).collect().await;
    let mut warmed = warmed.concat();
    warmed.sort_unstable();
    let mut expected = items([0, 3, 20]);
    expected.sort_unstable();
    assert_eq!(warmed, expected);
    let asked = requests(&bench);
    for number in [0, 2, 3, 20] {
        assert_eq!(reader.at_hand(chunk(number).id()), Some(chunk(number)));
        assert!(reader.is_foretold(chunk(number).id()), "its frame");
    }
    assert!(!is_at_hand(200) && !reader.is_foretold(chunk(200).id()));
    assert!(!is_at_hand(10) && !reader.is_foretold(chunk(10).id()));
    assert_eq!(requests(&bench), asked, "nothing is fetched for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_longest_ago_makes_room_read_or_not() {
    let bench = Bench::new(CHUNKS).await;
    bench.reader(NOT_AHEAD).warm(items(0..2)).await;
    let frame_bytes = bench.faults.count(Operation::GetRange).bytes;
    let three = ReaderOptions {
        frame_cache_bytes: 0,
        ahead_cache_bytes: usize::try_from(frame_bytes * 7 / 2).unwrap(),
        ..NOT_AHEAD
    };
    let warmed = async |numbers: &[u8]| {
        let reader = bench.reader(three);
        for number in numbers {
            reader.warm(items([*number])).await;
            if number != numbers.last().unwrap() {
                read(&reader, 0..1).await;
            }
        }
        bench.faults.reset_counts();
        reader
    };
    let reader = warmed(&[0, 2, 4, 6]).await;
    read(&reader, 2..8).await;
    assert_eq!(requests(&bench), 0, "the first is gone, though it was read");
    let reader = warmed(&[0, 2, 4, 0, 6]).await;
    read(&reader, 0..2).await;
    read(&reader, 4..8).await;
    assert_eq!(requests(&bench), 0, "it was asked for again");
    read(&reader, 2..3).await;
    assert_eq!(requests(&bench), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_starts_at_once_fetch_each_frame_once() {
    // What eight starts hold has to fit into the memory of prefetches: the last would wait until the
    // first drop theirs, and may then have to fetch it again.
    let chunks = 0..20;
    let bench = Bench::new(chunks.clone()).await;
    let once = Arc::new(bench.reader(NOT_AHEAD));
    drop(prefetch(&once, chunks.clone()).await);
    let bytes_once = bench.faults.count(Operation::GetRange).bytes;
    bench.faults.reset_counts();
    bench.faults.delay(Duration::from_millis(20));
    let reader = Arc::new(bench.reader(NOT_AHEAD));
    let start = |number: u8| {
        let (reader, chunks) = (Arc::clone(&reader), chunks.clone());
        tokio::spawn(async move {
            let groups = reader.prefetch(items((number..chunks.end).chain(0..number)));
            tokio::join!(groups.collect::<Vec<_>>(), read(&reader, chunks)).0
        })
    };
    let starts: Vec<_> = (0..8).map(start).collect();
    // Kept until the last has read, also if the first ends before it begins.
    let kept = futures::future::join_all(starts).await;
    assert!(kept.iter().all(Result::is_ok), "{kept:?}");
    let count = bench.faults.count(Operation::GetRange);
    // Holes of a range are fetched along with it, so what was read one by one may come again.
    assert!(
        count.bytes <= 2 * bytes_once,
        "{count:?} for {bytes_once} bytes"
    );
    assert!(count.requests <= u64::from(chunks.end) / 2, "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_range_wait_for_it_and_others_pass_it() {
    let bench = Bench::new(CHUNKS).await;
    let source = Arc::new(Narrow {
        inner: Origin::new(bench.store()),
        wide: Semaphore::new(0),
        held: AtomicUsize::new(0),
        frame_bytes: 100,
    });
    let sources = vec![Arc::clone(&source) as Arc<dyn ChunkSource>];
    let reader = Arc::new(Reader::new(Arc::clone(&bench.index), sources, NOT_AHEAD));
    let ahead = tokio::spawn(reader.prefetch(items(0..20)).collect::<Vec<_>>());
    let waiting = {
        let (reader, source) = (Arc::clone(&reader), Arc::clone(&source));
        // Until all frames of the range are announced the chunk is fetched alone, as ever.
        tokio::spawn(async move {
            while source.held.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            reader.chunk(chunk(4).id()).await
        })
    };
    assert_eq!(reader.chunk(chunk(22).id()).await.unwrap(), chunk(22));
    assert_eq!(requests(&bench), 1, "only that one got an answer");
    assert!(!waiting.is_finished());
    source.wide.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap(), chunk(4));
    assert_eq!(arrived(&ahead.await.unwrap()).len(), 20);
    assert_eq!(requests(&bench), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_that_fails_is_nobodys_trouble() {
    let bench = Bench::new(CHUNKS).await;
    let reader = Arc::new(bench.reader(NOT_AHEAD));
    let slow = Fault::new(FaultKind::Delay(Duration::from_millis(30)));
    bench.faults.inject(slow.times(1));
    bench.faults.fail_next_gets(1);
    let ahead = tokio::spawn(reader.prefetch(items(0..10)).collect::<Vec<_>>());
    while requests(&bench) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.chunk(chunk(4).id()).await.unwrap(), chunk(4));
    let after = arrived(&ahead.await.unwrap());
    assert!(after.len() <= 2, "only what was read meanwhile: {after:?}");
    // A damaged frame is left to its readers, the others of its range are not.
    bench.faults.flip_bit_in_next_gets(1, 0);
    let groups = prefetch(&reader, 10..24).await;
    assert_eq!(arrived(&groups).len(), 12);
    assert_eq!(reader.stats().origin.corrupt, 0, "nobody was to be served");
    assert_eq!(reader.chunk(chunk(10).id()).await.unwrap(), chunk(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_on_fetches_ahead_as_far_as_it_may() {
    let bench = Bench::new(CHUNKS).await;
    read_all(&bench.reader(NOT_AHEAD)).await;
    assert_eq!(requests(&bench), FRAMES);
    bench.faults.reset_counts();
    bench.faults.delay(Duration::from_millis(10));
    let reader = bench.reader(ReaderOptions::default());
    read_all(&reader).await;
    assert!(requests(&bench) < FRAMES, "{}", requests(&bench));
    bench.faults.reset_counts();
    let reader = bench.reader(ReaderOptions::default());
    reader.expect(CHUNKS.map(|number| chunk(number).id()).collect());
    while requests(&bench) == 0 {
        tokio::task::yield_now().await;
    }
    read_all(&reader).await;
    assert_eq!(requests(&bench), 1);
}

/// A cache before the store, which gives what it has, and asks nobody for what it has not.
#[derive(Debug)]
struct Cache {
    inner: Origin,
    is_full: AtomicBool,
    guesses: AtomicUsize,
}

impl Cache {
    fn before(store: Arc<dyn BlobStore>) -> Self {
        Self {
            inner: Origin::new(store),
            is_full: AtomicBool::new(false),
            guesses: AtomicUsize::new(0),
        }
    }
}

#[async_trait::async_trait]
impl ChunkSource for Cache {
    fn tier(&self) -> Tier {
        Tier::Region
    }

    async fn fetch(
        &self,
        pack: PackName,
        range: std::ops::Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.inner.fetch(pack, range).await
    }

    async fn fetch_cached(
        &self,
        pack: PackName,
        range: std::ops::Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.guesses.fetch_add(1, Ordering::SeqCst);
        if !self.is_full.load(Ordering::SeqCst) {
            return Err(StoreError::NotFound(pack.key()));
        }
        self.inner.fetch(pack, range).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_goes_no_further_than_a_cache() {
    let bench = Bench::new(CHUNKS).await;
    let cache = Arc::new(Cache::before(bench.store()));
    let store = Arc::new(FaultStore::new(bench.store()));
    let origin = Arc::new(Origin::new(Arc::clone(&store) as _));
    let sources: Vec<Arc<dyn ChunkSource>> = vec![Arc::clone(&cache) as _, origin];
    let reader = Reader::new(Arc::clone(&bench.index), sources, ReaderOptions::default());
    let turns = &reader.shared.ahead_turns;
    let idle = turns.available_permits();
    let guess = async |number: u8| {
        reader.expect(vec![chunk(number).id()]);
        while turns.available_permits() < idle {
            tokio::task::yield_now().await;
        }
        cache.guesses.load(Ordering::SeqCst)
    };
    assert_eq!(guess(0).await, 1);
    assert_eq!(guess(0).await, 2, "it may have it by now");
    cache.is_full.store(true, Ordering::SeqCst);
    assert_eq!(guess(0).await, 3);
    assert_eq!(guess(0).await, 3, "it is here");
    assert_eq!(store.count(Operation::GetRange).requests, 0);
}

#[tokio::test]
async fn it_is_told_when_nothing_is_guessed() {
    let bench = Bench::new(CHUNKS).await;
    let off = bench.reader(NOT_AHEAD).guesses_after();
    assert_eq!(off, None, "switched off");
    let reader = bench.reader(ReaderOptions::default());
    assert_eq!(reader.guesses_after(), Some(0));
    let both = (reader.suspend_read_ahead(), reader.suspend_read_ahead());
    assert_eq!(reader.guesses_after(), None);
    drop(both.0);
    assert_eq!(reader.guesses_after(), None);
    drop(both.1);
    assert_eq!(reader.guesses_after(), Some(0));
    let cache = Cache::before(bench.store());
    let sources: Vec<Arc<dyn ChunkSource>> = vec![Arc::new(cache)];
    let reader = Reader::new(Arc::clone(&bench.index), sources, ReaderOptions::default());
    assert!(reader.guesses_after() > Some(0));
}
