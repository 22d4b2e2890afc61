//! What of a cache is trusted when it is opened.
//!
//! Contents are published by rename without an fsync, since a fetch can always repeat. Three ways
//! to stop are told apart:
//!
//! - **Orderly**: everything was synced, then `clean` was written. All is trusted.
//! - **The process was killed, the machine went on.** A content got its name after its bytes were
//!   written by write(2), and what was written is in the page cache, whoever wrote it. So complete
//!   contents are trusted, and stay where live mounts look for them. Files that were being written
//!   have no name and are deleted. Of large contents that are not complete nothing is believed: a
//!   chunk may be half written, so each is checked at its first use.
//! - **The machine stopped**, or the file system was mounted anew. Any of what was
//!   written last may be missing, in any order: names without bytes, bytes without names.
//!   Because overlayfs reads the store without asking, all of it moves to `unverified`: at most
//!   512 renames, whatever it holds. The first use of a content checks it and moves it back. The
//!   arrivals are second names, so they are deleted.
//!
//! The last two differ by `session`: the kernel's boot id and the id of the mount, which are not
//! the same again after the machine or the file system stopped. A process in another mount
//! namespace sees another mount, and trusts less than it could. An error of the disk itself while
//! the kernel writes back is seen by nobody here: it is rot, for [`super::rot`] to find.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags, rename, statx};

/// The kernel's name of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): an id of the mount that is never used again. Older kernels
/// do not know it, and are asked for the one that is.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Settles what is trusted, and begins a session.
pub(super) fn begin(folder: &Path) -> io::Result<()> {
    let session = session(folder);
    let clean = folder.join("clean");
    let is_clean = clean.exists();
    if !is_clean && !is_same_session(folder, session.as_deref()) {
        distrust(folder)?;
    }
    if let Err(error) = write_session(folder, session.as_deref()) {
        // The disk may be full. What the file says of an earlier session stays true, and the next
        // start trusts too little at worst.
        tracing::warn!(%error, "note the session of the node cache");
    }
    if is_clean {
        fs::remove_file(clean)?;
    }
    File::open(folder)?.sync_all()
}

/// Ends a session in an orderly way.
pub(super) fn end(folder: &Path) -> io::Result<()> {
    let opened = File::open(folder)?;
    rustix::fs::syncfs(&opened)?;
    File::create(folder.join("clean"))?.sync_all()?;
    opened.sync_all()
}

fn write_session(folder: &Path, session: Option<&str>) -> io::Result<()> {
    let path = folder.join("session");
    let Some(session) = session else {
        return remove_if_there(&path);
    };
    let new = folder.join("session.new");
    let mut file = File::create(&new)?;
    file.write_all(session.as_bytes())?;
    file.sync_all()?;
    Ok(rename(&new, &path)?)
}

/// Returns what tells this boot and mount from others; `None` where the kernel does not say.
fn session(folder: &Path) -> Option<String> {
    let boot = fs::read_to_string(BOOT_ID).ok()?;
    let flags = StatxFlags::MNT_ID | MOUNT_ID_UNIQUE;
    let folder = File::open(folder).ok()?;
    let stat = statx(&folder, c"", AtFlags::EMPTY_PATH, flags).ok()?;
    let told = stat.stx_mask & flags.bits();
    (told != 0).then(|| format!("{} {told:x} {}\n", boot.trim(), stat.stx_mnt_id))
}

fn is_same_session(folder: &Path, session: Option<&str>) -> bool {
    let last = fs::read_to_string(folder.join("session")).ok();
    last.is_some() && last.as_deref() == session
}

/// Takes everything that is complete out of the sight of overlayfs.
fn distrust(folder: &Path) -> io::Result<()> {
    for shard in (0..=u8::MAX).map(|byte| format!("{byte:02x}")) {
        let [store, unverified, arrivals, trash] =
            ["store", "unverified", "arrivals", "trash"].map(|name| folder.join(name).join(&shard));
        move_files(&store, &unverified)?;
        move_files(&arrivals, &trash)?;
    }
    Ok(())
}

/// Moves all files of one shard to another: by one rename where the other is not there or empty.
fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() || fs::read_dir(from)?.next().is_none() || rename(from, to).is_ok() {
        return Ok(());
    }
    for file in fs::read_dir(from)? {
        let file = file?;
        rename(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
