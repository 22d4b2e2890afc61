//! The bytes of an image while it grows: data blocks and inodes.

use super::Reason;
use super::format::{BLOCK_BYTES, INODE_BYTES, Inode, NLINK_OFFSET, SLOT_BYTES, Superblock};
use super::xattr::XattrBody;

/// Largest image, in bytes.
pub const IMAGE_BYTES_MAX: usize = 1 << 30;

/// A place in what is written so far.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Blocks(usize),
    Inodes(usize),
}

impl Place {
    pub(super) const fn plus(self, offset: usize) -> Self {
        match self {
            Self::Blocks(at) => Self::Blocks(at + offset),
            Self::Inodes(at) => Self::Inodes(at + offset),
        }
    }
}

/// Blocks and inodes. They grow apart, so that blocks are whole without gaps and inode numbers,
/// which count from the first inode, are known at once.
#[derive(Debug)]
pub(super) struct Space {
    /// The first is block 1 of the image.
    blocks: Vec<u8>,
    /// Slot 0 stays empty: number 0 means "none" to readdir(3).
    inodes: Vec<u8>,
    inode_count: u32,
    promised_bytes: usize,
}

impl Space {
    pub(super) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            inodes: vec![0; SLOT_BYTES],
            inode_count: 0,
            promised_bytes: 0,
        }
    }

    /// Counts bytes that will be added later; what promises them takes memory already.
    pub(super) fn promise(&mut self, bytes: usize) -> Result<(), Reason> {
        self.promised_bytes = self.promised_bytes.saturating_add(bytes);
        self.check(0)
    }

    /// Takes a promise back.
    pub(super) const fn fulfil(&mut self, bytes: usize) {
        self.promised_bytes -= bytes;
    }

    /// Refuses to grow beyond the limit.
    fn check(&self, more: usize) -> Result<(), Reason> {
        // The superblock, and what follows the last inode.
        let fixed = 3 * BLOCK_BYTES;
        let parts = [
            self.blocks.len(),
            self.inodes.len(),
            self.promised_bytes,
            more,
        ];
        let total = parts.into_iter().fold(fixed, usize::saturating_add);
        if total > IMAGE_BYTES_MAX {
            return Err("an image larger than IMAGE_BYTES_MAX");
        }
        Ok(())
    }

    /// Adds blocks of zeros; returns the address of the first and where it is.
    pub(super) fn add_blocks(&mut self, count: usize) -> Result<(u32, Place), Reason> {
        let (start, more) = (self.blocks.len(), count.saturating_mul(BLOCK_BYTES));
        self.check(more)?;
        self.blocks.resize(start + more, 0);
        Ok((block_number(BLOCK_BYTES + start), Place::Blocks(start)))
    }

    /// Tells whether an inode with these attributes and this much data needs no second block,
    /// which the kernel demands of data that stands there.
    pub(super) fn is_inline(xattrs: &XattrBody, data_bytes: usize) -> bool {
        INODE_BYTES + xattrs.bytes().len() + data_bytes <= BLOCK_BYTES
    }

    /// Adds an inode with its attributes and `tail_bytes` zeros; returns its number and where the
    /// zeros are. It begins a block when it would cross the end of one.
    pub(super) fn add_inode(
        &mut self,
        inode: &Inode<'_>,
        xattrs: &XattrBody,
        tail_bytes: usize,
    ) -> Result<(u64, Place), Reason> {
        let bytes = INODE_BYTES + xattrs.bytes().len() + tail_bytes;
        self.check(bytes + BLOCK_BYTES)?;
        let mut start = self.inodes.len().next_multiple_of(SLOT_BYTES);
        if bytes.min(BLOCK_BYTES) > BLOCK_BYTES - start % BLOCK_BYTES {
            start = start.next_multiple_of(BLOCK_BYTES);
        }
        self.inode_count += 1;
        self.inodes.resize(start, 0);
        let fixed = inode.encode(xattrs.count(), self.inode_count);
        self.inodes.extend_from_slice(&fixed);
        self.inodes.extend_from_slice(xattrs.bytes());
        let tail = self.inodes.len();
        self.inodes.resize(tail + tail_bytes, 0);
        Ok(((start / SLOT_BYTES) as u64, Place::Inodes(tail)))
    }

    /// Sets how many names an inode has.
    pub(super) fn set_nlink(&mut self, nid: u64, nlink: u32) {
        let slot = usize::try_from(nid).expect("inode numbers are positions in memory");
        let place = Place::Inodes(slot * SLOT_BYTES + NLINK_OFFSET);
        self.at(place)[..4].copy_from_slice(&nlink.to_le_bytes());
    }

    /// Returns the bytes from a place on.
    pub(super) fn at(&mut self, place: Place) -> &mut [u8] {
        match place {
            Place::Blocks(at) => &mut self.blocks[at..],
            Place::Inodes(at) => &mut self.inodes[at..],
        }
    }

    /// Puts the image together.
    pub(super) fn finish(mut self, uuid: [u8; 16], root_nid: u16) -> Vec<u8> {
        // erofs-utils 1.5 looks at what follows each inode, even where nothing needs to.
        let end = self.inodes.len() + SLOT_BYTES;
        self.inodes.resize(end.next_multiple_of(BLOCK_BYTES), 0);
        let inodes_start = BLOCK_BYTES + self.blocks.len();
        let bytes = inodes_start + self.inodes.len();
        let superblock = Superblock {
            root_nid,
            inodes: u64::from(self.inode_count),
            blocks: block_number(bytes),
            inodes_block: block_number(inodes_start),
            uuid,
        };
        let mut image = Vec::with_capacity(bytes);
        image.extend_from_slice(&superblock.encode());
        image.append(&mut self.blocks);
        image.append(&mut self.inodes);
        image
    }
}

fn block_number(offset_bytes: usize) -> u32 {
    u32::try_from(offset_bytes / BLOCK_BYTES).expect("offsets are below IMAGE_BYTES_MAX")
}
