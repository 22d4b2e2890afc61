//! Mounting metadata images: EROFS in a file.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::MountError;

/// `EROFS_SUPER_MAGIC_V1` of statfs(2) (`include/uapi/linux/magic.h`).
const EROFS_MAGIC: i64 = 0xe0f5_e1e2;

/// Mounts the metadata image in the file `image` at `target`, read-only. The file must not change
/// any more, and was checked: the kernel believes what it says.
///
/// Linux 6.12 mounts the file itself; before, mount(8) makes a loop device of it.
///
/// # Errors
/// [`MountError::Kernel`]; [`MountError::Loop`] when mount(8) refuses.
pub fn metadata(image: &Path, target: &Path) -> Result<(), MountError> {
    // What set-uid bits and devices mean is for the overlay on top to say.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match mount(image, target, c"erofs", flags, None) {
        Ok(()) => Ok(()),
        Err(Errno::NOTBLK) => through_loop(image, target),
        Err(errno) => Err(MountError::kernel("mount metadata at", target, errno)),
    }
}

fn through_loop(image: &Path, target: &Path) -> Result<(), MountError> {
    let refused = |reason: String| MountError::Loop {
        target: target.to_owned(),
        reason,
    };
    let output = Command::new("mount")
        .args(["-t", "erofs", "-o", "loop,ro,nosuid,nodev", "--"])
        .args([image, target])
        .stdin(Stdio::null())
        .output()
        .map_err(|error: io::Error| refused(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(refused(
        message.lines().next().unwrap_or("no reason").to_owned(),
    ))
}

/// Tells whether a metadata image is mounted at `target`.
pub fn is_metadata(target: &Path) -> bool {
    statfs(target).is_ok_and(|found| found.f_type == EROFS_MAGIC)
}
