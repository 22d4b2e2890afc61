//! What the table on the disk says of a slot.
//!
//! ```text
//! table:  "NACRRGN1" | block length u32 | unit length u32 | CRC-64 of these, padded to 4 KiB
//!         record of slot 0 | record of slot 1 | ...
//! record: "NRCB" | slot u32 | object id, 32 bytes | block number u32 | length u32
//!         length of the object u64 | CRC-64 of each unit, u64 each | CRC-64 of all before
//! ```
//! Little-endian. A record that does not check out is a free slot: nothing here is worth more than
//! a fetch. A record says what its slot should hold, never what it does hold.

use nacre_blobstore::Digest;

use crate::server::block::{BlockId, UNIT_BYTES, block_len, checksum};

const TABLE_MAGIC: &[u8; 8] = b"NACRRGN1";
const RECORD_MAGIC: &[u8; 4] = b"NRCB";
/// Where the first record is.
pub(super) const HEAD_BYTES: u64 = 4096;
const FIXED_BYTES: usize = 4 + 4 + Digest::LEN + 4 + 4 + 8;
const CHECKSUM_BYTES: usize = 8;

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) slot: u32,
    pub(super) id: BlockId,
    pub(super) len: u32,
    pub(super) object_bytes: u64,
    /// Of each unit.
    pub(super) checksums: Box<[u64]>,
}

/// Returns the length of the records of blocks of this length.
pub(super) fn record_bytes(block_bytes: u32) -> usize {
    let units = block_bytes.div_ceil(UNIT_BYTES) as usize;
    FIXED_BYTES + units * size_of::<u64>() + CHECKSUM_BYTES
}

/// Returns the start of a table.
pub(super) fn head(block_bytes: u32) -> Vec<u8> {
    let mut head = TABLE_MAGIC.to_vec();
    head.extend(block_bytes.to_le_bytes());
    head.extend(UNIT_BYTES.to_le_bytes());
    let sum = checksum(&head);
    head.extend(sum.to_le_bytes());
    head
}

impl Record {
    pub(super) fn encode(&self, block_bytes: u32) -> Vec<u8> {
        let len = record_bytes(block_bytes);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(RECORD_MAGIC);
        bytes.extend(self.slot.to_le_bytes());
        bytes.extend(self.id.object.as_bytes());
        bytes.extend(self.id.number.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.object_bytes.to_le_bytes());
        for sum in &self.checksums {
            bytes.extend(sum.to_le_bytes());
        }
        bytes.resize(len - CHECKSUM_BYTES, 0);
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// Reads the record of `slot`; `None` for a free slot, and for anything that is no record.
    pub(super) fn decode(bytes: &[u8], slot: u32, block_bytes: u32) -> Option<Self> {
        if bytes.len() != record_bytes(block_bytes) || !bytes.starts_with(RECORD_MAGIC) {
            return None;
        }
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let mut fields = Fields(&body[RECORD_MAGIC.len()..]);
        let written_for = fields.u32()?;
        let object = Digest::from_bytes(*fields.take()?);
        let (number, len, object_bytes) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let units = len.div_ceil(UNIT_BYTES) as usize;
        let right_len = len > 0 && len == block_len(object_bytes, number, block_bytes);
        if written_for != slot || !right_len {
            return None;
        }
        let checksums = (0..units).map(|_| fields.u64()).collect::<Option<_>>()?;
        Some(Self {
            slot,
            id: BlockId { object, number },
            len,
            object_bytes,
            checksums,
        })
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().copied().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().copied().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 4 * UNIT_BYTES;

    fn record() -> Record {
        Record {
            slot: 7,
            id: BlockId {
                object: Digest::of(b"object"),
                number: 2,
            },
            len: UNIT_BYTES + 1,
            object_bytes: u64::from(2 * BLOCK + UNIT_BYTES + 1),
            checksums: Box::new([1, 2]),
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = record().encode(BLOCK);
        assert_eq!(bytes.len(), record_bytes(BLOCK));
        assert_eq!(Record::decode(&bytes, 7, BLOCK), Some(record()));
    }

    #[test]
    fn what_is_no_record_of_the_slot_is_a_free_slot() {
        let good = record().encode(BLOCK);
        assert_eq!(Record::decode(&good, 8, BLOCK), None, "another slot's");
        assert_eq!(Record::decode(&good, 7, 2 * BLOCK), None, "longer blocks");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad, 7, BLOCK), None, "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(Record::decode(&good[..len], 7, BLOCK), None, "{len} bytes");
        }
        assert_eq!(Record::decode(&vec![0; good.len()], 7, BLOCK), None);
    }

    #[test]
    fn a_length_that_the_object_does_not_give_is_refused() {
        for (len, object_bytes) in [
            (UNIT_BYTES, 2 * BLOCK),
            (0, 2 * BLOCK),
            (u32::MAX, u32::MAX),
        ] {
            let bad = Record {
                len,
                object_bytes: object_bytes.into(),
                ..record()
            };
            assert_eq!(Record::decode(&bad.encode(BLOCK), 7, BLOCK), None);
        }
    }
}
