//! How much space a snapshot's own files take.
//!
//! containerd asks for every active snapshot every ten seconds. So an answer looks at no more than
//! [`LOOK_ENTRIES_MAX`] entries: a directory with fewer is measured exactly, a larger one answers
//! with what it had when it was last walked in the background, and is walked again at most
//! every [`REST_MIN`], or fifty times as long as the last walk took.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::Clock;
use tokio::sync::Semaphore;

use super::record::Usage;

/// Entries that an answer looks at at most.
const LOOK_ENTRIES_MAX: usize = 256;
/// Least time between two walks of one directory.
const REST_MIN: Duration = Duration::from_secs(30);
/// How many times as long as a walk took until the next.
const REST_FACTOR: u32 = 50;
/// Bytes of a block of `st_blocks`, whatever the file system's are (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// Directories below each other that are entered at most.
const DEPTH_MAX: usize = 4096;

/// What was measured of one directory.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// `None` until the first walk is over.
    usage: Option<Usage>,
    /// When it may be walked again.
    again: Duration,
    /// A walk is under way.
    walking: bool,
}

/// Measures directories of active snapshots.
#[derive(Debug)]
pub(super) struct Gauge {
    clock: Arc<dyn Clock>,
    measured: Mutex<HashMap<u64, Measured>>,
    /// One walk at a time: it is for an estimate.
    walks: Semaphore,
}

impl Gauge {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            measured: Mutex::default(),
            walks: Semaphore::new(1),
        }
    }

    /// Returns what the directory `files` of snapshot `number` holds, or held not long ago.
    pub(super) async fn usage(self: &Arc<Self>, number: u64, files: PathBuf) -> io::Result<Usage> {
        let path = files.clone();
        let looked = blocking(move || walk(&path, LOOK_ENTRIES_MAX)).await?;
        if let Looked::All(usage) = looked {
            self.lock().remove(&number);
            return Ok(usage);
        }
        let now = self.clock.elapsed();
        let known = {
            let mut measured = self.lock();
            let entry = measured.entry(number).or_insert(Measured {
                usage: None,
                again: Duration::ZERO,
                walking: false,
            });
            let is_due = !entry.walking && entry.again <= now;
            entry.walking |= is_due;
            (entry.usage, is_due)
        };
        match known {
            // The first answer is worth a walk.
            (None, _) => self.measure(number, files).await,
            (Some(usage), true) => {
                let gauge = Arc::clone(self);
                drop(tokio::spawn(async move {
                    if let Err(error) = gauge.measure(number, files).await {
                        tracing::debug!(number, %error, "measure a snapshot");
                    }
                }));
                Ok(usage)
            }
            (Some(usage), false) => Ok(usage),
        }
    }

    async fn measure(&self, number: u64, files: PathBuf) -> io::Result<Usage> {
        let turn = self.walks.acquire().await;
        let began = self.clock.elapsed();
        let walked = blocking(move || walk(&files, usize::MAX)).await;
        drop(turn);
        let now = self.clock.elapsed();
        let mut measured = self.lock();
        match walked {
            Ok(Looked::All(usage) | Looked::Part(usage)) => {
                let rest = REST_MIN.max(now.saturating_sub(began) * REST_FACTOR);
                let news = Measured {
                    usage: Some(usage),
                    again: now + rest,
                    walking: false,
                };
                measured.insert(number, news);
                Ok(usage)
            }
            Err(error) => {
                measured.remove(&number);
                Err(error)
            }
        }
    }

    /// Forgets a snapshot.
    pub(super) fn forget(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures the whole of a directory, as [`Gauge`] does.
pub(super) async fn measure(files: PathBuf) -> io::Result<Usage> {
    match blocking(move || walk(&files, usize::MAX)).await? {
        Looked::All(usage) | Looked::Part(usage) => Ok(usage),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

enum Looked {
    All(Usage),
    /// The limit was reached.
    Part(Usage),
}

/// Adds up the blocks of a directory's inodes, each once, and its own. What goes away meanwhile is
/// not counted.
fn walk(root: &Path, entries_max: usize) -> io::Result<Looked> {
    let mut sum = Sum::default();
    let mut directories = vec![(root.to_owned(), 0)];
    let mut entries: usize = 0;
    match fs::symlink_metadata(root) {
        // A view of layers has no directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looked::All(sum.usage)),
        metadata => sum.add(&metadata?),
    }
    let mut is_cut = false;
    'walk: while let Some((directory, depth)) = directories.pop() {
        let listed = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        for entry in listed {
            let entry = entry?;
            entries += 1;
            if entries > entries_max {
                is_cut = true;
                break 'walk;
            }
            match entry.metadata() {
                Ok(metadata) => {
                    sum.add(&metadata);
                    if metadata.is_dir() && depth < DEPTH_MAX {
                        directories.push((entry.path(), depth + 1));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    if is_cut {
        Ok(Looked::Part(sum.usage))
    } else {
        Ok(Looked::All(sum.usage))
    }
}

/// Inodes and their blocks.
#[derive(Debug, Default)]
struct Sum {
    usage: Usage,
    /// Inodes with several names that were counted.
    linked: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, metadata: &fs::Metadata) {
        let is_linked = metadata.nlink() > 1 && !metadata.is_dir();
        if is_linked && !self.linked.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.usage.inodes += 1;
        let bytes = metadata.blocks().saturating_mul(BLOCK_BYTES);
        self.usage.bytes = self.usage.bytes.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::SystemClock;

    use super::*;

    #[tokio::test]
    async fn few_entries_are_measured_exactly_and_links_once() {
        let folder = tempfile::tempdir().unwrap();
        let gauge = Arc::new(Gauge::new(Arc::new(SystemClock::new())));
        let usage = async || gauge.usage(1, folder.path().into()).await.unwrap();
        let empty = usage().await;
        assert_eq!(empty.inodes, 1);
        fs::write(folder.path().join("a"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let one = usage().await;
        assert_eq!(one.inodes, 2);
        let grown = one.bytes - empty.bytes;
        assert!((1 << 20..2 << 20).contains(&grown), "{grown}");
        fs::remove_file(folder.path().join("a")).unwrap();
        fs::remove_file(folder.path().join("b")).unwrap();
        assert_eq!(usage().await.inodes, 1);
    }

    #[tokio::test]
    async fn many_entries_are_walked_once_and_then_remembered() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..LOOK_ENTRIES_MAX + 10 {
            fs::write(folder.path().join(n.to_string()), "").unwrap();
        }
        let gauge = Arc::new(Gauge::new(Arc::new(SystemClock::new())));
        let usage = async || gauge.usage(1, folder.path().into()).await.unwrap();
        let all = LOOK_ENTRIES_MAX as u64 + 11;
        assert_eq!(usage().await.inodes, all);
        fs::write(folder.path().join("one more"), "").unwrap();
        assert_eq!(usage().await.inodes, all, "not walked again so soon");
        gauge.forget(1);
        assert_eq!(usage().await.inodes, all + 1);
    }
}
