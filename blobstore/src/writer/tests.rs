use super::*;
use crate::testing::{FaultStore, memory_store};
use crate::{Chunk, Digest, PackId, PackIndex, PackName};
use crate::{Origin, Reader, ReaderOptions};

struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<dyn BlobStore>,
    index: Arc<ChunkIndex>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(dir.path()).unwrap());
        Self {
            _dir: dir,
            store: memory_store(),
            index,
        }
    }

    fn writer(&self, kind: PackKind) -> PackWriter {
        let (store, index) = (Arc::clone(&self.store), Arc::clone(&self.index));
        let options = WriterOptions {
            threads: 2,
            ..WriterOptions::default()
        };
        PackWriter::new(kind, store, index, Handle::current(), options)
    }
}

fn chunk(number: u32, len: usize) -> Chunk {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    Chunk::of(bytes.into())
}

async fn finish(writer: PackWriter) -> Result<WriteStats, WriteError> {
    tokio::task::spawn_blocking(|| writer.finish())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_is_stored_once_and_read_back() {
    let bench = Bench::new();
    let writer = bench.writer(PackKind::Data);
    let streams: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = writer.stream();
            std::thread::spawn(move || {
                for number in 0..200 {
                    stream.add_chunk(&chunk(number, 300_000)).unwrap();
                }
                stream.flush().unwrap();
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| streams.into_iter().for_each(|s| s.join().unwrap()))
        .await
        .unwrap();
    let stats = finish(writer).await.unwrap();
    assert_eq!((stats.chunks_new, stats.chunks_known), (200, 200));
    assert_eq!(stats.bytes_new_plain, 200 * 300_000);
    assert_eq!(stats.packs, 2);

    let again = bench.writer(PackKind::Data);
    let mut stream = again.stream();
    stream.add_chunk(&chunk(7, 300_000)).unwrap();
    stream.flush().unwrap();
    drop(stream);
    let stats = finish(again).await.unwrap();
    assert_eq!(
        (stats.chunks_new, stats.chunks_known, stats.bytes_stored),
        (0, 1, 0)
    );

    let source = Arc::new(Origin::new(Arc::clone(&bench.store)));
    let reader = Reader::new(
        Arc::clone(&bench.index),
        vec![source],
        ReaderOptions::default(),
    );
    for number in 0..200 {
        let expected = chunk(number, 300_000);
        assert_eq!(reader.chunk(expected.id()).await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_stored_again_once_and_found_where_they_were_stored_last() {
    let bench = Bench::new();
    let write = async |numbers: std::ops::Range<u32>, copies| {
        let (store, index) = (Arc::clone(&bench.store), Arc::clone(&bench.index));
        let options = WriterOptions {
            copies,
            ..WriterOptions::default()
        };
        let writer = PackWriter::new(PackKind::Data, store, index, Handle::current(), options);
        let mut stream = writer.stream();
        for number in numbers.clone().chain(numbers) {
            stream.add_chunk(&chunk(number, 300_000)).unwrap();
        }
        stream.flush().unwrap();
        drop(stream);
        finish(writer).await.unwrap()
    };
    let items = || (0..4).map(|number| ItemKind::Chunk(chunk(number, 300_000).id()));
    write(0..2, false).await;
    write(2..4, false).await;
    let (before, _) = bench.index.packs_of(items()).unwrap();
    let stats = write(0..4, true).await;
    let (after, missing) = bench.index.packs_of(items()).unwrap();
    assert_eq!((before.len(), after.len(), missing.len()), (2, 1, 0));
    assert!(before.is_disjoint(&after));
    assert_eq!((stats.chunks_new, stats.packs), (4, 1));
    let pack = *after.first().unwrap();
    let has = |frames| bench.index.has_frames(pack, frames).unwrap();
    assert!(has(0) && has(4) && !has(5));
    let unknown = PackName {
        id: PackId::new(Digest::of(b"unknown")),
        ..pack
    };
    assert!(!bench.index.has_frames(unknown, 1).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_is_reported_and_leaves_nothing_in_the_index() {
    let bench = Bench::new();
    let faults = Arc::new(FaultStore::new(Arc::clone(&bench.store)));
    let writer = PackWriter::new(
        PackKind::Data,
        Arc::clone(&faults) as Arc<dyn BlobStore>,
        Arc::clone(&bench.index),
        Handle::current(),
        WriterOptions::default(),
    );
    faults.fail_next_puts_before(1);
    let mut stream = writer.stream();
    stream.add_chunk(&chunk(1, 1000)).unwrap();
    stream.flush().unwrap();
    drop(stream);
    assert!(matches!(finish(writer).await, Err(WriteError::Store(_))));
    assert!(bench.index.packs().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_has_its_frames_by_affinity() {
    let bench = Bench::new();
    let store = Arc::clone(&bench.store);
    let writer = bench.writer(PackKind::Data);
    let write = move || {
        let mut stream = writer.stream();
        for number in 0..20 {
            stream.turn_to(Affinity(u8::from(number % 2 == 0)));
            stream.add_chunk(&chunk(number, 10_000)).unwrap();
        }
        stream.flush().unwrap();
        drop(stream);
        writer.finish().unwrap();
    };
    tokio::task::spawn_blocking(write).await.unwrap();
    let name = bench.index.packs().unwrap().into_iter().next().unwrap();
    let (bytes, _) = store.get(&name.index_key(), 1 << 20).await.unwrap();
    let index = PackIndex::decode(name, &bytes).unwrap();
    let stored: Vec<_> = index.items().map(|(_, _, item)| item.hash).collect();
    let odd_first = (0..20)
        .filter(|n| n % 2 == 1)
        .chain((0..20).filter(|n| n % 2 == 0));
    let expected: Vec<_> = odd_first.map(|n| *chunk(n, 10_000).id().digest()).collect();
    assert_eq!(stored, expected);
}
