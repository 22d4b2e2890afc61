use std::time::Duration;

use super::*;
use crate::frame;
use crate::pack::{Item, ItemKind, PackBuilder};
use crate::testing::{Fault, FaultKind, FaultStore, Operation, TokioClock, memory_store};
use crate::{
    Chunk, ChunkId, Clock as _, Origin, ReadError, Reader, ReaderOptions, RetryPolicy, RetryStore,
    TreeId,
};

/// A store of data packs with one chunk each, and a tree pack with one tree.
struct Bench {
    dir: tempfile::TempDir,
    faults: Arc<FaultStore>,
    data: Vec<PackName>,
    trees: PackName,
}

fn chunk(number: usize) -> Chunk {
    Chunk::of(format!("chunk {number}").into_bytes().into())
}

fn an_absent_tree() -> TreeId {
    TreeId::new(crate::Digest::of(b"nowhere"))
}

async fn put(store: &dyn BlobStore, kind: ItemKind, bytes: &[u8]) -> PackName {
    let mut pack = PackBuilder::new(kind.pack_kind());
    let hash = crate::Digest::of(bytes);
    let len_bytes = u32::try_from(bytes.len()).unwrap();
    let stored = frame::compress(bytes).unwrap();
    pack.push_frame(&stored, &[(Item { kind, hash }, len_bytes)]);
    let pack = pack.finish();
    let index = pack.index.encode().1;
    store
        .put(&pack.name.key(), pack.bytes.into())
        .await
        .unwrap();
    store
        .put(&pack.name.index_key(), index.into())
        .await
        .unwrap();
    pack.name
}

impl Bench {
    async fn new(packs: usize) -> Self {
        let store = memory_store();
        let mut data = Vec::new();
        for number in 0..packs {
            let chunk = chunk(number);
            data.push(put(&*store, ItemKind::Chunk(chunk.id()), chunk.bytes()).await);
        }
        let tree = ItemKind::Tree(TreeId::new(crate::Digest::of(b"tree")));
        let trees = put(&*store, tree, b"tree").await;
        Self {
            dir: tempfile::tempdir().unwrap(),
            faults: Arc::new(FaultStore::new(store)),
            data,
            trees,
        }
    }

    fn start(&self) -> Node {
        self.start_on(Arc::clone(&self.faults) as _)
    }

    fn start_on(&self, store: Arc<dyn BlobStore>) -> Node {
        self.start_waiting(store, crate::READ_WAIT_MAX)
    }

    fn start_waiting(&self, store: Arc<dyn BlobStore>, wait_max: Duration) -> Node {
        let index = Arc::new(ChunkIndex::open(self.dir.path()).unwrap());
        let loader = PackLoader::new(Arc::clone(&store), index, wait_max).unwrap();
        let loader = Arc::new(loader);
        let sources = vec![Arc::new(Origin::new(store)) as _];
        let options = ReaderOptions {
            wait_max,
            ..ReaderOptions::default()
        };
        let reader = Reader::with_loader(Arc::clone(&loader), sources, options);
        Node {
            loader,
            reader: Arc::new(reader),
        }
    }

    fn all(&self) -> BTreeSet<PackName> {
        self.data.iter().copied().chain([self.trees]).collect()
    }

    fn hang(&self, pack: PackName) {
        let fault = Fault::new(FaultKind::Delay(Duration::from_secs(3600)));
        self.faults.inject(fault.below(pack.index_key().as_str()));
    }

    fn fail(&self, pack: PackName, times: u64) {
        let fault = Fault::new(FaultKind::FailBefore).times(times);
        self.faults.inject(fault.below(pack.index_key().as_str()));
    }
}

struct Node {
    loader: Arc<PackLoader>,
    reader: Arc<Reader>,
}

impl Node {
    async fn read(&self, number: usize) -> Result<Chunk, ReadError> {
        self.reader.chunk(chunk(number).id()).await
    }

