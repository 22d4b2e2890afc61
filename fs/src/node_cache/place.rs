//! Placing: making a small content visible to a kernel whose lookup waits for it.
//!
//! overlayfs asks its data-only layers one after the other: the store, the gate, the arrivals. A
//! lookup that reaches the gate has found nothing in the store, and the kernel does not look
//! there again. The content is therefore published in the store, for all lookups to come, and
//! linked into the arrivals, for this one: two names of one file, with one copy of its pages.

use std::sync::Arc;

use nacre_blobstore::{ContentId, ReadError, in_span};

use super::layout::Layers;
use super::local::off_reactor;
use super::{NodeCache, is_small, read_span};

/// Where a content is after [`NodeCache::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// In the store and in the arrivals.
    Local,
    /// Nowhere on the disk, which did not take it. Its bytes are right and
    /// [`NodeCache::read`] serves them.
    Unstored,
}

impl NodeCache {
    /// Makes the complete content visible in both [layers](Self::layers), fetching it if it is
    /// not on the node. Answers when the names are there. For contents of at most
    /// [`CHUNK_BYTES_MAX`](nacre_blobstore::CHUNK_BYTES_MAX); a larger one is placed only if it is
    /// complete already. May be cancelled; fetches go on.
    ///
    /// # Errors
    /// Any [`ReadError`] of the reader, never one of the local disk.
    pub async fn place(&self, content: ContentId, size_bytes: u64) -> Result<Placed, ReadError> {
        let watch = self.watch();
        let is_small = is_small(size_bytes);
        // Before it is looked for: it may become complete meanwhile.
        if !is_small {
            self.inner.in_part.serve(content);
        }
        let absent = self.inner.quota.is_absent(content);
        if !absent && self.link(content, size_bytes).await? {
            if !is_small {
                self.inner.in_part.forget(content);
            }
            self.observe(watch, content, size_bytes, 0..size_bytes, false);
            return Ok(Placed::Local);
        }
        if !is_small {
            return Ok(Placed::Unstored);
        }
        let fetch = async { self.fetch_small(content, size_bytes, Layers::Both).await };
        in_span(read_span(content, &(0..size_bytes)), fetch).await?;
        self.observe(watch, content, size_bytes, 0..size_bytes, true);
        self.flights.landed((content, 0)).await;
        // A flight that a read began gives one name alone. The name is one system call old here,
        // so that looking for it reads no disk.
        let linked =
            self.inner.layout.is_arrival(content) || self.link(content, size_bytes).await?;
        Ok(if linked {
            Placed::Local
        } else {
            Placed::Unstored
        })
    }

    /// Returns how many large contents became complete after the gate had begun to serve them.
    pub fn completed_at_gate(&self) -> u64 {
        self.inner.in_part.completed()
    }

    /// Links a content that is on the node into the arrivals.
    async fn link(&self, content: ContentId, size_bytes: u64) -> Result<bool, ReadError> {
        let inner = Arc::clone(&self.inner);
        let linked = off_reactor(move || inner.link(content, size_bytes)).await;
        match linked {
            Some(Ok(linked)) => Ok(linked),
            Some(Err(error)) => {
                tracing::warn!(%content, %error, "link a content into the arrivals");
                Ok(false)
            }
            None => Err(ReadError::Stopped(content.to_string())),
        }
    }
}
