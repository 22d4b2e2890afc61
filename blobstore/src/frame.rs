//! Frames: one zstd frame over several neighbouring items, the unit of fetch and decompression.
//!
//! A frame is verified twice: its stored bytes against the hash in the pack's index, so that the
//! decompressor never sees hostile bytes, and each item in it against the item's own id.

mod buffers;

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::Decompressor;

use crate::{Digest, UnverifiedBytes};

/// Plain bytes at which a frame is closed by default. `docs/FORMAT.md` has the measurements.
pub const FRAME_BYTES_TARGET: usize = 256 << 10;
/// Most plain bytes in a frame: the largest item, or what a target-sized frame can grow to.
pub const FRAME_BYTES_MAX: usize = 33 << 20;
/// Most items in a frame.
pub(crate) const FRAME_ITEMS_MAX: usize = 1 << 14;
/// zstd level of new frames.
pub(crate) const ZSTD_LEVEL: i32 = 3;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One item of a frame as the index lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameItem {
    /// Hash of the item's plain bytes.
    pub hash: Digest,
    /// Its length.
    pub len_bytes: u32,
}

/// Where a frame is in its pack and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    /// Offset of its first byte in the pack.
    pub offset_bytes: u64,
    /// Length as stored.
    pub stored_bytes: u32,
    /// Hash of the stored bytes.
    pub hash: Digest,
    /// The items in order, without gaps.
    pub items: Vec<FrameItem>,
}

impl FrameEntry {
    /// Returns the byte range of the frame in its pack.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset_bytes..self.offset_bytes + u64::from(self.stored_bytes)
    }

    /// Returns the length of the frame when decompressed.
    pub fn plain_bytes(&self) -> usize {
        self.items.iter().map(|item| item.len_bytes as usize).sum()
    }

    /// Checks stored bytes against this entry's hash and decompresses them.
    ///
    /// # Errors
    /// [`FrameError`] for bytes of another hash, or a frame that does not have the length that its
    /// items need. At most [`FRAME_BYTES_MAX`] bytes are allocated.
    pub fn decode(&self, stored: UnverifiedBytes) -> Result<Frame, FrameError> {
        let stored = stored.into_untrusted();
        if !cfg!(fuzzing) && Digest::of(&stored) != self.hash {
            return Err(FrameError::Mismatch);
        }
        let plain = decompress(&stored, self.plain_bytes())?;
        let mut start = 0;
        let mut ends = Vec::with_capacity(self.items.len());
        for item in &self.items {
            start += item.len_bytes as usize;
            ends.push(start);
        }
        Ok(Frame { plain, ends })
    }
}

/// A decompressed frame. Its items are not verified yet.
#[derive(Debug, Clone)]
pub struct Frame {
    plain: Bytes,
    ends: Vec<usize>,
}

impl Frame {
    /// Returns the plain bytes of item `index`, to be checked against its id; `None` when the
    /// frame has no such item.
    pub fn item(&self, index: u32) -> Option<UnverifiedBytes> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(UnverifiedBytes::new(self.plain.slice(start..end)))
    }

    /// Returns the plain length of the whole frame, for accounting.
    pub fn plain_bytes(&self) -> usize {
        self.plain.len()
    }
}

/// Why a frame cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stored bytes do not match their hash.
    #[error("frame does not match its hash")]
    Mismatch,
    /// The bytes are no zstd frame of the expected length.
    #[error("malformed frame: {0}")]
    Malformed(String),
}

/// Compresses a frame. Returns the bytes to store.
///
/// # Errors
/// [`FrameError::Malformed`] only when zstd cannot allocate.
pub(crate) fn compress(plain: &[u8]) -> Result<Vec<u8>, FrameError> {
    zstd::bulk::compress(plain, ZSTD_LEVEL).map_err(|e| FrameError::Malformed(e.to_string()))
}

/// Decompresses a frame that must hold exactly `plain_bytes`.
///
/// # Errors
/// [`FrameError::Malformed`] when it holds more or less, or is no zstd frame.
pub fn decompress(stored: &[u8], plain_bytes: usize) -> Result<Bytes, FrameError> {
    if plain_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::Malformed(format!(
            "{plain_bytes} plain bytes exceed the limit"
        )));
    }
    let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
        // Its 160 KB are made once for each thread.
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            None => decompressor.insert(Decompressor::new()?),
        };
        buffers::filled(plain_bytes, |plain| {
            decompressor.decompress_to_buffer(stored, plain).map(drop)
        })
    });
    let plain = decompressed.map_err(|error| FrameError::Malformed(error.to_string()))?;
    if plain.len() != plain_bytes {
        let found = plain.len();
        return Err(FrameError::Malformed(format!(
            "{found} bytes instead of {plain_bytes}"
        )));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(plain: &[&[u8]]) -> (FrameEntry, Vec<u8>) {
        let stored = compress(&plain.concat()).unwrap();
        let item = |bytes: &&[u8]| FrameItem {
            hash: Digest::of(bytes),
            len_bytes: u32::try_from(bytes.len()).unwrap(),
        };
        let entry = FrameEntry {
            offset_bytes: 8,
            stored_bytes: u32::try_from(stored.len()).unwrap(),
            hash: Digest::of(&stored),
            items: plain.iter().map(item).collect(),
        };
        (entry, stored)
    }

    #[test]
    fn items_come_back_and_damage_does_not() {
        let (entry, stored) = entry(&[b"one", b"", b"three"]);
        let frame = entry
            .decode(UnverifiedBytes::new(stored.clone().into()))
            .unwrap();
        let item = |i| frame.item(i).map(UnverifiedBytes::into_untrusted);
        assert_eq!(item(0).as_deref(), Some(&b"one"[..]));
        assert_eq!(item(1).as_deref(), Some(&b""[..]));
        assert_eq!(item(2).as_deref(), Some(&b"three"[..]));
        assert_eq!(item(3), None);
        let mut bad = stored;
        bad[6] ^= 1;
        let error = entry.decode(UnverifiedBytes::new(bad.into())).unwrap_err();
        assert_eq!(error, FrameError::Mismatch);
    }

    #[test]
    fn a_frame_of_another_length_is_refused() {
        let (mut entry, stored) = entry(&[b"four"]);
        for len_bytes in [3, 5, u32::MAX] {
            entry.items[0].len_bytes = len_bytes;
            assert!(
                entry
                    .decode(UnverifiedBytes::new(stored.clone().into()))
                    .is_err()
            );
        }
    }
}
