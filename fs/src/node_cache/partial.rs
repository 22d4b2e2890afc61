//! A large content of which the node has some chunks.
//!
//! The file has holes where chunks are missing. Which chunks are there is known in memory only,
//! and a chunk counts as there only after its verified bytes were written, so a reader never sees
//! a hole. After a restart nothing is believed: what the file holds is checked against the
//! chunk's id before it counts, which costs a fifth of a millisecond for each MiB and needs no
//! map on disk that could be newer than its data.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use nacre_blobstore::{Chunk, ChunkExtent, ChunkList};
use rustix::fs::{SeekFrom, seek};

use super::read_ahead::Streams;

/// The chunks of a large content that are on the node.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) list: Arc<ChunkList>,
    /// `None` where the disk does not take it: then every chunk is only served.
    file: Option<File>,
    /// Whether the file may hold chunks from before the start.
    resumed: bool,
    present: Box<[AtomicBool]>,
    missing: AtomicUsize,
    pub(super) streams: Streams,
    missed: AtomicBool,
}

impl Partial {
    pub(super) fn new(list: Arc<ChunkList>, file: Option<(File, bool)>) -> Self {
        let (file, resumed) = file.map_or((None, false), |(file, resumed)| (Some(file), resumed));
        let chunks = list.extents().len();
        Self {
            list,
            file,
            resumed,
            present: (0..chunks).map(|_| AtomicBool::new(false)).collect(),
            missing: AtomicUsize::new(chunks),
            streams: Streams::default(),
            missed: AtomicBool::new(false),
        }
    }

    /// Returns the extent of a chunk.
    pub(super) fn extent(&self, index: usize) -> ChunkExtent {
        self.list.extents()[index]
    }

    /// Tells whether a chunk is on the node, checked.
    pub(super) fn is_present(&self, index: usize) -> bool {
        // Pairs with the release below: who sees the flag sees the bytes.
        self.present[index].load(Ordering::Acquire)
    }

    /// Returns the file when all chunks of `range` are in it.
    pub(super) fn file_with(&self, mut range: std::ops::Range<usize>) -> Option<&File> {
        self.file
            .as_ref()
            .filter(|_| range.all(|index| self.is_present(index)))
    }

    /// Reads a chunk that is present, or that was left by an earlier run and proves right, in
    /// which case the second value tells whether it completed the content. Blocks.
    pub(super) fn read_stored(&self, index: usize) -> Option<(Bytes, bool)> {
        let file = self.file.as_ref()?;
        let present = self.is_present(index);
        let extent = self.extent(index);
        let left_from_before = !present && self.resumed && has_data(file, extent);
        if !present && !left_from_before {
            return None;
        }
        let mut bytes = BytesMut::zeroed(extent.len_bytes as usize);
        file.read_exact_at(&mut bytes, extent.offset_bytes).ok()?;
        let chunk = Chunk::verify(extent.id, bytes.freeze()).ok()?;
        Some((chunk.bytes().clone(), !present && self.mark(index)))
    }

    /// Writes a chunk and tells whether it was the last one missing. Blocks.
    pub(super) fn store(&self, index: usize, chunk: &Chunk) -> std::io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let extent = self.extent(index);
        assert_eq!(
            chunk.id(),
            extent.id,
            "a chunk is written only to its own place"
        );
        file.write_all_at(chunk.bytes(), extent.offset_bytes)?;
        Ok(self.mark(index))
    }

    /// Counts a chunk as present; its bytes must be in the file already.
    fn mark(&self, index: usize) -> bool {
        let was_present = self.present[index].swap(true, Ordering::AcqRel);
        !was_present && self.missing.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Notes a read that has to wait, and returns whether it is the first.
    pub(super) fn is_first_miss(&self) -> bool {
        !self.missed.swap(true, Ordering::Relaxed)
    }
}

/// Tells whether the file has anything but a hole at an extent.
fn has_data(file: &File, extent: ChunkExtent) -> bool {
    // `ENXIO` says that only a hole follows.
    seek(file, SeekFrom::Data(extent.offset_bytes)).is_ok_and(|data| data < extent.end_bytes())
}
