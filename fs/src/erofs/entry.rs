//! What a directory of an image may hold.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use nacre_blobstore::{
    Attributes, ContentId, Device, Entry, NAME_BYTES_MAX, Node, TARGET_BYTES_MAX,
};

use super::Reason;
use super::format::{BLOCK_BYTES, CHUNK_FORMAT, FileType};
use super::small::{SMALL_FILE_BYTES_MAX, SmallContents};

/// Largest file, in bytes: one chunk of EROFS, more than a content can have.
pub const FILE_BYTES_MAX: u64 = (BLOCK_BYTES as u64) << CHUNK_FORMAT;

/// The device number by which overlayfs knows a whiteout.
pub(super) const WHITEOUT: Device = Device { major: 0, minor: 0 };

/// A name in a directory of an image, with its inode.
#[derive(Debug, Clone, Copy)]
pub struct ImageEntry<'a> {
    /// The name: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
    pub name: &'a [u8],
    /// Attributes of the inode.
    pub attributes: &'a Attributes,
    /// What the inode is.
    pub inode: ImageInode<'a>,
    /// The group of entries that share one inode, equal in attributes and inode. Never on a
    /// directory.
    pub hard_link: Option<[u8; 16]>,
}

/// What an [`ImageEntry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageInode<'a> {
    /// A directory.
    Directory {
        /// Whether it hides what layers below hold in it.
        opaque: bool,
    },
    /// A regular file whose bytes are in a data-only layer.
    File {
        /// Names the bytes.
        content: ContentId,
        /// Length in bytes; at most [`FILE_BYTES_MAX`].
        size_bytes: u64,
    },
    /// A regular file and its bytes, 1 to [`SMALL_FILE_BYTES_MAX`].
    SmallFile(&'a [u8]),
    /// A symbolic link and its target.
    Symlink(&'a [u8]),
    /// A character device. 0:0 is refused, for overlayfs takes it for a whiteout.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// Hides the name in layers below. Has no place in an opaque directory, where nothing is left
    /// to hide: overlayfs would list the name.
    Whiteout,
}

impl<'a> From<&'a Entry> for ImageEntry<'a> {
    fn from(entry: &'a Entry) -> Self {
        let inode = match &entry.node {
            Node::File {
                content,
                size_bytes,
            } => ImageInode::File {
                content: *content,
                size_bytes: *size_bytes,
            },
            Node::Directory(_) => ImageInode::Directory { opaque: false },
            Node::Symlink(target) => ImageInode::Symlink(target),
            Node::CharDevice(device) => ImageInode::CharDevice(*device),
            Node::BlockDevice(device) => ImageInode::BlockDevice(*device),
            Node::Fifo => ImageInode::Fifo,
            Node::Socket => ImageInode::Socket,
        };
        Self {
            name: &entry.name,
            attributes: &entry.attributes,
            inode,
            hard_link: entry.hard_link.map(|link| link.group),
        }
    }
}

impl<'a> ImageEntry<'a> {
    /// Gives a file its bytes, if they are at hand.
    pub(super) fn with_bytes(self, small: &'a SmallContents) -> Self {
        let bytes = match self.inode {
            ImageInode::File {
                content,
                size_bytes,
            } => (small.get(content)).filter(|bytes| bytes.len() as u64 == size_bytes),
            _ => None,
        };
        let inode = bytes.map_or(self.inode, ImageInode::SmallFile);
        Self { inode, ..self }
    }
}

impl ImageEntry<'_> {
    pub(super) const fn is_directory(&self) -> bool {
        matches!(self.inode, ImageInode::Directory { .. })
    }

    pub(super) const fn file_type(&self) -> FileType {
        match self.inode {
            ImageInode::Directory { .. } => FileType::Directory,
            ImageInode::File { .. } | ImageInode::SmallFile(_) => FileType::File,
            ImageInode::Symlink(_) => FileType::Symlink,
            ImageInode::CharDevice(_) | ImageInode::Whiteout => FileType::CharDevice,
            ImageInode::BlockDevice(_) => FileType::BlockDevice,
            ImageInode::Fifo => FileType::Fifo,
            ImageInode::Socket => FileType::Socket,
        }
    }

    /// Returns a hash of all but the name.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.attributes, self.inode).hash(&mut hasher);
        hasher.finish()
    }

    /// Checks what needs no other entry than the one before.
    pub(super) fn check(&self, name_before: &[u8]) -> Result<(), Reason> {
        let name = self.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err("a name that is empty or longer than 255 bytes");
        }
        if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err("not a file name");
        }
        if name <= name_before {
            return Err("names that are not unique and sorted");
        }
        check_attributes(self.attributes)?;
        match self.inode {
            ImageInode::Directory { .. } if self.hard_link.is_some() => {
                Err("a directory with several names")
            }
            ImageInode::File { size_bytes, .. } if size_bytes > FILE_BYTES_MAX => {
                Err("a file larger than FILE_BYTES_MAX")
            }
            ImageInode::SmallFile(bytes)
                if bytes.is_empty() || bytes.len() > SMALL_FILE_BYTES_MAX =>
            {
                Err("a small file that is empty or larger than SMALL_FILE_BYTES_MAX")
            }
            ImageInode::Symlink(target)
                if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) =>
            {
                Err("a symlink target that is empty, too long or has a NUL")
            }
            ImageInode::CharDevice(WHITEOUT) => {
                Err("a character device 0:0, which overlayfs takes for a whiteout")
            }
            _ => Ok(()),
        }
    }
}

/// Checks the attributes that have more values in memory than in the format or in Linux.
pub(super) const fn check_attributes(attributes: &Attributes) -> Result<(), Reason> {
    if attributes.mode > 0o7777 {
        return Err("a mode of more than permission bits");
    }
    // To Linux, all ones are no owner.
    if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        return Err("an owner that Linux does not have");
    }
    if attributes.mtime.nanoseconds >= 1_000_000_000 {
        return Err("nanoseconds that exceed a second");
    }
    Ok(())
}
