//! The root directory of an overlay.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, lgetxattr_query, llistxattr,
    llistxattr_query, lsetxattr, utimensat,
};

/// What overlayfs notes on directories of its layers.
const NOTES: &[u8] = b"trusted.overlay.";
/// What it takes such attributes of a layer's own for.
const ESCAPED_NOTES: &[u8] = b"trusted.overlay.overlay.";

/// Gives a new upper directory the owner, mode, extended attributes and times of the lower root:
/// the root directory of an overlay shows those of its uppermost layer. What overlayfs noted on the
/// lower root is about that layer alone, and left out.
///
/// # Errors
/// The first attribute's that cannot be read or set. `upper` is then not to be mounted.
pub fn copy_root_attributes(lower: &Path, upper: &Path) -> io::Result<()> {
    let found = std::fs::metadata(lower)?;
    // The owner first: a change of it takes set-uid and set-gid bits away.
    chown(upper, Some(found.uid()), Some(found.gid()))?;
    std::fs::set_permissions(upper, found.permissions())?;
    for (name, value) in xattrs(lower)? {
        if name.starts_with(NOTES) && !name.starts_with(ESCAPED_NOTES) {
            continue;
        }
        lsetxattr(upper, name.as_slice(), &value, XattrFlags::empty())?;
    }
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(utimensat(CWD, upper, &times, AtFlags::empty())?)
}

fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; llistxattr_query(path)?];
    let length = llistxattr(path, list.as_mut_slice())?;
    list.truncate(length);
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; lgetxattr_query(path, name)?];
        let length = lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        Ok((name.to_vec(), value))
    };
    names.map(read).collect()
}
