//! Why a file-system operation fails, and the one place that turns it into an errno.

use nacre_blobstore::ReadError;
use rustix::io::Errno;

/// Why a file-system operation fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FsError {
    /// No entry has this name.
    #[error("no such entry")]
    NotFound,
    /// The inode number was never handed out, or was forgotten.
    #[error("inode {0} is not known")]
    Stale(u64),
    /// The inode is not a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The inode is a directory where a file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// The operation does not fit the kind of inode.
    #[error("not possible on this kind of inode")]
    WrongKind,
    /// The inode has no such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// No layer has the data of a file.
    #[error("no layer has the data")]
    Missing,
    /// The bytes or the tree could not be had from any tier.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl FsError {
    /// Returns what the kernel is told. The only place that decides on an errno.
    ///
    /// What the tree names but no tier can give is `EIO`, never `ENOENT`: the file exists.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotFound => Errno::NOENT,
            Self::Stale(_) => Errno::STALE,
            Self::NotDirectory => Errno::NOTDIR,
            Self::IsDirectory => Errno::ISDIR,
            Self::WrongKind => Errno::INVAL,
            Self::NoXattr => Errno::NODATA,
            Self::Read(_) | Self::Missing => Errno::IO,
        }
    }
}
