//! Where the data of a file lies: dense, or sparse in one of GNU tar's four forms.
//!
//! | form | map |
//! |---|---|
//! | old GNU | in the header block and extension blocks after it |
//! | PAX 0.0 | pairs of records `GNU.sparse.offset`, `GNU.sparse.numbytes` |
//! | PAX 0.1 | one record `GNU.sparse.map` |
//! | PAX 1.0 | decimal lines before the data |
//!
//! See "Storing Sparse Files" in the manual of GNU tar.

use std::io::Read;
use std::ops::Range;

use super::header::{BLOCK_BYTES, Header, number};
use super::input::Input;
use super::pax::{NOT_A_NUMBER, decimal};
use crate::layer::LayerLimits;
use crate::layer::error::Fault;

/// Map, continuation flag and size in the header block of the old GNU form.
const OLD_MAP: Range<usize> = 386..482;
const OLD_IS_EXTENDED: usize = 482;
const OLD_REAL_SIZE: Range<usize> = 483..495;
/// Map and continuation flag in its extension blocks.
const EXTENSION_MAP: Range<usize> = 0..504;
const EXTENSION_IS_EXTENDED: usize = 504;
/// Offset and length of one segment, each of 12 bytes.
const OLD_SEGMENT_BYTES: usize = 24;
/// Digits of the largest number in a map.
const MAP_DIGITS_MAX: usize = 20;

/// A stretch of a file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
}

/// How a file's bytes come out of the stream. The segments are in order, do not overlap, end
/// within `size_bytes` and sum up to `stored_bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    pub(super) size_bytes: u64,
    pub(super) stored_bytes: u64,
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    major: u64,
    minor: u64,
    size_bytes: Option<u64>,
    segments: Vec<Segment>,
    pending_offset: Option<u64>,
}

impl Segment {
    /// Returns where it ends. A [`Layout`] holds no segment for which that overflows.
    pub(super) const fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.len_bytes
    }
}

impl Layout {
    pub(super) fn dense(size_bytes: u64) -> Self {
        let segment = Segment {
            offset_bytes: 0,
            len_bytes: size_bytes,
        };
        Self {
            segments: vec![segment],
            size_bytes,
            stored_bytes: size_bytes,
        }
    }

    fn sparse(segments: Vec<Segment>, size_bytes: u64, stored_bytes: u64) -> Result<Self, Fault> {
        let mut end_bytes = 0;
        let mut sum_bytes = 0;
        for segment in &segments {
            if segment.offset_bytes < end_bytes {
                return Err(Fault::malformed(
                    "sparse segments overlap or are out of order",
                ));
            }
            end_bytes = match segment.offset_bytes.checked_add(segment.len_bytes) {
                Some(end) if end <= size_bytes => end,
                _ => return Err(Fault::malformed("sparse segment ends after its file")),
            };
            sum_bytes += segment.len_bytes;
        }
        if sum_bytes != stored_bytes {
            return Err(Fault::malformed(
                "sparse segments do not sum up to the entry's size",
            ));
        }
        Ok(Self {
            segments,
            size_bytes,
            stored_bytes,
        })
    }

    /// Reads the old GNU form from the header's block and the blocks that follow it.
    pub(super) fn of_old_gnu<R: Read>(
        header: &Header,
        block: &[u8; BLOCK_BYTES],
        input: &mut Input<R>,
        limits: &LayerLimits,
    ) -> Result<Self, Fault> {
        let mut segments = Vec::new();
        read_old_map(&block[OLD_MAP], &mut segments)?;
        let mut is_extended = block[OLD_IS_EXTENDED] != 0;
        while is_extended {
            let block = input.read_block()?;
            let block = block.ok_or(Fault::malformed("ends inside a sparse map"))?;
            read_old_map(&block[EXTENSION_MAP], &mut segments)?;
            check_segments(segments.len() as u64, limits)?;
            is_extended = block[EXTENSION_IS_EXTENDED] != 0;
        }
        Self::sparse(segments, field(&block[OLD_REAL_SIZE])?, header.size_bytes)
    }
}

