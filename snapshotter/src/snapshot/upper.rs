//! Entries of an overlay's upper directory, and what overlayfs wrote on them.
//!
//! overlayfs notes in attributes below `trusted.overlay.` what an entry hides or stands for
//! (<https://docs.kernel.org/filesystems/overlayfs.html>). Attributes of that name that a sandbox
//! gave to a file itself are kept with `overlay.` put before the rest of the name ("Nesting
//! overlayfs mounts"), and are given back here as the sandbox sees them.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use nacre_blobstore::{Attributes, Device, Xattr};
use rustix::fs::{FileType, Mode, OFlags};

use super::error::SnapshotError;
use crate::layer::{Fault, Inode};

const OVERLAY: &[u8] = b"trusted.overlay.";
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";
/// Most names in one directory.
const NAMES_MAX: usize = 10_000_000;

/// Where in the lower layers the content or the entries of an upper entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// At this path from the root.
    Path(Vec<Box<[u8]>>),
    /// At this name, where the entry's own directory has its lower entries.
    Name(Box<[u8]>),
}

/// What overlayfs says of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The entries of lower directories do not show through.
    pub(super) opaque: bool,
    /// Whiteouts in this directory may be files with [`whiteout`](Self::whiteout).
    pub(super) has_xattr_whiteouts: bool,
    /// The entry is a whiteout, if its directory has those.
    pub(super) whiteout: bool,
    /// The file has attributes only; its bytes are in a lower layer.
    pub(super) metacopy: bool,
    /// Where that is, when not at the entry's own path.
    pub(super) redirect: Option<Redirect>,
}

/// One entry.
#[derive(Debug)]
pub(super) struct UpperEntry {
    pub(super) inode: Inode,
    /// As the sandbox sees them.
    pub(super) attributes: Attributes,
    pub(super) marks: Marks,
}

impl UpperEntry {
    /// Opens the upper directory itself.
    pub(super) fn root(path: &Path) -> Result<Self, SnapshotError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(Fault::from)
            .and_then(Inode::new)
            .and_then(Self::read)
            .map_err(SnapshotError::at(path))
    }

    /// Opens an entry of a directory.
    pub(super) fn open(directory: &OwnedFd, name: &CString) -> Result<Self, Fault> {
        Inode::open(directory, name).and_then(Self::read)
    }

    fn read(inode: Inode) -> Result<Self, Fault> {
        let mut attributes = inode.attributes()?;
        let (marks, xattrs) = read_marks(std::mem::take(&mut attributes.xattrs))?;
        attributes.xattrs = xattrs;
        Ok(Self {
            inode,
            attributes,
            marks,
        })
    }

    /// Tells whether the entry hides one of a lower layer and is nothing itself. `parent` are the
    /// marks of its directory.
    pub(super) fn is_whiteout(&self, parent: &Marks) -> bool {
        match self.inode.file_type() {
            FileType::CharacterDevice => self.inode.device() == Device { major: 0, minor: 0 },
            FileType::RegularFile => parent.has_xattr_whiteouts && self.marks.whiteout,
            _ => false,
        }
    }

    /// Lists the names in the directory, sorted.
    pub(super) fn names(&self) -> Result<Vec<CString>, Fault> {
        let mut names = Vec::new();
        for entry in self.inode.list()? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
            Fault::check_limit(names.len() as u64, NAMES_MAX as u64, "names in a directory")?;
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Parts what overlayfs wrote from what the sandbox did.
fn read_marks(all: Vec<Xattr>) -> Result<(Marks, Vec<Xattr>), Fault> {
    let mut marks = Marks::default();
    let mut own = Vec::with_capacity(all.len());
    for xattr in all {
        if let Some(rest) = xattr.name.strip_prefix(ESCAPED) {
            let name = [OVERLAY, rest].concat().into();
            own.push(Xattr { name, ..xattr });
        } else if let Some(rest) = xattr.name.strip_prefix(OVERLAY) {
            match rest {
                b"opaque" if *xattr.value == *b"y" => marks.opaque = true,
                b"opaque" if *xattr.value == *b"x" => marks.has_xattr_whiteouts = true,
                b"whiteout" => marks.whiteout = true,
                b"metacopy" => marks.metacopy = true,
                b"redirect" => marks.redirect = Some(read_redirect(&xattr.value)?),
                // Where it was copied from and the like: of no use outside of this mount.
                _ => {}
            }
        } else {
            own.push(xattr);
        }
    }
    own.sort_unstable();
    Ok((marks, own))
}

fn read_redirect(value: &[u8]) -> Result<Redirect, Fault> {
    let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(Box::from).collect();
    let (path, redirect) = match value.strip_prefix(b"/") {
        Some(path) => (path, Redirect::Path(parts(path))),
        None => (value, Redirect::Name(value.into())),
    };
    let is_name = matches!(redirect, Redirect::Name(_));
    if path.split(|byte| *byte == b'/').any(bad) || (is_name && path.contains(&b'/')) {
        return Err(Fault::malformed("a redirect that overlayfs does not write"));
    }
    Ok(redirect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &[u8]) -> Xattr {
        Xattr {
            name: name.as_bytes().into(),
            value: value.into(),
        }
    }

    #[test]
    fn marks_are_parted_from_attributes_of_the_sandbox() {
        let (marks, own) = read_marks(vec![
            xattr("trusted.overlay.origin", b"\0"),
            xattr("trusted.overlay.opaque", b"y"),
            xattr("trusted.overlay.metacopy", b""),
            xattr("trusted.overlay.redirect", b"/a/b"),
            xattr("trusted.overlay.overlay.opaque", b"y"),
            xattr("trusted.overlay.overlay.overlay.x", b"1"),
            xattr("user.a", b"2"),
        ])
        .unwrap();
        let parts = vec![b"a".as_slice().into(), b"b".as_slice().into()];
        let expected = Marks {
            opaque: true,
            metacopy: true,
            redirect: Some(Redirect::Path(parts)),
            ..Marks::default()
        };
        assert_eq!(marks, expected);
        let own_expected = [
            xattr("trusted.overlay.opaque", b"y"),
            xattr("trusted.overlay.overlay.x", b"1"),
            xattr("user.a", b"2"),
        ];
        assert_eq!(own, own_expected);
    }

    #[test]
    fn redirects_that_lead_elsewhere_are_refused() {
        let name = Redirect::Name(b"old".as_slice().into());
        assert_eq!(read_redirect(b"old").unwrap(), name);
        for bad in [
            b"".as_slice(),
            b"/",
            b"..",
            b"a/b",
            b"/a/../b",
            b"/a//b",
            b"/a/",
            b"a\0",
        ] {
            assert!(read_redirect(bad).is_err(), "{bad:?}");
        }
    }
}
