//! Members that answer with wrong bytes, or with those of another pack: a reader sees neither.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nacre_blobstore::testing::{FaultStore, Operation, memory_store};
use nacre_blobstore::{
    BlobStore, Chunk, ChunkIndex, Key, Origin, PackKind, PackWriter, Reader, ReaderOptions, Record,
    RecordKind, SystemClock, WriterOptions,
};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::client::wire::{Answer, Ask, Had, Part, Wire, WireError};
use crate::client::{PATIENCE_MAX, RegionCache, RegionStore};

/// What is wrong with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    FlipsBits,
    /// Gives what another object has in that place.
    MixesUp,
}

/// Members that have what a store has.
#[derive(Debug)]
struct StoreWire {
    store: Arc<dyn BlobStore>,
    /// Of members whose name begins with `bad`.
    flaw: Flaw,
    reports: Mutex<Vec<(String, Key, Range<u64>)>>,
}

impl StoreWire {
    async fn read(&self, ask: &Ask, key: &Key) -> Option<Bytes> {
        match &ask.range {
            Some(range) => self.store.get_range(key, range.clone()).await.ok(),
            None => self
                .store
                .get(key, ask.limit_bytes)
                .await
                .ok()
                .map(|got| got.0),
        }
    }

    /// Returns what another object of the folder has in that place.
    async fn read_other(&self, ask: &Ask) -> Option<Bytes> {
        let folder = ask.key.as_str().rsplit_once('/')?.0;
        let mut objects = self.store.list(folder);
        while let Some(object) = futures::StreamExt::next(&mut objects).await {
            let key = object.ok()?.key;
            if key != ask.key
                && let Some(bytes) = self.read(ask, &key).await
            {
                return Some(bytes);
            }
        }
        None
    }
}

#[async_trait::async_trait]
impl Wire for StoreWire {
    async fn get(&self, member: &str, ask: &Ask) -> Result<Answer, WireError> {
        let flaw = if member.starts_with("bad") {
            self.flaw
        } else {
            Flaw::None
        };
        let bytes = match flaw {
            Flaw::MixesUp => self.read_other(ask).await,
            Flaw::None | Flaw::FlipsBits => self.read(ask, &ask.key).await,
        };
        let mut bytes = bytes.ok_or(WireError::Refused(404))?.to_vec();
        if flaw == Flaw::FlipsBits {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        let had = Had::Disk;
        Ok(Answer {
            bytes: bytes.into(),
            had,
            burst: false,
        })
    }

    async fn put(&self, _member: &str, _part: &Part) -> Result<(), WireError> {
        Ok(())
    }

    async fn report(&self, member: &str, key: &Key, range: Range<u64>) -> Result<(), WireError> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.push((member.to_owned(), key.clone(), range));
        Ok(())
    }
}

fn chunk(number: u8) -> Chunk {
    let noise = (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number);
    Chunk::of(noise.collect::<Vec<u8>>().into())
}

/// A store with packs, its region, and a reader that has nothing yet.
struct Scene {
    _directory: TempDir,
    origin: Arc<FaultStore>,
    wire: Arc<StoreWire>,
    region: Arc<RegionCache>,
    reader: Reader,
}

const CHUNKS: Range<u8> = 0..12;