    fn spawn_read(&self, id: ChunkId) -> tokio::task::JoinHandle<Result<Chunk, ReadError>> {
        let reader = Arc::clone(&self.reader);
        tokio::spawn(async move { reader.chunk(id).await })
    }
}

/// Whether a task stays unfinished though all that can happen has happened.
async fn is_stuck<T>(task: &tokio::task::JoinHandle<T>) -> bool {
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    !task.is_finished()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_the_pack_that_holds_it_and_for_no_other() {
    let bench = Bench::new(3).await;
    for pack in bench.all() {
        bench.hang(pack);
    }
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    assert_eq!(node.loader.awaited(), 4, "answered though nothing has come");
    let waiting = node.spawn_read(chunk(1).id());
    assert!(is_stuck(&waiting).await);

    node.loader.stop().await;
    let stopped = waiting.await.unwrap().unwrap_err();
    assert!(matches!(stopped, ReadError::Catalog { .. }), "{stopped}");

    // Another process, and only one pack hangs.
    drop(node);
    bench.faults.heal();
    bench.hang(bench.data[2]);
    let node = bench.start();
    assert_eq!(node.read(0).await.unwrap(), chunk(0));
    assert_eq!(node.read(1).await.unwrap(), chunk(1));
    // No tree pack is awaited by now, so what no pack has is known to be nowhere.
    node.loader.settled(&BTreeSet::from([bench.trees])).await;
    let absent = node.reader.tree(an_absent_tree()).await.unwrap_err();
    assert!(matches!(absent, ReadError::NotFound(_)), "{absent}");
    let absent = node.spawn_read(chunk(9).id());
    assert!(is_stuck(&absent).await, "the pack that hangs may hold it");
    absent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_cut_off_is_done_by_the_next_process() {
    let bench = Bench::new(2).await;
    let (whole, cut) = (bench.data[0], bench.data[1]);
    bench.hang(cut);
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    let loaded = BTreeSet::from([whole, bench.trees]);
    node.loader.settled(&loaded).await;
    assert_eq!(node.loader.index().packs().unwrap(), loaded);
    assert_eq!(
        node.loader.index().awaited_packs().unwrap(),
        BTreeSet::from([cut])
    );
    drop(node);
    bench.faults.heal();
    // The tasks of the one before hold the index for another moment.
    let node = loop {
        if let Ok(index) = ChunkIndex::open(bench.dir.path()) {
            drop(index);
            break bench.start();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        node.read(1).await.unwrap(),
        chunk(1),
        "nobody expected it anew"
    );
    node.loader.settled(&bench.all()).await;
    assert_eq!(node.loader.index().packs().unwrap(), bench.all());
    assert!(node.loader.index().awaited_packs().unwrap().is_empty());
    assert_eq!(node.loader.awaited(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_expect_a_pack_share_its_load() {
    let bench = Bench::new(4).await;
    bench.faults.delay(Duration::from_millis(20));
    let node = bench.start();
    let all = bench.all();
    let expecting = (0..50).map(|_| node.loader.expect(&all));
    for expected in futures::future::join_all(expecting).await {
        expected.unwrap();
    }
    let reads = (0..100).map(|number| node.spawn_read(chunk(number % 4).id()));
    for read in futures::future::join_all(reads).await {
        read.unwrap().unwrap();
    }
    node.loader.settled(&all).await;
    node.loader.expect(&all).await.unwrap();
    assert_eq!(bench.faults.count(Operation::Get).requests, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_failed_is_tried_again_by_who_waits() {
    let bench = Bench::new(2).await;
    bench.fail(bench.data[1], 1);
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    node.loader.settled(&bench.all()).await;
    assert_eq!(node.loader.awaited(), 1);
    assert_eq!(node.read(1).await.unwrap(), chunk(1));
    assert_eq!(node.loader.awaited(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_began_before_a_load_failed_has_a_load_of_its_own() {
    let bench = Bench::new(1).await;
    let slow = Fault::new(FaultKind::Delay(Duration::from_millis(100)));
    bench.faults.inject(slow.on(&[Operation::Get]).times(1));
    bench.fail(bench.data[0], 1);
    let node = bench.start();
    node.loader
        .expect(&BTreeSet::from([bench.data[0]]))
        .await
        .unwrap();
    assert_eq!(node.read(0).await.unwrap(), chunk(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_fails_its_own_reads_and_no_others() {
    let bench = Bench::new(2).await;
    bench.fail(bench.data[1], u64::MAX);
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    for _ in 0..2 {
        let error = node.read(1).await.unwrap_err();
        assert!(matches!(error, ReadError::Catalog { .. }), "{error}");
        assert!(error.to_string().contains("injected"), "{error}");
    }
    assert_eq!(node.read(0).await.unwrap(), chunk(0));
    let absent = node.reader.tree(an_absent_tree()).await.unwrap_err();
    assert!(matches!(absent, ReadError::NotFound(_)), "{absent}");
    bench.faults.heal();
    assert_eq!(node.read(1).await.unwrap(), chunk(1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_ends_waits_with_its_deadline() {
    let bench = Bench::new(1).await;
    let deadline = Duration::from_secs(30);
    let clock: Arc<dyn crate::Clock> = Arc::new(TokioClock::new());
    let policy = RetryPolicy {
        deadline,
        ..RetryPolicy::default()
    };
    bench.hang(bench.data[0]);
    let store = RetryStore::new(
        Arc::clone(&bench.faults) as _,
        Arc::clone(&clock),
        policy,
        1,
    );
    let node = bench.start_on(Arc::new(store));
    node.loader.expect(&bench.all()).await.unwrap();
    let began = clock.elapsed();
    let (first, second) = tokio::join!(node.read(0), node.read(0));
    for read in [first, second] {
        let error = read.unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
    }
    let waited = clock.elapsed().saturating_sub(began);
    assert!(
        waited >= deadline && waited <= 2 * deadline + Duration::from_secs(1),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn inserts_are_put_off_while_something_is_more_urgent_and_not_for_ever() {
    let clock = TokioClock::new();
    let wait = async |urgent_for: Option<Duration>| {
        let bench = Bench::new(1).await;
        let node = bench.start();
        let urgent = node.loader.put_off_inserts();
        node.loader.expect(&bench.all()).await.unwrap();
        let began = clock.elapsed();
        let done = async {
            tokio::time::sleep(urgent_for.unwrap_or(Duration::from_secs(60))).await;
            drop(urgent);
        };
        let read = async {
            assert_eq!(node.read(0).await.unwrap(), chunk(0));
            clock.elapsed().saturating_sub(began)
        };
        tokio::join!(done, read).1
    };
    let soon = Duration::from_millis(20);
    let waited = wait(Some(soon)).await;
    assert!(waited >= soon && waited < PUT_OFF_MAX, "{waited:?}");
    let waited = wait(None).await;
    assert!(
        waited >= PUT_OFF_MAX && waited < 2 * PUT_OFF_MAX,
        "{waited:?}"
    );
}

/// Whatever it waits for: an index, or a frame.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_no_longer_than_it_may_and_the_next_finds_what_is_back() {
    let bench = Bench::new(2).await;
    let wait_max = Duration::from_secs(2);
    let clock: Arc<dyn crate::Clock> = Arc::new(TokioClock::new());
    let node = bench.start_waiting(Arc::clone(&bench.faults) as _, wait_max);
    let hang = |keys: [String; 2]| {
        for key in keys {
            let fault = Fault::new(FaultKind::Delay(Duration::from_secs(3600)));
            bench.faults.inject(fault.below(&key));
        }
    };
    let both = [bench.data[0], bench.data[1]];
    hang(both.map(|pack| pack.index_key().to_string()));
    node.loader.expect(&bench.all()).await.unwrap();
    for keys in [None, Some(both.map(|pack| pack.key().to_string()))] {
        if let Some(keys) = keys {
            hang(keys);
        }
        let began = clock.elapsed();
        for error in [node.read(0).await, node.read(0).await] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(" 2 s"), "{error}");
        }
        let waited = clock.elapsed().saturating_sub(began);
        let most = 2 * wait_max + Duration::from_secs(1);
        assert!(waited >= wait_max && waited < most, "{waited:?}");
        bench.faults.heal();
        let number = if node.loader.awaited() > 0 { 1 } else { 0 };
        assert_eq!(node.read(number).await.unwrap(), chunk(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_keep_coming_do_not_keep_others_from_their_error() {
    let mut awaited = Awaited::default();
    let pack = Bench::new(1).await.data[0];
    assert_eq!(awaited.begin([pack]).len(), 1);
    assert!(awaited.begin([pack]).is_empty());
    let first = awaited.tick();
    awaited.land(pack, first - 2, Err(CatalogError::Full));
    let (outlook, again) = awaited.outlook(&[PackKind::Data], first);
    assert!(matches!(outlook, Outlook::Loading));
    let began = again[0].1;
    awaited.land(pack, began, Err(CatalogError::Full));
    // Before the first looks, another one starts a further load.
    let second = awaited.tick();
    let (outlook, again) = awaited.outlook(&[PackKind::Data], second);
    assert!(matches!(outlook, Outlook::Loading) && again.len() == 1);
    let (outlook, again) = awaited.outlook(&[PackKind::Data], first);
    assert!(matches!(outlook, Outlook::Failed(_)) && again.is_empty());
    let (outlook, _) = awaited.outlook(&[PackKind::Tree], first);
    assert!(
        matches!(outlook, Outlook::Known),
        "no tree is in a data pack"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_is_not_asked_for_by_the_next_process() {
    let bench = Bench::new(1).await;
    let gone = bench.data[0];
    for key in [gone.key(), gone.index_key()] {
        bench.faults.delete(&key).await.unwrap();
    }
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    let error = node.read(0).await.unwrap_err();
    assert!(matches!(error, ReadError::Catalog { .. }), "{error}");
    node.loader.settled(&bench.all()).await;
    assert!(node.loader.index().awaited_packs().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn awaited_packs_are_bounded() {
    let bench = Bench::new(1).await;
    let node = bench.start();
    let name = |number: usize| PackName {
        kind: PackKind::Data,
        id: crate::PackId::new(crate::Digest::of(&number.to_le_bytes())),
    };
    let many = (0..=AWAITED_PACKS_MAX).map(name).collect();
    let error = node.loader.expect(&many).await.unwrap_err();
    assert!(matches!(error, CatalogError::Full), "{error}");
    assert_eq!(node.loader.awaited(), 0);
    assert!(node.loader.index().awaited_packs().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_waits_for_what_it_is_to_fetch() {
    use futures::StreamExt;
    let bench = Bench::new(3).await;
    bench
        .faults
        .inject(Fault::new(FaultKind::Delay(Duration::from_millis(50))).on(&[Operation::Get]));
    bench.fail(bench.data[2], u64::MAX);
    let node = bench.start();
    node.loader.expect(&bench.all()).await.unwrap();
    let items = (0..3)
        .map(|number| ItemKind::Chunk(chunk(number).id()))
        .collect();
    let groups: Vec<_> = node.reader.prefetch(items).collect().await;
    let items: BTreeSet<_> = groups
        .iter()
        .flat_map(|group| group.items())
        .copied()
        .collect();
    let wanted = (0..2)
        .map(|number| ItemKind::Chunk(chunk(number).id()))
        .collect();
    assert_eq!(items, wanted, "without what cannot be had");
}
