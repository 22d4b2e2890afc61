//! Clones of large files: taken while a sandbox is frozen, read after it was thawed.
//!
//! A file system that shares extents (btrfs, XFS) clones a file in a time that grows with its number
//! of extents, not of bytes (`ioctl_ficlonerange(2)`). The clones have no names (`O_TMPFILE`), beside
//! the upper directory: the kernel takes them away with their last descriptor, however this process
//! ends.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ioctl_ficlone};

/// Most clones of one capture. Each is an open file; what is more is read in the freeze.
pub(super) const CLONES_MAX: usize = 256;

/// Takes clones, where the file system can.
#[derive(Debug)]
pub(super) struct Clones {
    /// Where they are made; `None` when that is no use.
    directory: Option<OwnedFd>,
    /// Taken so far.
    pub(super) taken: usize,
}

impl Clones {
    /// Never takes any.
    pub(super) const fn none() -> Self {
        Self {
            directory: None,
            taken: 0,
        }
    }

    /// Takes clones beside the directory `upper`, if a trial with files of no bytes says that its file
    /// system has them.
    pub(super) fn beside(upper: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = upper.parent().unwrap_or(upper);
        let mut clones = Self {
            directory: rustix::fs::openat(CWD, parent, flags, Mode::empty()).ok(),
            taken: 0,
        };
        let trial = clones.nameless().and_then(|source| clones.take(&source));
        if trial.is_none() {
            clones.directory = None;
        }
        clones.taken = 0;
        clones
    }

    /// Returns how many more may be taken.
    pub(super) const fn left(&self) -> usize {
        match self.directory {
            Some(_) => CLONES_MAX.saturating_sub(self.taken),
            None => 0,
        }
    }

    /// Takes a clone of an open file. `None` where that is not possible, for whatever reason: the
    /// file is to be read instead.
    pub(super) fn take(&mut self, source: &File) -> Option<File> {
        if self.left() == 0 {
            return None;
        }
        let clone = self.nameless()?;
        ioctl_ficlone(&clone, source).ok()?;
        self.taken += 1;
        Some(clone)
    }

    fn nameless(&self) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(self.directory.as_ref()?, ".", flags, mode);
        Some(File::from(file.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_files_cannot_be_cloned_none_are_taken_and_nothing_is_left() {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let upper = scratch.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        let mut clones = Clones::beside(&upper);
        std::fs::write(upper.join("f"), "x").unwrap();
        let source = File::open(upper.join("f")).unwrap();
        assert!(clones.take(&source).is_none());
        assert_eq!(clones.left(), 0);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        assert_eq!(Clones::beside(Path::new("/none/upper")).left(), 0);
    }
}
