//! The side of a writer that takes items.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::assembler::FrameOrder;
use super::{PlainFrame, Shared, WriteError, lock};
use crate::frame::FRAME_ITEMS_MAX;
use crate::pack::{Item, ItemKind};
use crate::{Chunk, Digest};

/// A kind of items that are likely to be read together. Items of one affinity share frames, and in a
/// pack those frames follow each other, lower numbers first. There should be few: a stream keeps a
/// frame open for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Affinity(pub u8);

/// Items in the order in which they will be read: neighbours share frames.
#[derive(Debug)]
pub struct ItemStream {
    shared: Arc<Shared>,
    frames: SyncSender<PlainFrame>,
    frame_bytes: usize,
    number: u32,
    /// One frame for each affinity that was met.
    open: Vec<PlainFrame>,
    /// The place of the current affinity among them.
    current: usize,
    /// Frames opened so far.
    opened: u32,
}

impl ItemStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        frames: SyncSender<PlainFrame>,
        frame_bytes: usize,
        number: u32,
    ) -> Self {
        let mut stream = Self {
            shared,
            frames,
            frame_bytes,
            number,
            open: Vec::new(),
            current: 0,
            opened: 0,
        };
        stream.turn_to(Affinity::default());
        stream
    }

    /// Says that what is added from now on is read together with what else has this affinity.
    pub fn turn_to(&mut self, affinity: Affinity) {
        let found = self.open.iter().position(|f| f.order.affinity == affinity);
        self.current = found.unwrap_or_else(|| {
            let frame = self.next_frame(affinity);
            self.open.push(frame);
            self.open.len() - 1
        });
    }

    fn next_frame(&mut self, affinity: Affinity) -> PlainFrame {
        self.opened = self.opened.wrapping_add(1);
        PlainFrame {
            order: FrameOrder {
                affinity,
                stream: self.number,
                number: self.opened,
            },
            plain: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Adds a chunk, unless it is in the store. Blocks while the queue is full.
    ///
    /// # Errors
    /// The writer's first failure, which may stem from earlier items.
    pub fn add_chunk(&mut self, chunk: &Chunk) -> Result<(), WriteError> {
        let item = Item {
            kind: ItemKind::Chunk(chunk.id()),
            hash: *chunk.id().digest(),
        };
        let new = self.add(item, chunk.bytes())?;
        let mut stats = lock(&self.shared.stats);
        if new {
            stats.chunks_new += 1;
            stats.bytes_new_plain += chunk.bytes().len() as u64;
        } else {
            stats.chunks_known += 1;
        }
        Ok(())
    }

    /// Adds an encoded tree or chunk list, unless it is in the store. Blocks while the queue is
    /// full.
    ///
    /// # Errors
    /// The writer's first failure, which may stem from earlier items.
    pub fn add_metadata(&mut self, kind: ItemKind, bytes: &[u8]) -> Result<(), WriteError> {
        self.add(
            Item {
                kind,
                hash: Digest::of(bytes),
            },
            bytes,
        )
        .map(drop)
    }

    fn add(&mut self, item: Item, bytes: &[u8]) -> Result<bool, WriteError> {
        self.shared.check()?;
        // Taken before looked up: an upload enters the index before it gives its items free.
        if !lock(&self.shared.taken).insert(item.kind) {
            return Ok(false);
        }
        if !self.shared.copies && self.shared.index.locate(item.kind)?.is_some() {
            lock(&self.shared.taken).remove(&item.kind);
            return Ok(false);
        }
        let len_bytes = u32::try_from(bytes.len()).expect("items are at most FRAME_BYTES_MAX");
        let PlainFrame { plain, items, .. } = &self.open[self.current];
        let full = plain.len() + bytes.len() > self.frame_bytes || items.len() == FRAME_ITEMS_MAX;
        if full && !items.is_empty() {
            self.send(self.current)?;
        }
        let frame = &mut self.open[self.current];
        frame.plain.extend_from_slice(bytes);
        frame.items.push((item, len_bytes));
        Ok(true)
    }

    /// Sends the open frames off. Must be called before the stream is dropped.
    ///
    /// # Errors
    /// The writer's first failure.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        (0..self.open.len()).try_for_each(|place| self.send(place))
    }

    fn send(&mut self, place: usize) -> Result<(), WriteError> {
        if self.open[place].items.is_empty() {
            return Ok(());
        }
        let next = self.next_frame(self.open[place].order.affinity);
        let frame = std::mem::replace(&mut self.open[place], next);
        self.frames.send(frame).map_err(|_| WriteError::Stopped)
    }
}
