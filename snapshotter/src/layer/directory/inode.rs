//! One file of any kind, held by a descriptor that neither follows links nor opens devices.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nacre_blobstore::{Attributes, Device, Timestamp, Xattr};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::InodeId;
use crate::layer::error::Fault;

/// Tells versions of a file's bytes apart. By its ctime, which unlike its mtime nobody can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) size_bytes: u64,
    ctime: Timestamp,
}

/// A file and what was known of it when it was opened.
pub(crate) struct Inode {
    pub(crate) handle: OwnedFd,
    stat: Statx,
}

impl Inode {
    /// Opens the entry called `name`, whatever it is.
    pub(crate) fn open(directory: &OwnedFd, name: &CStr) -> Result<Self, Fault> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            // Its name was there a moment ago.
            Err(Errno::NOENT) => Err(Fault::Changed),
            result => Self::new(result?),
        }
    }

    pub(crate) fn new(handle: OwnedFd) -> Result<Self, Fault> {
        let stat = stat(&handle)?;
        Ok(Self { handle, stat })
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }

    pub(crate) const fn id(&self) -> InodeId {
        (
            self.stat.stx_dev_major,
            self.stat.stx_dev_minor,
            self.stat.stx_ino,
        )
    }

    pub(crate) const fn link_count(&self) -> u32 {
        self.stat.stx_nlink
    }

    pub(crate) const fn size_bytes(&self) -> u64 {
        self.stat.stx_size
    }

    /// Returns the time of the last change of the inode, by the kernel's clock alone.
    pub(crate) const fn ctime(&self) -> Timestamp {
        ctime(&self.stat)
    }

    pub(crate) const fn device(&self) -> Device {
        Device {
            major: self.stat.stx_rdev_major,
            minor: self.stat.stx_rdev_minor,
        }
    }

    pub(crate) fn attributes(&self) -> Result<Attributes, Fault> {
        Ok(Attributes {
            mode: self.stat.stx_mode & 0o7777,
            uid: self.stat.stx_uid,
            gid: self.stat.stx_gid,
            mtime: mtime(&self.stat),
            xattrs: self.xattrs()?,
        })
    }

    pub(crate) fn symlink_target(&self) -> Result<Box<[u8]>, Fault> {
        let target = rustix::fs::readlinkat(&self.handle, c"", Vec::new())?;
        Ok(target.into_bytes().into())
    }

    /// Opens the names of a directory, `.` and `..` among them.
    pub(crate) fn list(&self) -> Result<Dir, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir::new(rustix::fs::openat(
            &self.handle,
            c".",
            flags,
            Mode::empty(),
        )?)?)
    }

    /// Opens the bytes of a regular file.
    pub(crate) fn open_data(&self) -> Result<File, Fault> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.magic_link(), flags, Mode::empty())?.into())
    }

    /// Asks for what tells versions of the file apart, as it is now.
    pub(crate) fn now(&self) -> Result<Version, Fault> {
        let stat = stat(&self.handle)?;
        Ok(Version {
            size_bytes: stat.stx_size,
            ctime: ctime(&stat),
        })
    }

    /// Fails when the file's size or time of modification is another than when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Fault> {
        let now = stat(&self.handle)?;
        let same = now.stx_size == self.stat.stx_size && mtime(&now) == mtime(&self.stat);
        if same { Ok(()) } else { Err(Fault::Changed) }
    }

    fn xattrs(&self) -> Result<Vec<Xattr>, Fault> {
        let file = self.magic_link();
        let list_bytes = match rustix::fs::listxattr_query(file.as_str()) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            result => result?,
        };
        let mut list = vec![0; list_bytes];
        let read = rustix::fs::listxattr(file.as_str(), &mut list[..]);
        list.truncate(changed_if_resized(read)?);
        let mut xattrs = Vec::new();
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let query = rustix::fs::getxattr_query(file.as_str(), name);
            let mut value = vec![0; changed_if_resized(query)?];
            let read = rustix::fs::getxattr(file.as_str(), name, &mut value[..]);
            value.truncate(changed_if_resized(read)?);
            xattrs.push(Xattr {
                name: name.into(),
                value: value.into(),
            });
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Returns a path that leads to this very file, a symlink included, for calls that do not
    /// take such a descriptor.
    fn magic_link(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inode").field(&self.id()).finish()
    }
}

fn stat(file: impl AsFd) -> Result<Statx, Fault> {
    Ok(rustix::fs::statx(
        file,
        c"",
        AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )?)
}

const fn mtime(stat: &Statx) -> Timestamp {
    Timestamp {
        seconds: stat.stx_mtime.tv_sec,
        nanoseconds: stat.stx_mtime.tv_nsec,
    }
}

const fn ctime(stat: &Statx) -> Timestamp {
    Timestamp {
        seconds: stat.stx_ctime.tv_sec,
        nanoseconds: stat.stx_ctime.tv_nsec,
    }
}

/// An attribute that vanished or grew since it was listed is a change, not an I/O error.
fn changed_if_resized(result: rustix::io::Result<usize>) -> Result<usize, Fault> {
    match result {
        Err(Errno::RANGE | Errno::NODATA) => Err(Fault::Changed),
        result => Ok(result?),
    }
}
