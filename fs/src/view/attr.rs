//! The attributes of inodes, as plain values.

use std::time::Duration;

use nacre_blobstore::{Device, Entry, Node, Timestamp};

/// How long the kernel may keep what cannot change: content-addressed trees never do.
pub const IMMUTABLE_VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// Unit of [`Attr::blocks`], in bytes (fixed by stat(2)).
const BLOCK_BYTES: u64 = 512;

/// What stat(2) reports as the size of a directory, in bytes.
const DIRECTORY_BYTES: u64 = 4096;

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl Kind {
    /// Returns the kind of a node.
    pub const fn of(node: &Node) -> Self {
        match node {
            Node::File { .. } => Self::File,
            Node::Directory(_) => Self::Directory,
            Node::Symlink(_) => Self::Symlink,
            Node::CharDevice(_) => Self::CharDevice,
            Node::BlockDevice(_) => Self::BlockDevice,
            Node::Fifo => Self::Fifo,
            Node::Socket => Self::Socket,
        }
    }
}

/// What stat(2) tells of an inode. Access and change time equal `mtime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Number of names; of a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Length in blocks of 512 bytes, rounded up.
    pub blocks: u64,
    /// Device number, for devices.
    pub device: Option<Device>,
    /// How long the kernel may keep these attributes.
    pub valid: Duration,
}

impl Attr {
    /// Returns the attributes of an entry that is not a directory.
    pub(crate) fn of_leaf(ino: u64, entry: &Entry) -> Self {
        let (size_bytes, device) = match &entry.node {
            Node::File { size_bytes, .. } => (*size_bytes, None),
            Node::Symlink(target) => (target.len() as u64, None),
            Node::CharDevice(device) | Node::BlockDevice(device) => (0, Some(*device)),
            Node::Directory(_) | Node::Fifo | Node::Socket => (0, None),
        };
        let nlink = entry.hard_link.map_or(1, |link| link.count);
        Self {
            nlink,
            device,
            ..Self::new(ino, Kind::of(&entry.node), size_bytes, entry)
        }
    }

    /// Returns the attributes of a directory; `subdirectories` is `None` while its tree could not
    /// be read, and then the attributes are not to be kept.
    pub(crate) fn of_directory(ino: u64, entry: &Entry, subdirectories: Option<u32>) -> Self {
        let nlink = subdirectories.unwrap_or(0).saturating_add(2);
        let valid = if subdirectories.is_some() {
            IMMUTABLE_VALID
        } else {
            Duration::ZERO
        };
        Self {
            nlink,
            valid,
            ..Self::new(ino, Kind::Directory, DIRECTORY_BYTES, entry)
        }
    }

    /// Returns the attributes of something that is in no tree: owned by root, read-only, as old
    /// as time.
    pub(crate) fn of_fixed(ino: u64, kind: Kind, mode: u16, nlink: u32, size_bytes: u64) -> Self {
        Self {
            ino,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            nlink,
            size_bytes,
            blocks: size_bytes.div_ceil(BLOCK_BYTES),
            device: None,
            valid: IMMUTABLE_VALID,
        }
    }

    /// Returns the attributes of one of the mount's own directories.
    pub(crate) fn of_fixed_directory(ino: u64, subdirectories: u32) -> Self {
        Self::of_fixed(
            ino,
            Kind::Directory,
            0o555,
            2 + subdirectories,
            DIRECTORY_BYTES,
        )
    }

    fn new(ino: u64, kind: Kind, size_bytes: u64, entry: &Entry) -> Self {
        let attributes = &entry.attributes;
        Self {
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            ..Self::of_fixed(ino, kind, attributes.mode, 1, size_bytes)
        }
    }
}
