//! Power losses: of what was written since the last sync, any part may be missing.

use std::collections::HashMap;

use super::*;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// All files of a folder, by path.
type Files = HashMap<PathBuf, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                files.insert(path, bytes);
            }
        }
    }
    files
}

/// Makes of the files as they are now what a disk may hold that was synced when they were
/// `synced`: names come and go, bytes are missing at the end or in the middle.
fn tear(folder: &Path, synced: &Files, random: &mut Random) {
    let now = files(folder);
    for (path, bytes) in &now {
        if synced.get(path) == Some(bytes) {
            continue;
        }
        // Two names of one file must not be torn alike.
        fs::remove_file(path).unwrap();
        let mut torn = bytes.clone();
        match random.below(5) {
            0 => match synced.get(path) {
                Some(old) => torn.clone_from(old),
                None => continue,
            },
            1 => torn.truncate(random.below(bytes.len() + 1)),
            2 => torn.fill(0),
            3 => {
                for block in torn.chunks_mut(4096) {
                    if random.below(3) == 0 {
                        block.fill(0);
                    }
                }
            }
            _ => {}
        }
        fs::write(path, torn).unwrap();
    }
    for (path, bytes) in synced {
        // What was deleted or renamed may be back.
        if !now.contains_key(path) && random.below(2) == 0 {
            fs::write(path, bytes).unwrap();
        }
    }
}

struct Work {
    reader: Arc<MemoryReader>,
    clock: Arc<TestClock>,
    contents: Vec<(ContentId, Vec<u8>)>,
    random: Random,
}

impl Work {
    fn new(seed: u64) -> Self {
        let reader = Arc::<MemoryReader>::default();
        let lengths = (0..12).map(|i| i * 9_000).chain([1_100_000, 1_300_000]);
        let contents = (0..).zip(lengths).map(|(seed, len)| {
            let bytes = pseudo_random(len, seed);
            (reader.add_content(&bytes, CHUNK_BYTES), bytes)
        });
        Self {
            contents: contents.collect(),
            reader,
            clock: Arc::default(),
            random: Random(seed),
        }
    }

    fn open(&self, folder: &Path) -> NodeCache {
        open_limited(folder, &self.reader, &self.clock, 2 << 20)
    }

    /// Reads and places at random, and evicts what becomes too much.
    async fn some(&mut self, cache: &NodeCache, steps: usize) {
        for _ in 0..steps {
            let (content, bytes) = &self.contents[self.random.below(self.contents.len())];
            let size = bytes.len() as u64;
            cache.tasks.reopen();
            for (number, id) in cache.missing(*content, size, 0..size).await.unwrap() {
                if self.random.below(3) == 0 {
                    let chunk = ContentReader::chunk(&*self.reader, id).await;
                    // Nobody has the empty one.
                    if let Ok(chunk) = chunk {
                        cache.bring_ahead(*content, number, &chunk);
                    }
                }
            }
            if self.random.below(2) == 0 {
                cache.place(*content, size).await.unwrap();
            }
            let offset = self.random.below(bytes.len() + 1);
            let read = cache.read(*content, size, offset as u64, 200_000).await;
            let end = bytes.len().min(offset + 200_000);
            assert_eq!(read.unwrap(), bytes[offset..end]);
            self.clock.advance(Duration::from_secs(7));
        }
        settle(cache).await;
    }

    /// Checks every byte that the cache or overlayfs gives.
    async fn all(&self, cache: &NodeCache, folder: &Path) {
        for (content, bytes) in &self.contents {
            let size = bytes.len() as u64;
            cache.place(*content, size).await.unwrap();
            for offset in (0..bytes.len()).step_by(100_000) {
                let read = cache.read(*content, size, offset as u64, 100_000).await;
                let end = bytes.len().min(offset + 100_000);
                assert_eq!(read.unwrap(), bytes[offset..end]);
            }
            settle(cache).await;
            for layer in ["store", "arrivals"] {
                if let Ok(placed) = fs::read(file(folder, layer, *content)) {
                    assert_eq!(placed, *bytes);
                }
            }
            self.clock.advance(Duration::from_secs(11));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_loss_leaves_no_wrong_byte_is_served() {
    let mut torn_contents = 0;
    for seed in 0..24 {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut work = Work::new(seed);
        let mut cache = work.open(folder);
        work.some(&cache, 10).await;
        if seed % 2 == 0 {
            // Synced as a whole and marked clean, which must not outlive what comes after.
            cache.close().await.unwrap();
            drop(cache);
            cache = work.open(folder);
        }
        let synced = files(folder);
        work.some(&cache, 20).await;
        drop(cache);
        tear(folder, &synced, &mut work.random);
        lose_power(folder);
        torn_contents += wrong(folder, &work.contents);
        let cache = work.open(folder);
        for layer in ["store", "arrivals"] {
            assert!(files(&folder.join(layer)).is_empty(), "seed {seed}");
        }
        work.all(&cache, folder).await;
        // And once more: what was checked is trusted by the next process.
        drop(cache);
        work.all(&work.open(folder), folder).await;
    }
    assert!(torn_contents > 50, "the simulation tears files");
}

/// Counts names of contents whose bytes are not right.
fn wrong(folder: &Path, contents: &[(ContentId, Vec<u8>)]) -> usize {
    let paths = contents.iter().flat_map(|(content, bytes)| {
        ["store", "arrivals"].map(|layer| (file(folder, layer, *content), bytes))
    });
    paths
        .filter(|(path, bytes)| fs::read(path).is_ok_and(|read| read != **bytes))
        .count()
}

#[tokio::test]
async fn a_kill_on_the_same_boot_moves_nothing_and_believes_no_partial_content() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let work = Work::new(1);
    let cache = work.open(folder);
    let (small, large) = (work.contents[3].clone(), work.contents[13].clone());
    cache.place(small.0, small.1.len() as u64).await.unwrap();
    let size = large.1.len() as u64;
    cache.read(large.0, size, 0, 300_000).await.unwrap();
    settle(&cache).await;
    drop(cache);
    // Half of a chunk, as a process leaves it that is killed inside of pwrite(2).
    let partial = file(folder, "partial", large.0);
    let partial = fs::File::options().write(true).open(partial);
    partial.unwrap().write_all_at(&[0; 100], 50_000).unwrap();
    fs::write(folder.join("incoming").join(small.0.to_string()), b"half").unwrap();
    let fetched = work.reader.chunk_reads();
    let cache = work.open(folder);
    assert_eq!(fs::read(file(folder, "store", small.0)).unwrap(), small.1);
    let read = cache.read(small.0, small.1.len() as u64, 0, 10).await;
    assert_eq!(read.unwrap(), small.1[..10]);
    assert_eq!(work.reader.chunk_reads(), fetched);
    let read = cache.read(large.0, size, 0, 200_000).await;
    assert_eq!(read.unwrap(), large.1[..200_000]);
    settle(&cache).await;
    assert_eq!(work.reader.chunk_reads(), fetched + 1, "the damaged chunk");
    assert_eq!(fs::read_dir(folder.join("incoming")).unwrap().count(), 0);
}
