//! Local copies as they come, are found, and go. All of it blocks.

use std::fs::File;
use std::io;

use nacre_blobstore::{Chunk, ContentId};

use super::fetch::Inner;
use super::layout::{Layers, bytes_on_disk};
use super::partial::Partial;

impl Inner {
    /// Opens a complete content that is right. One of before a power loss is checked first.
    pub(super) fn open_complete(&self, content: ContentId, size_bytes: u64) -> Option<File> {
        let open = || {
            let _names = self.names.lock(content);
            self.settle_ahead(content);
            let file = self.layout.open_complete(content, size_bytes)?;
            self.note(content, &file);
            Some(file)
        };
        if let Some(file) = open() {
            return Some(file);
        }
        let unverified = self.layout.open_unverified(content, size_bytes);
        let _names = self.names.lock(content);
        let Some(file) = unverified else {
            self.note_absence(content);
            return None;
        };
        // Where it cannot be moved it is checked again another time.
        self.layout.trust(content).ok()?;
        self.note(content, &file);
        Some(file)
    }

    /// Gives a complete content its second name in the arrivals. `false` when there is no right
    /// copy.
    pub(super) fn link(&self, content: ContentId, size_bytes: u64) -> io::Result<bool> {
        {
            let _names = self.names.lock(content);
            if self.settle_ahead(content) {
                self.quota.with(|table| table.touch(content, self.now()));
                return self.layout.link_arrival(content).map(|()| true);
            }
        }
        // From here on it is not evicted for a while.
        if self.open_complete(content, size_bytes).is_none() {
            return Ok(false);
        }
        let _names = self.names.lock(content);
        self.layout.link_arrival(content).map(|()| true)
    }

    /// Writes a content of one chunk into the store, gives it its second name if that is wanted, and
    /// returns it open.
    pub(super) fn publish(
        &self,
        content: ContentId,
        layers: Layers,
        bytes: &[u8],
    ) -> io::Result<File> {
        self.storing(bytes.len() as u64, 1, || {
            let file = self.layout.write_incoming(content, bytes)?;
            let _names = self.names.lock(content);
            // It was not when this fetch began.
            if self.ahead.take(content) {
                self.layout.remove_ahead(content);
            }
            self.layout.publish(content)?;
            self.note(content, &file);
            if layers == Layers::Both {
                self.layout.link_arrival(content)?;
            }
            Ok(file)
        })
    }

    /// Opens the file of a large content that is not complete, and tells whether it was there
    /// before.
    pub(super) fn open_partial(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> io::Result<(File, bool)> {
        self.storing(0, 1, || {
            let _names = self.names.lock(content);
            let (file, resumed) = self.layout.open_partial(content, size_bytes)?;
            self.note(content, &file);
            Ok((file, resumed))
        })
    }

    /// Writes a chunk of a large content, and tells whether it was the last one missing.
    pub(super) fn store_chunk(
        &self,
        content: ContentId,
        partial: &Partial,
        index: usize,
        chunk: &Chunk,
    ) -> io::Result<bool> {
        let Some(file) = partial.file_with(0..0) else {
            return Ok(false);
        };
        let len_bytes = chunk.bytes().len() as u64;
        if !self.quota.may_grow(content, len_bytes) {
            let reason = "the content is too large for the quota";
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        self.storing(len_bytes, 0, || {
            let completed = partial.store(index, chunk)?;
            // Chunks are written side by side: who measures last must also note last.
            let _names = self.names.lock(content);
            let (bytes, now) = (bytes_on_disk(file), self.now());
            if !self.quota.with(|table| table.resize(content, bytes, now)) {
                // It was evicted under this task; the next read begins another file.
                self.locals.remove(content);
            }
            Ok(completed)
        })
    }

    /// Checks a large content that has all its chunks and moves it to the store. `false` when
    /// the chunks do not make the content, which is dropped then.
    pub(super) fn settle_complete(&self, content: ContentId) -> io::Result<bool> {
        let right = self.layout.check_partial(content)?;
        let _names = self.names.lock(content);
        if right {
            self.layout.complete(content)?;
        } else {
            self.layout.drop_content(content);
            self.quota.with(|table| table.remove(content));
        }
        Ok(right)
    }

    /// Drops every local copy of a content.
    pub(super) fn drop_content(&self, content: ContentId) {
        let _names = self.names.lock(content);
        self.ahead.take(content);
        self.layout.drop_content(content);
        self.quota.with(|table| table.remove(content));
    }

    /// Takes a content off the table if nothing of it is left, since a bad copy is removed.
    fn note_absence(&self, content: ContentId) {
        let is_known = self.quota.with(|table| table.bytes_of(content).is_some());
        let is_ahead = self.ahead.contains(content);
        if is_known && !is_ahead && self.layout.open_any(content).is_none() {
            self.quota.with(|table| table.remove(content));
        }
    }

    /// Counts a use of a content, and what it takes on the disk.
    pub(super) fn note(&self, content: ContentId, file: &File) {
        let (bytes, now) = (bytes_on_disk(file), self.now());
        self.quota.with(|table| table.insert(content, bytes, now));
    }
}
