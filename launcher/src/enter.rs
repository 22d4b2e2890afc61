//! Mounts in a sandbox that runs.
//!
//! A mount of the host is copied while it is detached (open_tree(2)) and the copy moved into the
//! sandbox's mount namespace by a thread that has entered it. In there the root is the sandbox's,
//! so that no path and no symlink leads out. Nothing of the sandbox is executed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nacre_fs::mount::RootedDir;
use rustix::fs::{CWD, fstat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::fchdir;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::sys::unshare_fs;

/// A file system, as stat(2) numbers it: the one mounted on the host and its copies have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountedDevice(u64);

impl MountedDevice {
    /// Returns the file system that is mounted at `path`.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(fstat(File::open(path)?)?.st_dev))
    }
}

/// A sandbox's mount namespace.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) init: OwnedFd,
}

impl Inside {
    /// Shows what is mounted at `source` on the host at `target` in the sandbox, whose missing
    /// directories are made. With `replaces` it takes the place of that file system, if that is there,
    /// without a moment in which neither is; what is open in the old one stays valid.
    ///
    /// # Errors
    /// `ENOTDIR`, `ELOOP` for a target that is no directory; others of the kernel. Nothing has changed
    /// then, but for directories made.
    pub(crate) fn mount(
        self,
        source: &Path,
        target: &Path,
        replaces: Option<MountedDevice>,
    ) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(CWD, source, flags)?;
        let target = target.to_owned();
        self.enter(move || {
            let root = RootedDir::open(Path::new("/"))?;
            let by_descriptor =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            let old = match replaces {
                None => None,
                Some(device) => match mounted(&root, &target, device) {
                    // A command that was killed did not come to mount it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    found => Some(found?),
                },
            };
            let Some(old) = old else {
                root.create_dir_all(&target)?;
                let place = root.directory(&target)?;
                return Ok(move_mount(&copy, c"", &place, c"", by_descriptor)?);
            };
            // Below the old one first, so that it is there when that goes.
            let beneath = by_descriptor | MoveMountFlags::MOVE_MOUNT_BENEATH;
            move_mount(&copy, c"", &old, c"", beneath)?;
            detach(&old)
        })
    }

    /// Takes that file system away from `target`; what is open in it stays valid.
    ///
    /// # Errors
    /// `ENOENT` when it is not what is mounted there; others of the kernel.
    pub(crate) fn umount(self, target: &Path, device: MountedDevice) -> io::Result<()> {
        let target = target.to_owned();
        self.enter(move || {
            let root = RootedDir::open(Path::new("/"))?;
            detach(&mounted(&root, &target, device)?)
        })
    }

    /// Runs `work` on a thread of its own in the sandbox's mount namespace.
    fn enter(self, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let entered = std::thread::spawn(move || {
            unshare_fs()?;
            // Its root and working directory are those of the namespace now (setns(2)).
            move_into_thread_name_spaces(self.init.as_fd(), ThreadNameSpaceType::MOUNT)?;
            work()
        });
        entered
            .join()
            .map_err(|_| io::Error::other("the thread in the sandbox ended early"))?
    }
}

/// Opens what is mounted at `target`, if it is the file system that is expected there.
fn mounted(root: &RootedDir, target: &Path, device: MountedDevice) -> io::Result<OwnedFd> {
    let found = root.directory(target)?;
    if fstat(&found)?.st_dev == device.0 {
        Ok(found)
    } else {
        Err(Errno::NOENT.into())
    }
}

/// Takes a mount away by its root directory: no path leads to it when another one covers it.
fn detach(mount: &OwnedFd) -> io::Result<()> {
    fchdir(mount)?;
    Ok(unmount(c".", UnmountFlags::DETACH)?)
}
