//! Random work on a small disk: bytes are always right, and the quota always holds.

use proptest::prelude::*;

use super::*;

const QUOTA_BYTES: u64 = 3 << 20;
/// What a file system may add to the one content that is being written.
const SLACK_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Op {
    Read(usize, u32, u32),
    Place(usize),
    Ahead(usize),
    Used(usize),
    Wait(u64),
    Prune(u64),
    Kill,
    PowerLoss,
    Close,
    Fill(usize),
    Free,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0_usize..20, any::<u32>(), 1_u32..400_000).prop_map(|(c, o, l)| Op::Read(c, o, l)),
        8 => (0_usize..20).prop_map(Op::Place),
        4 => (0_usize..20).prop_map(Op::Ahead),
        1 => (0_usize..20).prop_map(Op::Used),
        5 => (0_u64..30).prop_map(Op::Wait),
        1 => (0..QUOTA_BYTES).prop_map(Op::Prune),
        1 => Just(Op::Kill),
        1 => Just(Op::PowerLoss),
        1 => Just(Op::Close),
        1 => (0_usize..4 << 20).prop_map(Op::Fill),
        1 => Just(Op::Free),
    ]
}

struct System {
    disk: SmallDisk,
    reader: Arc<MemoryReader>,
    clock: Arc<TestClock>,
    cache: Option<NodeCache>,
    contents: Vec<(ContentId, Vec<u8>)>,
}

impl System {
    fn new() -> Self {
        let disk = SmallDisk::new(c"size=4m");
        let reader = Arc::<MemoryReader>::default();
        let lengths = (0..16)
            .map(|i| i * 20_000)
            .chain([1_100_000, 1_200_000, 1_300_000, 2_000_000]);
        let contents = (0..).zip(lengths).map(|(seed, len)| {
            let bytes = pseudo_random(len, seed);
            (reader.add_content(&bytes, CHUNK_BYTES), bytes)
        });
        let mut system = Self {
            contents: contents.collect(),
            disk,
            reader,
            clock: Arc::default(),
            cache: None,
        };
        system.start();
        system
    }

    fn start(&mut self) {
        self.cache = None;
        let folder = self.disk.path().join("cache");
        let cache = open_limited(&folder, &self.reader, &self.clock, QUOTA_BYTES);
        self.cache = Some(cache);
    }

    fn cache(&self) -> &NodeCache {
        self.cache.as_ref().unwrap()
    }

    async fn apply(&mut self, op: Op) {
        let folder = self.disk.path().join("cache");
        match op {
            Op::Read(number, offset, len) => {
                let (content, bytes) = &self.contents[number];
                let offset = offset as usize % (bytes.len() + 1);
                let end = bytes.len().min(offset + len as usize);
                let size = bytes.len() as u64;
                let read = self.cache().read(*content, size, offset as u64, len).await;
                assert_eq!(read.unwrap(), bytes[offset..end]);
            }
            Op::Place(number) => {
                let (content, bytes) = &self.contents[number];
                let placed = self.cache().place(*content, bytes.len() as u64).await;
                if placed.unwrap() == Placed::Local {
                    for layer in ["store", "arrivals"] {
                        assert_eq!(fs::read(file(&folder, layer, *content)).unwrap(), *bytes);
                    }
                }
            }
            Op::Ahead(number) => {
                let (content, bytes) = &self.contents[number];
                self.cache().tasks.reopen();
                let missing = self
                    .cache()
                    .missing(*content, bytes.len() as u64, 0..u64::MAX);
                for (number, id) in missing.await.unwrap() {
                    let chunk = ContentReader::chunk(&*self.reader, id).await;
                    // Nobody has the empty one.
                    if let Ok(chunk) = chunk {
                        self.cache().bring_ahead(*content, number, &chunk);
                    }
                }
            }
            Op::Used(number) => self.cache().used(self.contents[number].0),
            Op::Wait(seconds) => self.clock.advance(Duration::from_secs(seconds)),
            Op::Prune(bytes) => assert!(self.cache().prune(bytes).await.done),
            Op::Kill => self.start(),
            Op::PowerLoss => {
                self.cache = None;
                lose_power(&folder);
                self.start();
            }
            Op::Close => {
                self.cache().close().await.unwrap();
                self.start();
            }
            Op::Fill(bytes) => {
                // The disk may not take all of it.
                drop(fs::write(self.disk.path().join("ballast"), vec![1; bytes]));
            }
            Op::Free => drop(fs::remove_file(self.disk.path().join("ballast"))),
        }
        settle(self.cache()).await;
    }

    async fn check(&self) {
        let (usage, stats) = (self.cache().usage().await.unwrap(), self.cache().stats());
        let bytes = usage.content_bytes + usage.partial_bytes + usage.unverified_bytes;
        let contents = usage.contents + usage.partials + usage.unverified;
        assert_eq!((stats.bytes, stats.contents), (bytes, contents));
        assert!(bytes <= QUOTA_BYTES + SLACK_BYTES, "{stats:?}");
        assert_eq!(stats.failed_reads, 0);
    }

    /// Checks what overlayfs would see.
    fn check_layers(&self) {
        let folder = self.disk.path().join("cache");
        for (content, bytes) in &self.contents {
            for layer in ["store", "arrivals"] {
                match fs::read(file(&folder, layer, *content)) {
                    Ok(read) => assert_eq!(read, *bytes),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Needs root, to mount a small tmpfs.
    #[test]
    fn bytes_are_right_and_the_quota_holds(ops in proptest::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut system = System::new();
            for op in ops {
                system.apply(op).await;
                system.check().await;
            }
            system.check_layers();
        });
    }
}
