//! The data of the current entry: stored segments, with holes between them.

use std::io::Read;

use super::input::{Input, padding};
use super::sparse::{Layout, Segment};
use crate::layer::error::Fault;

/// What is left of the current entry's data.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Segments in order; those before `next` are read.
    segments: Vec<Segment>,
    next: usize,
    position_bytes: u64,
    size_bytes: u64,
    /// Bytes of the stream that are left of the entry, padding included.
    stored_bytes: u64,
}

impl Body {
    /// Makes `layout` the current data. Its segments hold what [`Layout`] promises.
    pub(super) fn start(&mut self, layout: Layout) {
        let Layout {
            segments,
            size_bytes,
            stored_bytes,
        } = layout;
        let stored_bytes = stored_bytes + padding(stored_bytes);
        *self = Self {
            segments,
            next: 0,
            position_bytes: 0,
            size_bytes,
            stored_bytes,
        };
    }

    /// Reads on into `buffer`; 0 at the end of the data.
    pub(super) fn read<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buffer: &mut [u8],
    ) -> Result<usize, Fault> {
        while self
            .segments
            .get(self.next)
            .is_some_and(|s| s.end_bytes() <= self.position_bytes)
        {
            self.next += 1;
        }
        let segment = self.segments.get(self.next).copied();
        let segment = segment.unwrap_or(Segment {
            offset_bytes: self.size_bytes,
            len_bytes: 0,
        });
        let in_hole = self.position_bytes < segment.offset_bytes;
        let end = if in_hole {
            segment.offset_bytes
        } else {
            segment.end_bytes()
        };
        let len = usize::try_from(end - self.position_bytes)
            .map_or(buffer.len(), |left| left.min(buffer.len()));
        if len == 0 {
            return Ok(0);
        }
        let read = if in_hole {
            buffer[..len].fill(0);
            len
        } else {
            let read = input.read_some(&mut buffer[..len])?;
            if read == 0 {
                return Err(Fault::malformed("ends inside an entry"));
            }
            self.stored_bytes -= read as u64;
            read
        };
        self.position_bytes += read as u64;
        Ok(read)
    }

    /// Skips to the block after the data.
    pub(super) fn skip<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), Fault> {
        let stored_bytes = std::mem::take(&mut self.stored_bytes);
        self.position_bytes = self.size_bytes;
        self.next = self.segments.len();
        input.skip(stored_bytes)
    }
}