impl Scene {
    async fn new(members: &[&str], flaw: Flaw) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(directory.path()).unwrap());
        let store = memory_store();
        // A pack for each chunk, so that there are others to be mixed up with.
        for number in CHUNKS {
            let writer = PackWriter::new(
                PackKind::Data,
                Arc::clone(&store),
                Arc::clone(&index),
                Handle::current(),
                WriterOptions::default(),
            );
            let mut stream = writer.stream();
            let written = tokio::task::spawn_blocking(move || {
                stream.add_chunk(&chunk(number)).unwrap();
                stream.flush().unwrap();
                drop(stream);
                writer.finish().unwrap();
            });
            written.await.unwrap();
        }
        let wire = Arc::new(StoreWire {
            store: Arc::clone(&store),
            flaw,
            reports: Mutex::default(),
        });
        let origin = Arc::new(FaultStore::new(store));
        let names: BTreeSet<String> = members.iter().map(|name| (*name).to_owned()).collect();
        let clock = Arc::new(SystemClock::new());
        let region = RegionCache::over(Arc::clone(&wire) as _, &names, clock, 1, PATIENCE_MAX);
        let region = Arc::new(region);
        let last = Origin::new(Arc::clone(&origin) as _);
        let sources = vec![Arc::clone(&region) as _, Arc::new(last) as _];
        let options = ReaderOptions {
            read_ahead_percent: 0,
            ..ReaderOptions::default()
        };
        Self {
            _directory: directory,
            reader: Reader::new(index, sources, options),
            origin,
            wire,
            region,
        }
    }

    fn reports(&self) -> Vec<(String, Key, Range<u64>)> {
        let reports = self.wire.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read_all(&self) {
        for number in CHUNKS {
            let expected = chunk(number);
            let read = self.reader.chunk(expected.id()).await.unwrap();
            assert_eq!(read.bytes(), expected.bytes());
        }
    }
}

#[tokio::test]
async fn a_wrong_byte_is_reported_and_comes_from_another_member() {
    for flaw in [Flaw::FlipsBits, Flaw::MixesUp] {
        let scene = Scene::new(&["bad:1", "good:1", "good:2"], flaw).await;
        scene.read_all().await;
        let reports = scene.reports();
        let corrupt = scene.reader.stats().region.corrupt;
        assert!(corrupt > 0, "the bad one was asked for something");
        assert_eq!(reports.len() as u64, corrupt);
        assert!(reports.iter().all(|(member, ..)| member == "bad:1"));
        assert_eq!(scene.region.stats().reported, corrupt);
        assert_eq!(
            scene.origin.requests(),
            0,
            "{flaw:?}: the region has them rightly"
        );
    }
}

#[tokio::test]
async fn where_all_members_are_wrong_the_origin_is_right() {
    let scene = Scene::new(&["bad:1", "bad:2"], Flaw::MixesUp).await;
    scene.read_all().await;
    let reads = scene.origin.count(Operation::GetRange).requests;
    assert_eq!(reads, u64::from(CHUNKS.end));
    assert_eq!(scene.reports().len(), 2 * usize::from(CHUNKS.end));
    let corrupt_origin = scene.reader.stats().origin.corrupt;
    assert_eq!(corrupt_origin, 0);
}

fn record(payload: u8) -> Record {
    Record {
        kind: RecordKind::Image,
        trees: Vec::new(),
        packs: BTreeSet::new(),
        metadata_images: std::collections::BTreeMap::new(),
        payload: vec![payload; 1000],
    }
}

#[tokio::test]
async fn whole_objects_are_checked_and_what_changes_is_left_to_the_origin() {
    for flaw in [Flaw::FlipsBits, Flaw::MixesUp] {
        let scene = Scene::new(&["bad:1", "good:1"], flaw).await;
        let origin = Arc::clone(&scene.origin) as Arc<dyn BlobStore>;
        let store = RegionStore::new(Arc::clone(&origin), Arc::clone(&scene.region));
        let mut ids = Vec::new();
        for payload in 0..20 {
            ids.push(record(payload).write(&store).await.unwrap());
        }
        assert_eq!(scene.region.stats().written, 20);
        scene.origin.reset_counts();
        for (payload, id) in (0..).zip(ids) {
            assert_eq!(Record::read(&store, id).await.unwrap(), record(payload));
        }
        assert_eq!(scene.origin.requests(), 0);
        assert!(!scene.reports().is_empty());
        let key = Key::new("refs/images/x").unwrap();
        store.create(&key, Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(store.get(&key, 9).await.unwrap().0, "1");
        assert!(scene.wire.store.get(&key, 9).await.is_ok());
        assert_eq!(scene.origin.count(Operation::Get).requests, 1);
        // What nobody has is not there.
        let (id, _) = record(99).encode();
        assert!(Record::read(&store, id).await.is_err());
    }
}
