//! Paths inside a root file system that somebody else wrote.
//!
//! Every step is resolved by openat2(2) with `RESOLVE_IN_ROOT`: absolute symlinks and `..` end at
//! the root, as they do for a process inside, and never reach the host.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2,
};
use rustix::io::Errno;

use super::Lower;

/// Tries of an openat2 that meets a concurrent rename (`EAGAIN`, openat2(2)).
const RESOLVE_TRIES_MAX: usize = 16;

/// A directory that acts as `/`.
#[derive(Debug)]
pub struct RootedDir {
    root: OwnedFd,
    /// Where the data of its files is, if not in them.
    lower: Option<Lower>,
}

impl RootedDir {
    /// Opens the directory at `root`.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty())?;
        Ok(Self { root, lower: None })
    }

    /// Opens what an overlay over `lower` has as its root, without mounting one. Sees the topmost
    /// layer only.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn over(lower: &Lower) -> io::Result<Self> {
        Ok(Self {
            lower: Some(lower.clone()),
            ..Self::open(lower.top())?
        })
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..RESOLVE_TRIES_MAX {
            match openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    /// Reads a regular file of at most `limit_bytes`; `None` when it does not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no regular file, [`io::ErrorKind::FileTooLarge`] for
    /// a longer one, and those of reading.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let fd = match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => opened?,
        };
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a regular file",
            ));
        }
        let mut file = File::from(fd);
        if let Some(lower) = &self.lower {
            file = lower.data_of(file)?;
        }
        let mut bytes = Vec::new();
        let length = file
            .take(limit_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if u64::try_from(length).is_ok_and(|length| length <= limit_bytes) {
            Ok(Some(bytes))
        } else {
            Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "longer than its limit",
            ))
        }
    }

    /// Opens a directory, to be named by the descriptor alone.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// Makes the directory `path` and its parents (mode 0755 whatever the umask, owned by root) where
    /// missing. Those that were made stay when a later one cannot be.
    ///
    /// # Errors
    /// Those of openat2(2) and mkdir(2): a symlink to nowhere on the way is one.
    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut here = self.resolve(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
        let mut prefix = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    prefix.push(name);
                    match self.resolve(&prefix, OFlags::PATH | OFlags::DIRECTORY) {
                        Err(Errno::NOENT) => make_directory(&here, name)?,
                        opened => {
                            here = opened?;
                            continue;
                        }
                    }
                }
                Component::ParentDir => prefix.push(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            }
            here = self.resolve(&prefix, OFlags::PATH | OFlags::DIRECTORY)?;
        }
        Ok(())
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    mkdirat(parent, name, mode)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fchmod(openat(parent, name, flags, Mode::empty())?, mode)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A root below a directory that holds what must not be reached.
    fn scene() -> (tempfile::TempDir, RootedDir) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(outside.path().join("secret"), "host").unwrap();
        let rooted = RootedDir::open(&root).unwrap();
        (outside, rooted)
    }

    #[test]
    fn symlinks_end_at_the_root() {
        let (outside, rooted) = scene();
        let root = outside.path().join("root");
        symlink("/../../secret", root.join("etc/passwd")).unwrap();
        symlink(outside.path().join("secret"), root.join("etc/absolute")).unwrap();
        for path in ["/etc/passwd", "etc/absolute", "../secret"] {
            assert_eq!(rooted.read(Path::new(path), 99).unwrap(), None, "{path}");
        }
        fs::write(root.join("secret"), "inside").unwrap();
        let inside = rooted.read(Path::new("/etc/passwd"), 99).unwrap();
        assert_eq!(inside.as_deref(), Some(&b"inside"[..]));
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let (outside, rooted) = scene();
        let root = outside.path().join("root");
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        for path in ["fifo", "etc"] {
            let error = rooted.read(Path::new(path), 99).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{path}");
        }
        fs::write(root.join("f"), "1234").unwrap();
        assert!(rooted.read(Path::new("f"), 4).unwrap().is_some());
        let error = rooted.read(Path::new("f"), 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn directories_are_made_inside_only() {
        let (outside, rooted) = scene();
        let root = outside.path().join("root");
        symlink("/../..", root.join("up")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        rooted.create_dir_all(Path::new("/up/a/../b/c")).unwrap();
        let made = fs::metadata(root.join("b/c")).unwrap();
        assert!(made.is_dir());
        assert_eq!(made.permissions().mode() & 0o7777, 0o755);
        assert!(!outside.path().join("b").exists());
        rooted.create_dir_all(Path::new("/dangling/x")).unwrap_err();
        fs::write(root.join("f"), "").unwrap();
        rooted.create_dir_all(Path::new("/f/x")).unwrap_err();
    }
}
