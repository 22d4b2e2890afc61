//! The fixed structures of EROFS: superblock and inode (`fs/erofs/erofs_fs.h` of Linux).
//!
//! ```text
//! block 0          superblock at offset 1,024
//! then             data: blocks of directories and long symlinks
//! then           inodes, each with its attributes and the tail of its data, in slots of 32
//!                  bytes; a slot's number is the inode's number ("nid")
//! ```

use nacre_blobstore::{Attributes, Device};

/// Unit of data, in bytes.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Unit of inode numbers, in bytes.
pub(super) const SLOT_BYTES: usize = 32;
/// An extended inode, in bytes: 32-bit owners and its own time.
pub(super) const INODE_BYTES: usize = 64;

const SUPERBLOCK_OFFSET: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
/// The superblock carries a checksum.
const COMPAT_SB_CHKSUM: u32 = 0x1;
/// Times of inodes are mtimes.
const COMPAT_MTIME: u32 = 0x2;
/// Some files are in chunks.
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// Largest major and minor number that a device has in Linux (12 and 20 bits).
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// Chunks of a file are blocks times two to the power of this, the largest the format has: 8 TiB.
pub(super) const CHUNK_FORMAT: u32 = 31;
/// The address of a chunk that is a hole.
pub(super) const HOLE: [u8; 4] = [0xff; 4];

/// Where the data of an inode is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// In blocks.
    Plain = 0,
    /// Whole blocks, and the rest behind the inode and its attributes.
    Inline = 2,
    /// In chunks whose addresses stand behind the inode and its attributes.
    Chunks = 4,
}

/// The kind of an inode: its bits of `st_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileType {
    Fifo = 0o01,
    CharDevice = 0o02,
    Directory = 0o04,
    BlockDevice = 0o06,
    File = 0o10,
    Symlink = 0o12,
    Socket = 0o14,
}

impl FileType {
    /// Returns the kind's number in directories (`FT_*` of Linux).
    pub(super) const fn in_directory(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// An inode without its attributes and data.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    pub(super) file_type: FileType,
    pub(super) layout: Layout,
    pub(super) attributes: &'a Attributes,
    pub(super) size_bytes: u64,
    /// The first block, the device number, or the chunk format.
    pub(super) union: u32,
    pub(super) nlink: u32,
}

/// Where the number of names stands in an encoded inode.
pub(super) const NLINK_OFFSET: usize = 44;

impl Inode<'_> {
    /// Encodes a `struct erofs_inode_extended`; `ino` is what 32-bit systems are shown.
    pub(super) fn encode(&self, xattr_count: u16, ino: u32) -> [u8; INODE_BYTES] {
        const EXTENDED: u16 = 1;
        let mtime = self.attributes.mtime;
        let mut bytes = [0; INODE_BYTES];
        let mut put = Put::new(&mut bytes);
        put.bytes(&(EXTENDED | (self.layout as u16) << 1).to_le_bytes());
        put.bytes(&xattr_count.to_le_bytes());
        put.bytes(&(self.attributes.mode | (self.file_type as u16) << 12).to_le_bytes());
        put.skip(2);
        put.bytes(&self.size_bytes.to_le_bytes());
        put.bytes(&self.union.to_le_bytes());
        put.bytes(&ino.to_le_bytes());
        put.bytes(&self.attributes.uid.to_le_bytes());
        put.bytes(&self.attributes.gid.to_le_bytes());
        put.bytes(&mtime.seconds.to_le_bytes());
        put.bytes(&mtime.nanoseconds.to_le_bytes());
        put.bytes(&self.nlink.to_le_bytes());
        bytes
    }
}

/// Encodes a device number as Linux does on disk (`new_encode_dev`), or `None` when it has too
/// many bits.
pub(super) const fn encode_device(device: Device) -> Option<u32> {
    let Device { major, minor } = device;
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return None;
    }
    Some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// What the superblock says.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    /// How many inodes there are.
    pub(super) inodes: u64,
    /// How many blocks the image has.
    pub(super) blocks: u32,
    /// Where slot 0 is.
    pub(super) inodes_block: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Encodes block 0: a `struct erofs_super_block` in zeros.
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = Put::new(&mut block[SUPERBLOCK_OFFSET..][..SUPERBLOCK_BYTES]);
        put.bytes(&MAGIC.to_le_bytes());
        put.skip(4); // checksum
        put.bytes(&(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        put.bytes(&[BLOCK_BITS, 0]);
        put.bytes(&self.root_nid.to_le_bytes());
        put.bytes(&self.inodes.to_le_bytes());
        put.skip(8 + 4); // build time: every inode has its own
        put.bytes(&self.blocks.to_le_bytes());
        put.bytes(&self.inodes_block.to_le_bytes());
        put.skip(4); // shared attributes
        put.bytes(&self.uuid);
        put.skip(16); // volume name
        put.bytes(&INCOMPAT_CHUNKED_FILE.to_le_bytes());
        let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[SUPERBLOCK_OFFSET + 4..][..4].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// CRC-32C as the kernel's `crc32c(~0, ...)` computes it, which leaves out the final complement.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    })
}

/// Writes field after field.
struct Put<'a> {
    rest: &'a mut [u8],
}

impl<'a> Put<'a> {
    const fn new(rest: &'a mut [u8]) -> Self {
        Self { rest }
    }

    fn bytes(&mut self, field: &[u8]) {
        self.skip(field.len()).copy_from_slice(field);
    }

    fn skip(&mut self, len: usize) -> &mut [u8] {
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        self.rest = rest;
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_the_check_value_of_the_catalogue() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn devices_are_encoded_as_linux_does_and_bounded() {
        let encode = |major, minor| encode_device(Device { major, minor });
        assert_eq!(encode(8, 1), Some(0x801));
        assert_eq!(encode(MAJOR_MAX, MINOR_MAX), Some(u32::MAX));
        assert_eq!(encode(MAJOR_MAX + 1, 0), None);
        assert_eq!(encode(0, MINOR_MAX + 1), None);
    }
}
