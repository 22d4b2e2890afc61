//! Blocks: the aligned pieces of objects that are fetched, kept and evicted as one.

use std::ops::Range;

use bytes::Bytes;
use nacre_blobstore::Digest;

/// Bytes that have a checksum of their own: the least that is read from the disk at once. A reader
/// of 64 KiB has 96 KiB read and checked on average, not a whole block.
pub(super) const UNIT_BYTES: u32 = 32 << 10;
/// Length of a block unless the options say otherwise.
pub const BLOCK_BYTES: u32 = 1 << 20;
/// Largest block that may be chosen, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 4 << 20;

/// Names a block of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockId {
    pub(super) object: Digest,
    pub(super) number: u32,
}

/// The bytes of a block as the origin gave them or the disk returned them, checked against their
/// checksums where they have any. Only the last block of an object is shorter than the others.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) bytes: Bytes,
    /// Length of the whole object.
    pub(super) object_bytes: u64,
}

/// Which bytes of which block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u32,
    /// Within the block; not empty.
    pub(super) within: Range<u32>,
}

/// Returns the parts of blocks that make up `range`, in order. Lazily: a hostile range is long.
/// Ends early at the 4-billionth block, which no object reaches.
pub(super) fn parts(range: Range<u64>, block_bytes: u32) -> impl Iterator<Item = Part> {
    let size = u64::from(block_bytes);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let number = u32::try_from(at / size).ok()?;
        let start = u64::from(number) * size;
        let end = range.end.min(start + size);
        let within = narrow(at - start)..narrow(end - start);
        at = end;
        Some(Part { number, within })
    })
}

/// An offset within a block, which is far below 4 GiB.
fn narrow(offset: u64) -> u32 {
    u32::try_from(offset).expect("offsets within a block are small")
}

/// Returns the length of block `number` of an object, 0 past its end.
pub(super) fn block_len(object_bytes: u64, number: u32, block_bytes: u32) -> u32 {
    let start = u64::from(number) * u64::from(block_bytes);
    narrow(object_bytes.saturating_sub(start).min(block_bytes.into()))
}

/// Returns the checksum of a unit.
pub(super) fn checksum(unit: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, unit)
}

/// Returns the checksums of a block's units.
pub(super) fn checksums(bytes: &[u8]) -> Box<[u64]> {
    bytes.chunks(UNIT_BYTES as usize).map(checksum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_parts() {
        let cut = |range| {
            parts(range, 10)
                .map(|part| (part.number, part.within))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(0..10), [(0, 0..10)]);
        assert_eq!(cut(9..11), [(0, 9..10), (1, 0..1)]);
        assert_eq!(cut(5..35), [(0, 5..10), (1, 0..10), (2, 0..10), (3, 0..5)]);
        assert_eq!(cut(7..7), []);
        assert_eq!(parts(0..u64::MAX, 1 << 20).take(3).count(), 3);
        assert_eq!(parts(u64::MAX - 5..u64::MAX, 1 << 20).count(), 0);
    }

    #[test]
    fn the_last_block_is_short() {
        assert_eq!(block_len(25, 0, 10), 10);
        assert_eq!(block_len(25, 2, 10), 5);
        assert_eq!(block_len(25, 3, 10), 0);
        assert_eq!(block_len(20, 2, 10), 0);
        assert_eq!(block_len(0, 0, 10), 0);
        assert_eq!(block_len(u64::MAX, u32::MAX, 1 << 20), 1 << 20);
    }

    #[test]
    fn any_flipped_bit_changes_the_checksum() {
        let mut unit = vec![7; 100];
        let right = checksum(&unit);
        for bit in 0..unit.len() * 8 {
            unit[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&unit), right);
            unit[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
