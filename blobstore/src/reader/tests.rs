mod prefetch;

use std::time::Duration;

use tokio::runtime::Handle;

use super::*;
use crate::testing::{FaultStore, Operation, memory_store};
use crate::{
    Attributes, BlobStore, Entry, Node, Origin, PackKind, PackName, PackWriter, WriterOptions,
    load_packs, sync_index,
};

/// A store with one chunk of each number, frames small enough to have several.
struct Bench {
    _dir: tempfile::TempDir,
    faults: Arc<FaultStore>,
    index: Arc<ChunkIndex>,
}

fn chunk(number: u8) -> Chunk {
    Chunk::of(vec![number; 400_000].into())
}

impl Bench {
    async fn new(numbers: std::ops::Range<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(dir.path()).unwrap());
        let faults = FaultStore::new(memory_store());
        let bench = Self {
            _dir: dir,
            faults: Arc::new(faults),
            index,
        };
        let writer = bench.writer(PackKind::Data);
        let mut stream = writer.stream();
        let tree_writer = bench.writer(PackKind::Tree);
        let mut trees = tree_writer.stream();
        let (id, bytes) = tree().encode().unwrap();
        tokio::task::spawn_blocking(move || {
            numbers.for_each(|number| stream.add_chunk(&chunk(number)).unwrap());
            stream.flush().unwrap();
            drop(stream);
            writer.finish().unwrap();
            trees.add_metadata(ItemKind::Tree(id), &bytes).unwrap();
            let list = list();
            let kind = ItemKind::ChunkList(list.content());
            trees.add_metadata(kind, &list.encode().unwrap()).unwrap();
            trees.flush().unwrap();
            drop(trees);
            tree_writer.finish().unwrap();
        })
        .await
        .unwrap();
        bench.faults.reset_counts();
        bench
    }

    fn store(&self) -> Arc<dyn BlobStore> {
        Arc::clone(&self.faults) as _
    }

    fn writer(&self, kind: PackKind) -> PackWriter {
        let index = Arc::clone(&self.index);
        let options = WriterOptions {
            frame_bytes: 1 << 20,
            ..WriterOptions::default()
        };
        PackWriter::new(kind, self.store(), index, Handle::current(), options)
    }

    /// Stores the chunks of `numbers` once more, as a boot pack does, and makes that pack known.
    async fn copy(&self, numbers: std::ops::Range<u8>) -> PackName {
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(dir.path()).unwrap());
        let options = WriterOptions::default();
        let handle = Handle::current();
        let writer = PackWriter::new(
            PackKind::Data,
            self.store(),
            Arc::clone(&index),
            handle,
            options,
        );
        let mut stream = writer.stream();
        let written = tokio::task::spawn_blocking(move || {
            numbers.for_each(|number| stream.add_chunk(&chunk(number)).unwrap());
            stream.flush().unwrap();
            drop(stream);
            writer.finish().unwrap();
        });
        written.await.unwrap();
        let packs = index.packs().unwrap();
        load_packs(&self.store(), &self.index, &packs)
            .await
            .unwrap();
        *packs.first().unwrap()
    }

    /// Takes a pack from the store; returns what brings it back.
    async fn take(&self, name: PackName) -> Vec<(crate::Key, bytes::Bytes)> {
        let mut taken = Vec::new();
        for key in [name.index_key(), name.key()] {
            taken.push((
                key.clone(),
                self.store().get(&key, 1 << 30).await.unwrap().0,
            ));
            self.store().delete(&key).await.unwrap();
        }
        taken
    }

    fn reader(&self, options: ReaderOptions) -> Reader {
        let source = Arc::new(Origin::new(self.store()));
        Reader::new(Arc::clone(&self.index), vec![source], options)
    }
}

fn tree() -> Tree {
    let content = ContentId::new(Digest::of(b"file"));
    let node = Node::File {
        content,
        size_bytes: 4,
    };
    let name = (*b"file").into();
    Tree::new(vec![Entry {
        name,
        attributes: Attributes::default(),
        node,
        hard_link: None,
    }])
    .unwrap()
}

