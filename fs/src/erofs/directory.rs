//! The data of directories: sorted names in blocks that can be searched in halves.
//!
//! Each block holds 12 bytes for every name in it (inode number, offset of the name, kind), then
//! the names without separators. `.` and `..` stand in their place among the others.

use std::ops::Range;

use super::entry::ImageEntry;
use super::format::{BLOCK_BYTES, FileType};

/// What a name needs besides its bytes.
const DIRENT_BYTES: usize = 12;

/// A name and what it names.
#[derive(Debug)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    /// Number of the inode, or 0 while it has none.
    pub(super) nid: u64,
    /// Neither of `.` nor of `..`.
    pub(super) entry: Option<&'a ImageEntry<'a>>,
}

/// Puts `.` and `..` into their place among sorted entries.
pub(super) fn with_dots<'a>(entries: &'a [ImageEntry<'a>]) -> Vec<Dirent<'a>> {
    let mut dirents = Vec::with_capacity(entries.len() + 2);
    let mut rest = entries;
    for dot in [&b"."[..], b".."] {
        let (before, after) = rest.split_at(rest.partition_point(|entry| entry.name < dot));
        dirents.extend(before.iter().map(Dirent::from));
        dirents.push(Dirent {
            name: dot,
            nid: 0,
            entry: None,
        });
        rest = after;
    }
    dirents.extend(rest.iter().map(Dirent::from));
    dirents
}

impl<'a> From<&'a ImageEntry<'a>> for Dirent<'a> {
    fn from(entry: &'a ImageEntry<'a>) -> Self {
        Self {
            name: entry.name,
            nid: 0,
            entry: Some(entry),
        }
    }
}

/// How names are spread over blocks.
#[derive(Debug)]
pub(super) struct Spread {
    /// The names of each block; there is at least one block.
    pub(super) blocks: Vec<Range<usize>>,
    /// How much of the last block is used, in bytes.
    pub(super) tail_bytes: usize,
}

impl Spread {
    /// Fills block after block.
    pub(super) fn of(dirents: &[Dirent<'_>]) -> Self {
        let (mut blocks, mut start, mut used) = (Vec::new(), 0, 0);
        for (i, dirent) in dirents.iter().enumerate() {
            let needed = DIRENT_BYTES + dirent.name.len();
            if used + needed > BLOCK_BYTES {
                blocks.push(start..i);
                (start, used) = (i, 0);
            }
            used += needed;
        }
        blocks.push(start..dirents.len());
        Self {
            blocks,
            tail_bytes: used,
        }
    }

    /// Returns the length of the directory, in bytes.
    pub(super) const fn size_bytes(&self) -> u64 {
        ((self.blocks.len() - 1) * BLOCK_BYTES + self.tail_bytes) as u64
    }
}

/// Returns where in its block the number of the `index`th inode stands.
pub(super) const fn nid_offset(index: usize) -> usize {
    index * DIRENT_BYTES
}

/// Writes the names of one block into `block`, which is zero.
pub(super) fn write_block(dirents: &[Dirent<'_>], block: &mut [u8]) {
    let mut name_offset = nid_offset(dirents.len());
    for (i, dirent) in dirents.iter().enumerate() {
        let head = &mut block[nid_offset(i)..][..DIRENT_BYTES];
        write_nid(head, dirent.nid);
        let offset = u16::try_from(name_offset).expect("an offset in a block of 4 KiB");
        head[8..10].copy_from_slice(&offset.to_le_bytes());
        let file_type = (dirent.entry).map_or(FileType::Directory, ImageEntry::file_type);
        head[10] = file_type.in_directory();
        block[name_offset..][..dirent.name.len()].copy_from_slice(dirent.name);
        name_offset += dirent.name.len();
    }
}

/// Writes the number of an inode at the start of `place`.
pub(super) fn write_nid(place: &mut [u8], nid: u64) {
    place[..8].copy_from_slice(&nid.to_le_bytes());
}
