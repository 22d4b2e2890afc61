//! The directories of snapshots.
//!
//! ```text
//! ROOT/sn/NUMBER/fs      what the snapshot holds: the upper directory of an overlay
//!                work    overlayfs' own
//! ```
//! With a quota they are on a file system of their own (see [`bounded`]).
//! The names are short, for mount(2) takes a page of options and an image may have 128 layers. A
//! directory that no snapshot has is removed, at the latest by [`Disk::sweep`]; numbers are not
//! used twice, so nothing that is still mounted gets another snapshot's files.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nacre_fs::mount::copy_root_attributes;

use super::bounded;
use super::error::SnapshotsError;
use super::places;

/// The directories.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    next: AtomicU64,
    /// Those with a file system of their own that were there at the start: a reboot may have taken
    /// their mounts away.
    unready: Mutex<HashSet<u64>>,
}

/// What a name in the folder is of.
#[derive(Debug)]
struct Found {
    number: u64,
    /// The file of a quota, and not the directory.
    is_quota: bool,
}

impl Found {
    fn of(name: &str) -> Option<Self> {
        let quota = bounded::number_of(name);
        let number = quota.unwrap_or(name).parse().ok()?;
        let is_quota = quota.is_some();
        Some(Self { number, is_quota })
    }
}

impl Disk {
    /// Opens or creates the folder. Its path must be text, for mounts are told as such.
    pub(super) fn open(folder: &Path) -> Result<Self, SnapshotsError> {
        let io = |error| SnapshotsError::disk("open the folder of snapshots", &error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        let folder = folder.canonicalize().map_err(io)?;
        if folder.to_str().is_none() {
            return Err(SnapshotsError::Internal(
                "the folder of snapshots has a name that is no text".to_owned(),
            ));
        }
        let disk = Self {
            folder,
            next: AtomicU64::new(1),
            unready: Mutex::default(),
        };
        for found in disk.list().map_err(io)? {
            disk.keep_free(found.number);
            if found.is_quota {
                disk.unready().insert(found.number);
            }
        }
        Ok(disk)
    }

    /// Takes note of a number that was used.
    pub(super) fn keep_free(&self, used: u64) {
        self.next
            .fetch_max(used.saturating_add(1), Ordering::Relaxed);
    }

    /// Returns a number that was never used.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the directory with a snapshot's files.
    pub(super) fn files(&self, number: u64) -> PathBuf {
        self.of(number).join("fs")
    }

    /// Returns overlayfs' own directory of a snapshot.
    pub(super) fn work(&self, number: u64) -> PathBuf {
        self.of(number).join("work")
    }

    fn of(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// Makes the directory of a snapshot, with mode 0755; over layers its root has the attributes of
    /// theirs, `root`. What it made is removed when that fails. Blocks.
    ///
    /// # Errors
    /// [`SnapshotsError::Precondition`] when there are no quotas here and one is wanted.
    pub(super) fn create(
        &self,
        number: u64,
        root: Option<&Path>,
        quota_bytes: Option<u64>,
    ) -> Result<(), SnapshotsError> {
        let io = |error| SnapshotsError::disk("make the directory of a snapshot", &error);
        let directory = self.of(number);
        let created = fs::create_dir(&directory).map_err(io).and_then(|()| {
            if let Some(bytes) = quota_bytes {
                bounded::make(&directory, bytes)?;
            }
            self.fill(number, root).map_err(io)
        });
        if created.is_err() {
            self.remove(number);
        }
        created
    }

    fn fill(&self, number: u64, root: Option<&Path>) -> io::Result<()> {
        let files = self.files(number);
        fs::create_dir(&files)?;
        // Whatever the process's umask is.
        fs::set_permissions(&files, fs::Permissions::from_mode(0o755))?;
        let Some(root) = root else {
            return Ok(());
        };
        DirBuilder::new().mode(0o711).create(self.work(number))?;
        copy_root_attributes(root, &files)
    }

    /// Tells whether all directories of `numbers` are there for certain: for others [`Disk::ready`]
    /// has to see to it.
    pub(super) fn are_ready(&self, numbers: &[u64]) -> bool {
        let unready = self.unready();
        !numbers.iter().any(|number| unready.contains(number))
    }

    /// Mounts again what a reboot took away of the directories of `numbers`. Blocks.
    ///
    /// # Errors
    /// [`SnapshotsError::Precondition`] when that cannot be done.
    pub(super) fn ready(&self, numbers: &[u64]) -> Result<(), SnapshotsError> {
        for number in numbers {
            bounded::ready(&self.of(*number))?;
            self.unready().remove(number);
        }
        Ok(())
    }

    fn unready(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.unready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the directories of a snapshot. What cannot be removed now is left to
    /// [`sweep`](Self::sweep). Blocks.
    pub(super) fn remove(&self, number: u64) {
        places::detach(&self.of(number));
        bounded::remove(&self.of(number));
        if self.remove_unwritten(number).is_ok() {
            return;
        }
        match fs::remove_dir_all(self.of(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(number, %error, "the directory of a snapshot is not removed yet");
            }
            _ => {}
        }
    }

    /// Removes the directories of a snapshot that nothing was written to, as of most containers that
    /// are prepared and removed in a burst: without a look into each of them.
    fn remove_unwritten(&self, number: u64) -> io::Result<()> {
        let work = self.work(number);
        // The inner one is overlayfs' own, from when it was mounted.
        for path in [work.join("work"), work, self.files(number)] {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::remove_dir(self.of(number))
    }

    /// Removes the directories with numbers below `below` that are not in use. Blocks.
    pub(super) fn sweep(&self, below: u64, used: &HashSet<u64>) -> Result<(), SnapshotsError> {
        let list = self
            .list()
            .map_err(|error| SnapshotsError::disk("list the directories of snapshots", &error))?;
        for Found { number, .. } in list {
            if number < below && !used.contains(&number) {
                self.remove(number);
            }
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Found>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            list.extend(name.to_str().and_then(Found::of));
        }
        Ok(list)
    }
}