impl SparseRecords {
    /// Takes in the record called `GNU.sparse.` and `key`.
    pub(super) fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        limits: &LayerLimits,
    ) -> Result<(), Fault> {
        match key {
            b"major" => self.major = decimal(value)?,
            b"minor" => self.minor = decimal(value)?,
            b"name" => self.name = Some(value.into()),
            b"size" | b"realsize" => self.size_bytes = Some(decimal(value)?),
            b"offset" => self.pending_offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.pending_offset.take();
                let offset = offset.ok_or(Fault::malformed("sparse length without its offset"))?;
                self.push(offset, decimal(value)?, limits)?;
            }
            b"map" => {
                self.segments.clear();
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next() {
                    let len = numbers.next();
                    let len = len.ok_or(Fault::malformed("sparse map has an odd count"))?;
                    self.push(decimal(offset)?, decimal(len)?, limits)?;
                }
            }
            // The count of segments says nothing that the segments do not.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, len_bytes: u64, limits: &LayerLimits) -> Result<(), Fault> {
        self.segments.push(Segment {
            offset_bytes: offset,
            len_bytes,
        });
        check_segments(self.segments.len() as u64, limits)
    }

    /// Lays out an entry of `entry_bytes` in the stream; reads the map where it stands there.
    pub(super) fn layout<R: Read>(
        self,
        entry_bytes: u64,
        input: &mut Input<R>,
        limits: &LayerLimits,
    ) -> Result<Layout, Fault> {
        let size_bytes = self
            .size_bytes
            .ok_or(Fault::malformed("sparse file without its size"))?;
        match (self.major, self.minor) {
            (0, _) => Layout::sparse(self.segments, size_bytes, entry_bytes),
            (1, 0) => {
                let mut map = StoredMap::new(input, entry_bytes);
                let count = map.next_number()?;
                check_segments(count, limits)?;
                let mut segments = Vec::new();
                for _ in 0..count {
                    let offset_bytes = map.next_number()?;
                    segments.push(Segment {
                        offset_bytes,
                        len_bytes: map.next_number()?,
                    });
                }
                let stored_bytes = map.left_bytes;
                Layout::sparse(segments, size_bytes, stored_bytes)
            }
            (major, minor) => Err(Fault::Unsupported(
                format!("sparse file of version {major}.{minor}").into(),
            )),
        }
    }
}

/// The map of the 1.0 form: decimal lines in whole blocks before the data.
struct StoredMap<'a, R> {
    input: &'a mut Input<R>,
    block: [u8; BLOCK_BYTES],
    at: usize,
    /// Bytes of the entry after the block.
    left_bytes: u64,
}

impl<'a, R: Read> StoredMap<'a, R> {
    const fn new(input: &'a mut Input<R>, entry_bytes: u64) -> Self {
        Self {
            input,
            block: [0; BLOCK_BYTES],
            at: BLOCK_BYTES,
            left_bytes: entry_bytes,
        }
    }

    fn next_byte(&mut self) -> Result<u8, Fault> {
        let truncated = Fault::malformed("ends inside a sparse map");
        if self.at == BLOCK_BYTES {
            let left_bytes = self.left_bytes.checked_sub(BLOCK_BYTES as u64);
            let (Some(left_bytes), Some(block)) = (left_bytes, self.input.read_block()?) else {
                return Err(truncated);
            };
            (self.left_bytes, self.block, self.at) = (left_bytes, block, 0);
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }

    fn next_number(&mut self) -> Result<u64, Fault> {
        let mut digits = [0; MAP_DIGITS_MAX];
        let mut len = 0;
        loop {
            match self.next_byte()? {
                b'\n' => return decimal(&digits[..len]),
                _ if len == MAP_DIGITS_MAX => return Err(Fault::malformed(NOT_A_NUMBER)),
                digit => digits[len] = digit,
            }
            len += 1;
        }
    }
}

fn read_old_map(map: &[u8], segments: &mut Vec<Segment>) -> Result<(), Fault> {
    for segment in map.chunks_exact(OLD_SEGMENT_BYTES) {
        let (offset, len) = segment.split_at(OLD_SEGMENT_BYTES / 2);
        if len[0] == 0 {
            break;
        }
        segments.push(Segment {
            offset_bytes: field(offset)?,
            len_bytes: field(len)?,
        });
    }
    Ok(())
}

fn field(field: &[u8]) -> Result<u64, Fault> {
    let number = number(field).and_then(|number| u64::try_from(number).ok());
    number.ok_or(Fault::malformed("sparse map is not made of numbers"))
}

const fn check_segments(count: u64, limits: &LayerLimits) -> Result<(), Fault> {
    Fault::check_limit(
        count,
        limits.sparse_segments_max,
        "segments in a sparse file",
    )
}