fn list() -> ChunkList {
    let mut whole = blake3::Hasher::new();
    let chunks: Vec<_> = (0..4).map(chunk).collect();
    for chunk in &chunks {
        whole.update(chunk.bytes());
    }
    let content = ContentId::new(Digest::from_bytes(*whole.finalize().as_bytes()));
    ChunkList::new(content, chunks.iter().map(|chunk| (chunk.id(), 400_000))).unwrap()
}

const UNCACHED: ReaderOptions = ReaderOptions {
    frame_cache_bytes: 0,
    ahead_cache_bytes: 0,
    tree_cache_bytes: 0,
    read_ahead_percent: 0,
    wait_max: READ_WAIT_MAX,
};

#[tokio::test(flavor = "multi_thread")]
async fn trees_and_lists_are_read_and_lists_of_another_length_refused() {
    let bench = Bench::new(0..4).await;
    let reader = bench.reader(UNCACHED);
    let (id, _) = tree().encode().unwrap();
    assert_eq!(*reader.tree(id).await.unwrap(), tree());
    let expected = list();
    let content = expected.content();
    assert_eq!(
        *reader.chunk_list(content, 1_600_000).await.unwrap(),
        expected
    );
    assert_eq!(reader.content_size(content).await.unwrap(), 1_600_000);
    let wrong = reader.chunk_list(content, 1_600_001).await;
    assert!(matches!(wrong, Err(ReadError::Corrupt { .. })));
    let single = ContentId::new(*chunk(1).id().digest());
    let extents = reader
        .chunk_list(single, 400_000)
        .await
        .unwrap()
        .extents()
        .to_vec();
    assert_eq!((extents.len(), extents[0].id), (1, chunk(1).id()));
    assert_eq!(reader.content_size(single).await.unwrap(), 400_000);
    let absent = reader.chunk(chunk(9).id()).await;
    assert!(matches!(absent, Err(ReadError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_and_lists_that_are_kept_are_read_without_a_store() {
    let bench = Bench::new(0..4).await;
    let folder = tempfile::tempdir().unwrap();
    let (id, _) = tree().encode().unwrap();
    let expected = list();
    let content = expected.content();
    for is_there in [true, false] {
        bench.faults.set_partitioned(!is_there);
        let kept = Arc::new(KeptItems::open(folder.path(), 1 << 20).unwrap());
        let reader = bench.reader(UNCACHED).keeping(kept);
        assert_eq!(*reader.tree(id).await.unwrap(), tree());
        assert_eq!(
            *reader.chunk_list(content, 1_600_000).await.unwrap(),
            expected
        );
        assert_eq!(reader.content_size(content).await.unwrap(), 1_600_000);
        let wrong = reader.chunk_list(content, 1_600_001).await;
        assert!(wrong.is_err(), "there is none of that length");
    }
    let reader = bench.reader(UNCACHED);
    assert!(reader.tree(id).await.is_err(), "the store is cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_frame_cost_one_fetch_and_one_more_when_it_fails() {
    let bench = Bench::new(0..2).await;
    let reader = Arc::new(bench.reader(UNCACHED));
    bench.faults.delay(Duration::from_millis(50));
    let all = |reader: Arc<Reader>| async move {
        let read = |n: u8| {
            let reader = Arc::clone(&reader);
            tokio::spawn(async move { reader.chunk(chunk(n % 2).id()).await })
        };
        let tasks: Vec<_> = (0..32).map(read).collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    };
    let results = all(Arc::clone(&reader)).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(bench.faults.count(Operation::GetRange).requests, 1);
    // The reader that began it is told. Those who came after the request was made have another.
    let is_told = |result: &Result<_, _>| matches!(result, Err(ReadError::Unavailable { .. }));
    bench.faults.fail_next_gets(1);
    let results = all(Arc::clone(&reader)).await;
    assert_eq!(results.iter().filter(|r| is_told(r)).count(), 1);
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 31);
    assert_eq!(bench.faults.count(Operation::GetRange).requests, 3);
    bench.faults.fail_next_gets(2);
    let results = all(Arc::clone(&reader)).await;
    assert!(results.iter().all(is_told));
    assert_eq!(bench.faults.count(Operation::GetRange).requests, 5);
    assert!(
        reader.chunk(chunk(0).id()).await.is_ok(),
        "a failure is not remembered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_one_tier_is_healed_by_the_next_and_never_served() {
    let bench = Bench::new(0..2).await;
    let near = Arc::new(FaultStore::new(bench.store()));
    let far = Arc::new(FaultStore::new(bench.store()));
    let tier = |store: &Arc<FaultStore>| Arc::new(Origin::new(Arc::clone(store) as _)) as _;
    let sources: Vec<Arc<dyn ChunkSource>> = vec![tier(&near), tier(&far)];
    let reader = Reader::new(Arc::clone(&bench.index), sources, UNCACHED);
    near.flip_bit_in_next_gets(1, 4321);
    assert_eq!(reader.chunk(chunk(1).id()).await.unwrap(), chunk(1));
    assert_eq!(reader.stats().origin.corrupt, 1);

    near.flip_bit_in_next_gets(1, 99);
    far.set_partitioned(true);
    let error = reader.chunk(chunk(1).id()).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { .. }),
        "damage outranks absence: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_frames_are_served_from_memory() {
    let bench = Bench::new(0..2).await;
    let reader = bench.reader(ReaderOptions::default());
    for _ in 0..3 {
        reader.chunk(chunk(0).id()).await.unwrap();
        reader.chunk(chunk(1).id()).await.unwrap();
    }
    assert_eq!(bench.faults.count(Operation::GetRange).requests, 1);
    assert_eq!(reader.stats().origin.reads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_learns_of_the_packs_and_forgets_those_that_are_gone() {
    let bench = Bench::new(0..2).await;
    let dir = tempfile::tempdir().unwrap();
    let other = ChunkIndex::open(dir.path()).unwrap();
    assert!(sync_index(&bench.store(), &other).await.unwrap().is_empty());
    assert_eq!(other.packs().unwrap(), bench.index.packs().unwrap());
    for name in other.packs().unwrap() {
        bench.store().delete(&name.index_key()).await.unwrap();
        bench.store().delete(&name.key()).await.unwrap();
    }
    sync_index(&bench.store(), &other).await.unwrap();
    assert_eq!(other.chunk(chunk(0).id()).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_a_collected_pack_is_read_from_another() {
    let bench = Bench::new(0..4).await;
    let copies = [bench.copy(0..2).await, bench.copy(0..1).await];
    let reader = bench.reader(UNCACHED);
    let pack_of = |number| {
        let at = bench.index.chunk(chunk(number).id()).unwrap().unwrap();
        bench.index.pack(at.pack).unwrap()
    };
    let image = pack_of(3);
    assert_eq!((pack_of(0), pack_of(1)), (copies[1], copies[0]));
    for copy in copies {
        bench.take(copy).await;
    }
    let read = async |number| reader.chunk(chunk(number).id()).await.unwrap();
    let (first, second) = tokio::join!(read(0), read(0));
    assert_eq!((first, second), (chunk(0), chunk(0)));
    assert_eq!(read(1).await, chunk(1));
    // Writers do not rely on what is gone any more.
    assert_eq!((pack_of(0), pack_of(1)), (image, image));
    assert!(!bench.index.contains(copies[0]).unwrap());
    let misses = bench.faults.count(Operation::GetRange).requests;
    read(0).await;
    assert_eq!(bench.faults.count(Operation::GetRange).requests, misses + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_comes_back_is_read_again() {
    let bench = Bench::new(0..4).await;
    let reader = bench.reader(UNCACHED);
    let at = bench.index.chunk(chunk(0).id()).unwrap().unwrap();
    let name = bench.index.pack(at.pack).unwrap();
    let taken = bench.take(name).await;
    for _ in 0..2 {
        let error = reader.chunk(chunk(0).id()).await.unwrap_err();
        assert!(error.is_of_missing_pack(), "{error}");
    }
    assert_eq!(bench.index.chunk(chunk(0).id()).unwrap(), None);
    for (key, bytes) in taken {
        bench.store().put(&key, bytes).await.unwrap();
    }
    assert_eq!(reader.chunk(chunk(0).id()).await.unwrap(), chunk(0));
    load_packs(&bench.store(), &bench.index, &[name].into())
        .await
        .unwrap();
    assert_eq!(bench.index.chunk(chunk(0).id()).unwrap(), Some(at));
}
