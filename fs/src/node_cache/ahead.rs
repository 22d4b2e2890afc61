//! Contents on the disk before anybody reads them.
//!
//! What comes ahead on a guess is written to where no one looks. The lookup or read that comes for
//! it moves it to the store, which takes a tenth of what getting it out of its frame, checking and
//! writing it does; and it is seen, as it would not be if the kernel found the content in the store:
//! traces are made of what is seen. What nobody comes for is evicted as other contents are, at the
//! latest when [`AHEAD_MAX`] younger ones came, and does not outlive the process.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nacre_blobstore::{Chunk, ContentId};

use super::NodeCache;
use super::fetch::Inner;
use super::local::Local;

/// Contents that nobody came for, of at most
/// [`CHUNK_BYTES_MAX`](nacre_blobstore::CHUNK_BYTES_MAX) each; the oldest goes first.
pub(super) const AHEAD_MAX: usize = 4096;

/// The contents that are ahead, or on their way.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    stages: HashMap<ContentId, Stage>,
    /// In the order in which they came, with some that are gone.
    order: VecDeque<ContentId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Being written, by the only one who does.
    Incoming,
    There,
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it upon the caller to write a content. `false` when it is there or somebody else writes
    /// it.
    fn begin(&self, content: ContentId) -> bool {
        let mut contents = self.lock();
        let begun = !contents.stages.contains_key(&content);
        if begun {
            contents.stages.insert(content, Stage::Incoming);
        }
        begun
    }

    fn arrived(&self, content: ContentId) {
        let mut contents = self.lock();
        contents.stages.insert(content, Stage::There);
        contents.order.push_back(content);
        if contents.order.len() > 2 * AHEAD_MAX {
            let Contents { stages, order } = &mut *contents;
            order.retain(|content| stages.contains_key(content));
        }
    }

    /// Returns the oldest content if there are too many.
    fn oldest_beyond_limit(&self) -> Option<ContentId> {
        let mut contents = self.lock();
        let is_full = contents.stages.len() > AHEAD_MAX;
        is_full.then(|| contents.order.pop_front()).flatten()
    }

    /// Tells whether a content is there, and nobody has come for it.
    pub(super) fn contains(&self, content: ContentId) -> bool {
        self.lock().stages.get(&content) == Some(&Stage::There)
    }

    /// Forgets a content that is there. `false` when it is not.
    pub(super) fn take(&self, content: ContentId) -> bool {
        let mut contents = self.lock();
        let is_there = contents.stages.get(&content) == Some(&Stage::There);
        if is_there {
            contents.stages.remove(&content);
        }
        is_there
    }

    fn give_up(&self, content: ContentId) {
        self.lock().stages.remove(&content);
    }
}

impl NodeCache {
    /// Writes a chunk of a content, which may be all of it, for who will probably read it. What the
    /// disk does not take is left, and so is what is there. Of a large content only what follows its
    /// first chunk is taken, once somebody asked what of it is [missing](Self::missing). Blocks.
    pub fn bring_ahead(&self, content: ContentId, number: u32, chunk: &Chunk) {
        // Nothing is written once the cache is closed.
        let _token = self.tasks.token();
        if self.tasks.is_closed() {
            return;
        }
        let brought = match chunk.id() == content.as_single_chunk() {
            true => self.inner.bring_whole(content, chunk),
            false => self.inner.bring_part(content, number as usize, chunk),
        };
        if let Err(error) = brought {
            tracing::debug!(%content, %error, "write ahead");
        }
    }

    /// Tells whether a content was brought ahead and nobody has come for it.
    pub fn is_ahead(&self, content: ContentId) -> bool {
        self.inner.ahead.contains(content)
    }
}

impl Inner {
    fn bring_whole(&self, content: ContentId, chunk: &Chunk) -> io::Result<()> {
        if !self.quota.is_absent(content) || !self.ahead.begin(content) {
            return Ok(());
        }
        let written = self.write_ahead(content, chunk.bytes());
        if written.is_err() {
            self.ahead.give_up(content);
        }
        while let Some(oldest) = self.ahead.oldest_beyond_limit() {
            self.drop_ahead(oldest);
        }
        written
    }

    /// Who opens a large content reads its first chunk. Without it the content is not complete, and
    /// does not get where the kernel would find it unseen.
    fn bring_part(&self, content: ContentId, index: usize, chunk: &Chunk) -> io::Result<()> {
        let Some(Local::Partial(partial)) = self.locals.get(content) else {
            return Ok(());
        };
        let extent = partial.list.extents().get(index);
        let is_its = extent.is_some_and(|extent| extent.id == chunk.id());
        if index == 0 || !is_its || partial.is_present(index) {
            return Ok(());
        }
        if self.store_chunk(content, &partial, index, chunk)? {
            self.settle(content);
        }
        Ok(())
    }

    fn write_ahead(&self, content: ContentId, bytes: &[u8]) -> io::Result<()> {
        self.storing(bytes.len() as u64, 1, || {
            let file = self.layout.write_ahead(content, bytes)?;
            let _names = self.names.lock(content);
            // Whoever could not wait for it has fetched it.
            if !self.quota.is_absent(content) {
                self.layout.remove_ahead(content);
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.note(content, &file);
            self.ahead.arrived(content);
            Ok(())
        })
    }

    /// Moves a content that is ahead to the store, as somebody comes for it. `false` when it is not.
    /// The caller holds its names.
    pub(super) fn settle_ahead(&self, content: ContentId) -> bool {
        if !self.ahead.take(content) {
            return false;
        }
        self.reader.comes_for(content);
        match self.layout.settle_ahead(content) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%content, %error, "move a content to the store");
                self.quota.with(|table| table.remove(content));
                false
            }
        }
    }

    /// Drops a content that nobody came for.
    fn drop_ahead(&self, content: ContentId) {
        let _names = self.names.lock(content);
        if self.ahead.take(content) {
            self.layout.remove_ahead(content);
            self.quota.with(|table| table.remove(content));
        }
    }
}
