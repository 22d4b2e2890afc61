//! Extended attributes beside their inode.

use nacre_blobstore::{Attributes, ContentId, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX};

use super::Reason;
use crate::view::xattr::escape;

/// The name that makes overlayfs take a file's data from another layer.
pub(super) const METACOPY: &[u8] = b"overlay.metacopy";
/// The name of the path of that data.
pub(super) const REDIRECT: &[u8] = b"overlay.redirect";
/// The name that makes overlayfs hide what is below a directory.
pub(super) const OPAQUE: &[u8] = b"overlay.opaque";

const HEADER_BYTES: usize = 12;
const UNIT_BYTES: usize = 4;
/// The inode counts the header as one and then units in 16 bits.
const BODY_BYTES_MAX: usize = HEADER_BYTES + (u16::MAX as usize - 1) * UNIT_BYTES;

/// Namespaces by the number that replaces them.
const NAMESPACES: [(&[u8], u8); 3] = [(b"user.", 1), (TRUSTED, TRUSTED_INDEX), (b"security.", 6)];
const TRUSTED: &[u8] = b"trusted.";
const TRUSTED_INDEX: u8 = 4;
/// Attributes whose whole name is replaced by a number, and which the kernel parses.
const ACLS: [(&[u8], u8); 2] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
];

/// Returns the path of a content in a data-only layer: `/ab/cdef...`.
pub(super) fn redirect(content: ContentId) -> [u8; 66] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut path = [b'/'; 66];
    for (i, byte) in content.as_bytes().iter().enumerate() {
        let at = if i == 0 { 1 } else { 2 + 2 * i };
        path[at] = DIGITS[usize::from(byte >> 4)];
        path[at + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    path
}

/// The attributes of one inode as they are stored. Reused from inode to inode.
#[derive(Debug, Default)]
pub(super) struct XattrBody {
    bytes: Vec<u8>,
    /// What listxattr(2) needs, in bytes.
    list_bytes: usize,
}

impl XattrBody {
    /// Returns the stored bytes: none without attributes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the length as the inode holds it.
    pub(super) fn count(&self) -> u16 {
        let units = self.bytes.len().saturating_sub(HEADER_BYTES) / UNIT_BYTES;
        let count = units + usize::from(!self.bytes.is_empty());
        u16::try_from(count).expect("the body is at most BODY_BYTES_MAX")
    }

    /// Takes the attributes of one inode: `own` of the `trusted.` namespace, which tell overlayfs
    /// what to do, and those of the tree, escaped where overlayfs would take them for its own.
    ///
    /// # Errors
    /// What is wrong with an attribute.
    pub(super) fn fill(
        &mut self,
        own: &[(&[u8], &[u8])],
        attributes: &Attributes,
    ) -> Result<(), Reason> {
        self.bytes.clear();
        self.list_bytes = 0;
        if own.is_empty() && attributes.xattrs.is_empty() {
            return Ok(());
        }
        self.bytes.resize(HEADER_BYTES, 0);
        for (name, value) in own {
            self.push(TRUSTED, TRUSTED_INDEX, [name, b""], value)?;
        }
        for xattr in &attributes.xattrs {
            if let Some((name, index)) = ACLS.iter().find(|(name, _)| **name == *xattr.name) {
                if !is_acl(&xattr.value) {
                    return Err("a POSIX ACL that the kernel cannot parse");
                }
                self.push(name, *index, [b"", b""], &xattr.value)?;
                continue;
            }
            let (head, rest) = match escape(&xattr.name) {
                (b"", name) => (name, &b""[..]),
                escaped => escaped,
            };
            let in_namespace = |(prefix, index): &(&'static [u8], u8)| {
                Some((*prefix, *index, head.strip_prefix(*prefix)?))
            };
            let (prefix, index, head) = (NAMESPACES.iter().find_map(in_namespace))
                .ok_or("an xattr outside the namespaces of EROFS")?;
            if head.is_empty() {
                return Err("an xattr with an empty name");
            }
            self.push(prefix, index, [head, rest], &xattr.value)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        prefix: &[u8],
        index: u8,
        name: [&[u8]; 2],
        value: &[u8],
    ) -> Result<(), Reason> {
        let name_bytes = name[0].len() + name[1].len();
        if prefix.len() + name_bytes > XATTR_NAME_BYTES_MAX {
            return Err("an xattr name that is too long once it is escaped");
        }
        self.list_bytes += prefix.len() + name_bytes + 1;
        if self.list_bytes > XATTR_LIST_BYTES_MAX {
            return Err("more xattr names than listxattr(2) returns");
        }
        let name_len = u8::try_from(name_bytes).expect("a name is at most 255 bytes");
        let value_len =
            u16::try_from(value.len()).map_err(|_| "an xattr value of more than 65,535 bytes")?;
        self.bytes.extend_from_slice(&[name_len, index]);
        self.bytes.extend_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(name[0]);
        self.bytes.extend_from_slice(name[1]);
        self.bytes.extend_from_slice(value);
        let aligned = self.bytes.len().next_multiple_of(UNIT_BYTES);
        if aligned > BODY_BYTES_MAX {
            return Err("more than 262,148 bytes of xattrs");
        }
        self.bytes.resize(aligned, 0);
        Ok(())
    }
}

/// Tells whether the kernel can parse an ACL (`posix_acl_from_xattr`) and gives it back unchanged.
/// One that it cannot parse makes it refuse every access to the file.
fn is_acl(value: &[u8]) -> bool {
    const VERSION: [u8; 4] = [2, 0, 0, 0];
    const NO_ID: [u8; 4] = [0xff; 4];
    let (Some(version), entries) = (value.first_chunk::<4>(), value.get(4..).unwrap_or(&[])) else {
        return false;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    let entry_ok = |entry: &[u8; 8]| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let has_id = entry[4..] != NO_ID;
        match tag {
            // The owner, the owning group, the mask, others.
            0x01 | 0x04 | 0x10 | 0x20 => !has_id,
            // A named user, a named group.
            0x02 | 0x08 => has_id,
            _ => false,
        }
    };
    *version == VERSION && !entries.is_empty() && rest.is_empty() && entries.iter().all(entry_ok)
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Digest;

    use super::*;

    #[test]
    fn redirect_is_the_path_of_the_content() {
        let content = ContentId::new(Digest::of(b"x"));
        let text = content.to_string();
        let expected = format!("/{}/{}", &text[..2], &text[2..]);
        assert_eq!(redirect(content), expected.as_bytes());
    }

    #[test]
    fn acls_are_checked_as_the_kernel_parses_them() {
        let owner = [1, 0, 7, 0, 255, 255, 255, 255];
        let user = [2, 0, 7, 0, 1, 0, 0, 0];
        let acl = |version: u8, entries: &[[u8; 8]]| {
            [&[version, 0, 0, 0], entries.concat().as_slice()].concat()
        };
        assert!(is_acl(&acl(2, &[owner, user])));
        assert!(!is_acl(&acl(1, &[owner])));
        assert!(!is_acl(&acl(2, &[])));
        assert!(!is_acl(b""));
        assert!(!is_acl(&acl(2, &[owner])[..11]));
        assert!(!is_acl(&acl(2, &[[3, 0, 7, 0, 255, 255, 255, 255]])));
        assert!(!is_acl(&acl(2, &[[1, 0, 7, 0, 0, 0, 0, 0]])));
        assert!(!is_acl(&acl(2, &[[2, 0, 7, 0, 255, 255, 255, 255]])));
    }
}
