//! The directories of snapshots.
//!
//! ```text
//! ROOT/sn/NUMBER/fs      what the snapshot holds: the upper directory of an overlay
//!                work    overlayfs' own
//! ```
//! The names are short, for mount(2) takes a page of options and an image may have 128 layers. A
//! directory that no snapshot has is removed, at the latest by [`Disk::sweep`]; numbers are not
//! used twice, so nothing that is still mounted gets another snapshot's files.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nacre_fs::mount::copy_root_attributes;

use super::error::SnapshotsError;

/// The directories.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    next: AtomicU64,
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
        };
        let last = disk.numbers().map_err(io)?.into_iter().max();
        disk.keep_free(last.unwrap_or(0));
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
    pub(super) fn create(&self, number: u64, root: Option<&Path>) -> Result<(), SnapshotsError> {
        let create = || {
            let files = self.files(number);
            fs::create_dir(self.of(number))?;
            fs::create_dir(&files)?;
            // Whatever the process's umask is.
            fs::set_permissions(&files, fs::Permissions::from_mode(0o755))?;
            let Some(root) = root else {
                return Ok(());
            };
            DirBuilder::new().mode(0o711).create(self.work(number))?;
            copy_root_attributes(root, &files)
        };
        create().map_err(|error| {
            self.remove(number);
            SnapshotsError::disk("make the directory of a snapshot", &error)
        })
    }

    /// Removes the directories of a snapshot. What cannot be removed now is left to
    /// [`sweep`](Self::sweep). Blocks.
    pub(super) fn remove(&self, number: u64) {
        match fs::remove_dir_all(self.of(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(number, %error, "the directory of a snapshot is not removed yet");
            }
            _ => {}
        }
    }

    /// Removes the directories with numbers below `below` that are not in use. Blocks.
    pub(super) fn sweep(&self, below: u64, used: &HashSet<u64>) -> Result<(), SnapshotsError> {
        let numbers = self
            .numbers()
            .map_err(|error| SnapshotsError::disk("list the directories of snapshots", &error))?;
        for number in numbers {
            if number < below && !used.contains(&number) {
                self.remove(number);
            }
        }
        Ok(())
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(numbers)
    }
}
