//! Plain kernel mounts: bind, overlay, umount, and what `/proc/self/mountinfo` says.
//!
//! Works in the mount namespace of the calling process and needs `CAP_SYS_ADMIN`. Nothing here
//! survives a reboot; a crash between two calls leaves whole mounts, never half of one. Calls
//! block for as long as the kernel does.

mod forget;
mod lower;
mod metadata;
mod mountinfo;
mod overlay;
mod root;
mod rooted;

use std::ffi::{CString, NulError};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};

pub use forget::forget_unused;
pub use lower::Lower;
pub use metadata::{is_metadata, metadata};
pub use mountinfo::Overlay;
pub use overlay::{OverlaySpec, UpperDirs, overlay};
pub use root::copy_root_attributes;
pub use rooted::RootedDir;

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount is in use; [`Umount::Detach`] would take it out of sight nevertheless.
    #[error("umount {target:?}: in use")]
    Busy {
        /// Where it is mounted.
        target: PathBuf,
    },
    /// The kernel refused.
    #[error("{operation} {target:?}: {errno}")]
    Kernel {
        /// The verb.
        operation: &'static str,
        /// Where it is, or should have been, mounted.
        target: PathBuf,
        /// The reason.
        #[source]
        errno: Errno,
    },
    /// The options are longer than the page that mount(2) copies, or hold a NUL byte.
    #[error("mount {target:?}: {reason}")]
    Options {
        /// Where it should have been mounted.
        target: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// mount(8) made no loop device.
    #[error("mount {target:?} through a loop device: {reason}")]
    Loop {
        /// Where it should have been mounted.
        target: PathBuf,
        /// What it says.
        reason: String,
    },
    /// The list of mounts cannot be read.
    #[error("read {path}")]
    Mountinfo {
        /// The list.
        path: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl MountError {
    fn kernel(operation: &'static str, target: &Path, errno: Errno) -> Self {
        Self::Kernel {
            operation,
            target: target.to_owned(),
            errno,
        }
    }

    /// Returns the kernel's reason, where there is one.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Busy { .. } => Some(Errno::BUSY),
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Options { .. } | Self::Loop { .. } | Self::Mountinfo { .. } => None,
        }
    }
}

/// Makes the tree at `source` visible at `target` too, with the mounts below it.
///
/// With `read_only` the top mount refuses writes; mounts below it keep their own setting, as with
/// `mount -o bind,ro`.
///
/// # Errors
/// [`MountError::Kernel`]. When making it read-only fails, the mount is taken away again.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), MountError> {
    mount_bind_recursive(source, target).map_err(|e| MountError::kernel("bind", target, e))?;
    if !read_only {
        return Ok(());
    }
    // The kernel ignores MS_RDONLY on the first call (mount(2)).
    mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"").map_err(|errno| {
        let error = MountError::kernel("remount read-only", target, errno);
        match umount(target, Umount::Detach) {
            Ok(()) => error,
            Err(left_behind) => left_behind,
        }
    })
}

/// Keeps the mount at `target` to itself: no mount below it shows up in copies of it, nor the other
/// way round. With `read_only` it refuses writes, too.
///
/// # Errors
/// [`MountError::Kernel`]; the mount stays.
pub fn make_private(target: &Path, read_only: bool) -> Result<(), MountError> {
    mount_change(target, MountPropagationFlags::PRIVATE)
        .map_err(|e| MountError::kernel("make private", target, e))?;
    if read_only {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")
            .map_err(|e| MountError::kernel("remount read-only", target, e))?;
    }
    Ok(())
}

/// How [`umount`] treats a mount that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Umount {
    /// Refuses with [`MountError::Busy`].
    IfIdle,
    /// Takes it out of sight at once; it ends when its last user does (`umount -l`).
    Detach,
}

/// Takes the topmost mount at `target` away. A symlink at `target` is not followed.
///
/// # Errors
/// [`MountError::Busy`] when in use; [`MountError::Kernel`] with `EINVAL` when nothing is mounted
/// there.
pub fn umount(target: &Path, how: Umount) -> Result<(), MountError> {
    let detach = match how {
        Umount::IfIdle => UnmountFlags::empty(),
        Umount::Detach => UnmountFlags::DETACH,
    };
    unmount(target, UnmountFlags::NOFOLLOW | detach).map_err(|errno| match errno {
        Errno::BUSY => MountError::Busy {
            target: target.to_owned(),
        },
        _ => MountError::kernel("umount", target, errno),
    })
}

/// Tells whether something is mounted at exactly `path`, which must be absolute and free of
/// symlinks, `.` and `..`; asks nothing of the mounted file system, so a dead one cannot block it.
///
/// # Errors
/// [`MountError::Mountinfo`].
pub fn is_mount_point(path: &Path) -> Result<bool, MountError> {
    Ok(mountinfo::mount_points()?.iter().any(|point| point == path))
}

/// Returns the mount points at and below `dir` (absolute, free of symlinks), newest first: the
/// order in which to umount them, as a newer mount may cover an older one. One path occurs as often
/// as it is mounted over.
///
/// # Errors
/// [`MountError::Mountinfo`].
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, MountError> {
    let mut points = mountinfo::mount_points()?;
    points.retain(|point| point.starts_with(dir));
    points.reverse();
    Ok(points)
}

/// Returns every overlay in this mount namespace, once.
///
/// # Errors
/// [`MountError::Mountinfo`].
pub fn overlays() -> Result<Vec<Overlay>, MountError> {
    mountinfo::overlays()
}

/// Returns a path as the kernel shows it among the options of an overlay; `None` where it has what
/// the kernel escapes.
pub(crate) fn shown(path: &Path) -> Option<&str> {
    let path = path.to_str()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    path.bytes().all(is_plain).then_some(path)
}

fn options_text(target: &Path, options: Vec<u8>) -> Result<CString, MountError> {
    let invalid = |reason| MountError::Options {
        target: target.to_owned(),
        reason,
    };
    if options.len() > overlay::OPTIONS_BYTES_MAX {
        return Err(invalid("options are longer than mount(2) takes"));
    }
    CString::new(options).map_err(|_: NulError| invalid("options hold a NUL byte"))
}

#[cfg(test)]
mod tests;
