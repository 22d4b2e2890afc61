//! The canonical encoding of trees.
//!
//! ```text
//! magic "NTR1" | features u32 | count uvarint | entry*
//! entry: name bytes | kind u8 | mode u16 | uid uvarint | gid uvarint
//!        mtime seconds i64 | nanoseconds u32 | xattr count uvarint | (name bytes, value bytes)*
//!        by kind: content id, size uvarint | tree id | target bytes | major, minor uvarint
//!        bit 7 of kind: group 16 bytes, link count uvarint
//! bytes: length uvarint, bytes
//! ```
//! Integers are little-endian; a uvarint is LEB128 in its shortest form. Equal trees encode
//! equally, and what does not re-encode to itself is refused. The tree's id is its checksum.

use super::{
    Attributes, Device, Entry, HardLink, NAME_BYTES_MAX, Node, TARGET_BYTES_MAX, TREE_BYTES_MAX,
    Timestamp, Tree, TreeError, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
    Xattr,
};
use crate::wire::{Put, Truncated, Wire};
use crate::{ContentId, Digest, TreeId};

const MAGIC: &[u8; 4] = b"NTR1";
/// Features this version knows: none beyond the first version's.
const FEATURES: u32 = 0;
const LINKED: u8 = 0x80;
/// The least bytes that an entry takes; bounds the allocation for a claimed count.
const ENTRY_BYTES_MIN: usize = 20;
/// The least bytes that an xattr takes, and the most that one inode has (each name a byte and a NUL);
/// bound the allocation of every entry.
const XATTR_BYTES_MIN: usize = 3;
const XATTRS_MAX: usize = XATTR_LIST_BYTES_MAX / 2;

impl From<Truncated> for TreeError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

impl Tree {
    /// Encodes the tree; the id is the hash of the bytes.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] beyond [`TREE_BYTES_MAX`].
    pub fn encode(&self) -> Result<(TreeId, Vec<u8>), TreeError> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 96);
        out.put(MAGIC);
        out.put_u32(FEATURES);
        out.put_uvarint(self.entries.len() as u64);
        for entry in &self.entries {
            encode_entry(entry, &mut out);
        }
        if out.len() > TREE_BYTES_MAX {
            return Err(TreeError::TooLarge(out.len()));
        }
        Ok((TreeId::new(Digest::of(&out)), out))
    }

    /// Decodes a tree that was read for `id`.
    ///
    /// # Errors
    /// [`TreeError::Mismatch`] when the bytes do not hash to `id`, otherwise as for
    /// [`Tree::decode_unnamed`].
    pub fn decode(id: TreeId, bytes: &[u8]) -> Result<Self, TreeError> {
        if Digest::of(bytes) == *id.digest() {
            Self::decode_unnamed(bytes)
        } else {
            Err(TreeError::Mismatch { expected: id })
        }
    }

    /// Decodes a tree without asking for its id.
    ///
    /// # Errors
    /// [`TreeError::Malformed`] for anything but the canonical encoding of a valid tree,
    /// [`TreeError::Unsupported`] for a feature of a later version.
    pub fn decode_unnamed(bytes: &[u8]) -> Result<Self, TreeError> {
        if bytes.len() > TREE_BYTES_MAX {
            return Err(TreeError::TooLarge(bytes.len()));
        }
        let mut wire = Wire::new(bytes);
        if wire.array::<4>()? != *MAGIC {
            return Err(TreeError::Malformed("not a tree"));
        }
        let unknown = wire.u32()? & !FEATURES;
        if unknown != 0 {
            return Err(TreeError::Unsupported(unknown));
        }
        let count = wire.count(ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(decode_entry(&mut wire)?);
        }
        wire.finish()?;
        let tree = Self { entries };
        tree.validate()?;
        Ok(tree)
    }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let Attributes {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = &entry.attributes;
    let linked = if entry.hard_link.is_some() { LINKED } else { 0 };
    out.put_bytes(&entry.name);
    out.put_u8(kind(&entry.node) | linked);
    out.put_u16(*mode);
    out.put_uvarint((*uid).into());
    out.put_uvarint((*gid).into());
    out.put_i64(mtime.seconds);
    out.put_u32(mtime.nanoseconds);
    out.put_uvarint(xattrs.len() as u64);
    for xattr in xattrs {
        out.put_bytes(&xattr.name);
        out.put_bytes(&xattr.value);
    }
    match &entry.node {
        Node::File {
            content,
            size_bytes,
        } => {
            out.put(content.as_bytes());
            out.put_uvarint(*size_bytes);
        }
        Node::Directory(tree) => out.put(tree.as_bytes()),
        Node::Symlink(target) => out.put_bytes(target),
        Node::CharDevice(device) | Node::BlockDevice(device) => {
            out.put_uvarint(device.major.into());
            out.put_uvarint(device.minor.into());
        }
        Node::Fifo | Node::Socket => {}
    }
    if let Some(link) = &entry.hard_link {
        out.put(&link.group);
        out.put_uvarint(link.count.into());
    }
}

const fn kind(node: &Node) -> u8 {
    match node {
        Node::File { .. } => 1,
        Node::Directory(_) => 2,
        Node::Symlink(_) => 3,
        Node::CharDevice(_) => 4,
        Node::BlockDevice(_) => 5,
        Node::Fifo => 6,
        Node::Socket => 7,
    }
}

fn decode_entry(wire: &mut Wire<'_>) -> Result<Entry, TreeError> {
    let name = wire.bytes(NAME_BYTES_MAX)?.into();
    let tag = wire.u8()?;
    let mode = wire.u16()?;
    let uid = wire.uvarint32()?;
    let gid = wire.uvarint32()?;
    let mtime = Timestamp {
        seconds: wire.i64()?,
        nanoseconds: wire.u32()?,
    };
    let xattr_count = wire.count(XATTR_BYTES_MIN)?;
    if xattr_count > XATTRS_MAX {
        return Err(TreeError::Malformed("too many xattrs"));
    }
    let mut xattrs = Vec::with_capacity(xattr_count);
    for _ in 0..xattr_count {
        let name = wire.bytes(XATTR_NAME_BYTES_MAX)?.into();
        let value = wire.bytes(XATTR_VALUE_BYTES_MAX)?.into();
        xattrs.push(Xattr { name, value });
    }
    let node = match tag & !LINKED {
        1 => Node::File {
            content: ContentId::new(Digest::from_bytes(wire.array()?)),
            size_bytes: wire.uvarint()?,
        },
        2 => Node::Directory(TreeId::new(Digest::from_bytes(wire.array()?))),
        3 => Node::Symlink(wire.bytes(TARGET_BYTES_MAX)?.into()),
        4 => Node::CharDevice(decode_device(wire)?),
        5 => Node::BlockDevice(decode_device(wire)?),
        6 => Node::Fifo,
        7 => Node::Socket,
        _ => return Err(TreeError::Malformed("unknown kind of entry")),
    };
    let hard_link = if tag & LINKED == 0 {
        None
    } else {
        Some(HardLink {
            group: wire.array()?,
            count: wire.uvarint32()?,
        })
    };
    Ok(Entry {
        name,
        attributes: Attributes {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
        node,
        hard_link,
    })
}

fn decode_device(wire: &mut Wire<'_>) -> Result<Device, TreeError> {
    Ok(Device {
        major: wire.uvarint32()?,
        minor: wire.uvarint32()?,
    })
}
