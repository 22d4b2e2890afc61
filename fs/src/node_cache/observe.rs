//! Telling the observer of a cache what is read through it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{
    Chunk, ChunkId, ChunkList, ContentId, ReadError, Tier, Tree, TreeId, TreeReader,
};

use super::NodeCache;
use super::local::Local;
use crate::access::requester;
use crate::{Access, AccessObserver, Accessed, ContentReader};

/// The beginning of a read that somebody wants to know of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    pid: u32,
    at: Duration,
}

impl NodeCache {
    /// Tells `observer` of all reads from now on. Only the first observer counts.
    pub fn observe_with(&self, observer: Arc<dyn AccessObserver>) {
        drop(self.inner.observer.set(observer));
    }

    /// Begins a read; `None` when nobody wants to know or nobody known asks.
    pub(super) fn watch(&self) -> Option<Watch> {
        let observer = self.inner.observer.get()?;
        let pid = observer.is_active().then(requester).flatten()?;
        let at = self.inner.clock.elapsed();
        Some(Watch { pid, at })
    }

    /// Ends a read of a content, which was on the node or had to be fetched.
    pub(super) fn observe(
        &self,
        watch: Option<Watch>,
        content: ContentId,
        size_bytes: u64,
        range: Range<u64>,
        fetched: bool,
    ) {
        let Some(watch) = watch else { return };
        let tier = match fetched.then(|| self.chunk_at(content, range.start)) {
            // What the reader no longer remembers came from somewhere beyond the node.
            Some(chunk) => self.inner.reader.tier_of(chunk).unwrap_or(Tier::Origin),
            None => Tier::Node,
        };
        let what = Accessed::Content {
            content,
            size_bytes,
            range,
        };
        self.tell(watch, what, tier);
    }

    fn chunk_at(&self, content: ContentId, offset_bytes: u64) -> ChunkId {
        if let Some(Local::Partial(partial)) = self.inner.locals.get(content)
            && let Some(index) = partial.list.overlapping(offset_bytes, 1).next()
        {
            return partial.extent(index).id;
        }
        content.as_single_chunk()
    }

    fn tell(&self, watch: Watch, what: Accessed, tier: Tier) {
        if let Some(observer) = self.inner.observer.get() {
            observer.accessed(Access {
                what,
                pid: watch.pid,
                at: watch.at,
                waited: self.inner.clock.elapsed().saturating_sub(watch.at),
                tier,
            });
        }
    }
}

/// The reader behind the cache, with directories observed as contents are.
#[async_trait::async_trait]
impl TreeReader for NodeCache {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        let watch = self.watch();
        let read = self.inner.reader.tree(id).await;
        if let Some(watch) = watch {
            self.tell(watch, Accessed::Tree(id), Tier::Origin);
        }
        read
    }
}

#[async_trait::async_trait]
impl ContentReader for NodeCache {
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        self.inner.reader.chunk(id).await
    }

    async fn chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        self.inner.reader.chunk_list(content, size_bytes).await
    }

    async fn content_size(&self, content: ContentId) -> Result<Option<u64>, ReadError> {
        self.inner.reader.content_size(content).await
    }
}
