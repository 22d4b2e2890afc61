//! Making overlayfs look again for files that nobody uses.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick};

use super::MountError;
use super::mountinfo::Overlay;

/// Has an overlay forget all names and inodes that are neither open, nor mapped, nor a directory that
/// something is in; whoever comes for them next has them looked up in the layers again. What is in use,
/// and all that was written, stays. Costs some microseconds for each that is forgotten, during which the
/// overlay serves on.
///
/// This is what reconfiguring any file system does first (`reconfigure_super`, fs/super.c), and the same
/// as what a lack of memory does. Nothing is reconfigured.
///
/// # Errors
/// [`MountError::Kernel`]; `ESTALE` when something else is mounted there by now.
pub fn forget_unused(overlay: &Overlay) -> Result<(), MountError> {
    let forget = || {
        let root: OwnedFd = openat(
            CWD,
            &overlay.target,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if fstat(&root)?.st_dev != overlay.device {
            return Err(Errno::STALE);
        }
        let picked = fspick(
            &root,
            "",
            FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC,
        )?;
        if overlay.is_read_only() {
            // As it is; without, overlayfs would refuse to make it writable.
            fsconfig_set_flag(&picked, "ro")?;
        }
        fsconfig_reconfigure(&picked)
    };
    forget().map_err(|errno| MountError::kernel("look again in", &overlay.target, errno))
}
