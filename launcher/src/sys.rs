//! The one thing that this crate does which no safe wrapper offers.

#![expect(unsafe_code, reason = "unshare(2) of the file system context")]

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread a root and a working directory of its own, without which it cannot
/// enter another mount namespace (setns(2)). To be called on a thread that ends soon.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_fs() -> io::Result<()> {
    // SAFETY: what must not be shared in part is the table of descriptors, and it stays shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(())
}
