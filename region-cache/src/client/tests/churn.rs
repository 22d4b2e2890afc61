//! Readers while members are killed, restarted, added and removed: the real server over HTTP.
//!
//! Each member has a runtime of its own. To kill it is to end that: its connections are reset in
//! the middle of answers, as by `kill -9`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::testing::{FaultStore, Operation, memory_store};
use nacre_blobstore::{
    BlobStore, Chunk, ChunkIndex, Clock, Origin, PackKind, PackName, PackWriter, Reader,
    ReaderOptions, SystemClock, WriterOptions,
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::client::place::{SPAN_BYTES, Spot};
use crate::client::{PATIENCE_MAX, RegionCache, RegionOptions};
use crate::{CacheOptions, MEMORY_BYTES_MIN, RegionServer, ServerOptions};

/// Members that come or go.
const EVENTS: usize = 50;
/// Reads between two of them.
const READS_BETWEEN: u64 = 300;
const READERS: usize = 6;
const CHUNKS: u64 = 320;
const CHUNK_BYTES: usize = 150_000;
const MEMBERS: usize = 3;
const MEMBERS_MAX: usize = 6;
const ORIGIN_LATENCY: Duration = Duration::from_millis(5);
const BLOCK_BYTES: u32 = 1 << 20;

/// Noise that depends on the number alone.
fn chunk(number: u64) -> Chunk {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    Chunk::of((0..CHUNK_BYTES).map(byte).collect::<Vec<u8>>().into())
}

/// A member that answers, or did.
struct Member {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Member {
    fn start(store: &Arc<dyn BlobStore>, address: SocketAddr) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = CacheOptions {
            memory_bytes: MEMORY_BYTES_MIN * 4,
            block_bytes: BLOCK_BYTES,
            ..CacheOptions::default()
        };
        let options = ServerOptions {
            cache: options,
            ..ServerOptions::default()
        };
        let store = Arc::clone(store);
        let (told, address_of) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let clock = Arc::new(SystemClock::new());
            let server = RegionServer::open(options, store, clock).unwrap();
            server
                .serve(listener, std::future::pending())
                .await
                .unwrap();
        });
        Self {
            address: address_of.recv().unwrap(),
            runtime: Some(runtime),
        }
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes the chunks, and returns their packs with the lengths of these.
async fn write(store: &Arc<dyn BlobStore>, index: &Arc<ChunkIndex>) -> BTreeMap<PackName, u64> {
    let writer = PackWriter::new(
        PackKind::Data,
        Arc::clone(store),
        Arc::clone(index),
        Handle::current(),
        WriterOptions::default(),
    );
    let mut stream = writer.stream();
    let written = tokio::task::spawn_blocking(move || {
        (0..CHUNKS).for_each(|number| stream.add_chunk(&chunk(number)).unwrap());
        stream.flush().unwrap();
        drop(stream);
        writer.finish().unwrap();
    });
    written.await.unwrap();
    let mut packs = BTreeMap::new();
    for pack in index.packs().unwrap() {
        packs.insert(pack, store.size(&pack.key()).await.unwrap());
    }
    packs
}

/// How the blocks of all packs are spread over `members`.
fn owners(region: &RegionCache, packs: &BTreeMap<PackName, u64>) -> BTreeMap<String, u64> {
    let mut owners = BTreeMap::new();
    for (pack, bytes) in packs {
        for start in (0..*bytes).step_by(usize::try_from(SPAN_BYTES).unwrap()) {
            let span: Range<u64> = start..(start + SPAN_BYTES).min(*bytes);
            let spot = Spot::of(&pack.key(), start);
            let first = region.fetcher.members.ranked(spot).remove(0);
            *owners.entry(first.name.to_string()).or_default() += span.end - span.start;
        }
    }
    owners
}

/// What all readers share.
struct Readers {
    reader: Reader,
    clock: SystemClock,
    reads: AtomicU64,
    over: AtomicBool,
    longest: Mutex<Duration>,
}

async fn read_on(readers: Arc<Readers>, mut at: u64) {
    let ids: Vec<_> = (0..CHUNKS).map(|number| chunk(number).id()).collect();
    while !readers.over.load(Ordering::Relaxed) {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = usize::try_from((at >> 33) % CHUNKS).unwrap();
        let began = readers.clock.elapsed();
        let read = readers
            .reader
            .chunk(ids[number])
            .await
            .expect("no read fails");
        assert_eq!(read.id(), ids[number]);
        let took = readers.clock.elapsed().saturating_sub(began);
        let mut longest = readers
            .longest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *longest = took.max(*longest);
        drop(longest);
        readers.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until the client asks every member that has a part of the packs: what comes next is
/// counted as if it did.
async fn until_back(region: &RegionCache, packs: &BTreeMap<PackName, u64>) {
    loop {
        let owners = owners(region, packs);
        let members = region.fetcher.members.list();
        let mut asked = members.iter().filter(|m| owners.contains_key(&*m.name));
        if asked.all(|member| member.breaker.is_closed()) {
            return;
        }
        SystemClock::new().sleep(Duration::from_millis(2)).await;
    }
}

async fn started(store: Arc<dyn BlobStore>, address: SocketAddr) -> Member {
    let started = tokio::task::spawn_blocking(move || Member::start(&store, address));
    started.await.unwrap()
}

async fn killed(mut member: Member) -> SocketAddr {
    let address = member.address;
    let killed = tokio::task::spawn_blocking(move || member.kill());
    killed.await.unwrap();
    address
}

/// Returns the bytes of the packs that a member is asked for first.
fn share(region: &RegionCache, packs: &BTreeMap<PackName, u64>, member: &Member) -> u64 {
    let owners = owners(region, packs);
    owners
        .get(&member.address.to_string())
        .copied()
        .unwrap_or(0)
}

fn list(members: &[Member]) -> BTreeSet<String> {
    let addresses = members.iter().map(|member| member.address.to_string());
    addresses.collect()
}

fn client(members: &BTreeSet<String>) -> Arc<RegionCache> {
    let options = RegionOptions {
        members: members.iter().map(|name| name.parse().unwrap()).collect(),
        token: None,
        authority: None,
        prefix: None,
        client: "churn".to_owned(),
        patience: PATIENCE_MAX,
        clock: Arc::new(SystemClock::new()),
        seed: 3,
    };
    Arc::new(RegionCache::new(options).unwrap())
}

impl Readers {
    fn of(region: &Arc<RegionCache>, index: Arc<ChunkIndex>, direct: &Arc<FaultStore>) -> Self {
        let sources = vec![
            Arc::clone(region) as _,
            Arc::new(Origin::new(Arc::clone(direct) as _)) as _,
        ];
        let options = ReaderOptions {
            // Nothing stays in memory: each read is one of the region.
            frame_cache_bytes: 1,
            ahead_cache_bytes: 1,
            read_ahead_percent: 0,
            ..ReaderOptions::default()
        };
        Self {
            reader: Reader::new(index, sources, options),
            clock: SystemClock::new(),
            reads: AtomicU64::new(0),
            over: AtomicBool::new(false),
            longest: Mutex::default(),
        }
    }

    fn report(&self, region: &RegionCache) {
        let reads = self.reads.load(Ordering::Relaxed);
        let longest = *self.longest.lock().unwrap();
        let stats = region.stats();
        println!("{EVENTS} events, {reads} reads, longest {longest:?}; {stats:?}");
    }
}

/// Numbers that look random and are always the same (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(12345);
        usize::try_from(self.0 >> 40).unwrap() % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_while_members_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let index = Arc::new(ChunkIndex::open(directory.path()).unwrap());
    let store = memory_store();
    let packs = write(&store, &index).await;
    let total: u64 = packs.values().sum();
    let origin = Arc::new(FaultStore::new(Arc::clone(&store)));
    origin.delay(ORIGIN_LATENCY);
    let direct = Arc::new(FaultStore::new(store));
    let for_members = Arc::clone(&origin) as Arc<dyn BlobStore>;
    let start = |address| started(Arc::clone(&for_members), address);
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(start(SocketAddr::from(([127, 0, 0, 1], 0))).await);
    }
    let region = client(&list(&members));
    let readers = Arc::new(Readers::of(&region, index, &direct));
    let seed = |n: usize| n as u64 + 1;
    let tasks: Vec<_> = (0..READERS)
        .map(|n| tokio::spawn(read_on(Arc::clone(&readers), seed(n))))
        .collect();
    let reads_on = async |count: u64| {
        let until = readers.reads.load(Ordering::Relaxed) + count;
        while readers.reads.load(Ordering::Relaxed) < until {
            assert!(
                !tasks.iter().any(|task| task.is_finished()),
                "a reader ended"
            );
            SystemClock::new().sleep(Duration::from_millis(2)).await;
        }
    };
    let (mut random, mut again) = (Random(17), 0);
    for _ in 0..EVENTS {
        reads_on(READS_BETWEEN).await;
        until_back(&region, &packs).await;
        let picked = random.below(members.len());
        let lost = share(&region, &packs, &members[picked]);
        match random.below(4) {
            0 if members.len() < MEMBERS_MAX => {
                members.push(start(SocketAddr::from(([127, 0, 0, 1], 0))).await);
                region.fetcher.members.replace(&list(&members));
                again += share(&region, &packs, &members[members.len() - 1]);
            }
            1 if members.len() > MEMBERS => {
                let gone = members.remove(picked);
                region.fetcher.members.replace(&list(&members));
                tokio::task::spawn_blocking(|| drop(gone)).await.unwrap();
                again += lost;
            }
            _ => {
                // Killed, and back with nothing: its share is read by others, and again by itself.
                let address = killed(members.swap_remove(picked)).await;
                reads_on(READS_BETWEEN / 2).await;
                members.push(start(address).await);
                again += 2 * lost;
            }
        }
    }
    reads_on(READS_BETWEEN).await;
    readers.over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    readers.report(&region);
    let fetched = origin.count(Operation::GetRange).bytes;
    let past = direct.count(Operation::GetRange).bytes;
    println!("{total} bytes in packs, {fetched} and {past} read, at most {again} of them again");
    // What members read in one go goes up to the end of a block.
    let blocks = u64::from(BLOCK_BYTES) * packs.len() as u64;
    assert!(fetched + past <= total + blocks + again);
    tokio::task::spawn_blocking(move || drop(members))
        .await
        .unwrap();
}
