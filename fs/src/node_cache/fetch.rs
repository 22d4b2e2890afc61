//! The work behind reads: opening, fetching, writing and dropping local copies.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nacre_blobstore::{Chunk, Clock, ContentId, ReadError};
use tokio::sync::Semaphore;

use super::ahead::Ahead;
use super::counters::Counters;
use super::in_part::InPart;
use super::is_small;
use super::layout::{Layers, Layout};
use super::local::{Local, Locals, off_reactor, read_file};
use super::names::Names;
use super::partial::Partial;
use super::quota::Quota;
use super::single_flight::Answer;
use crate::{AccessObserver, ContentReader};

/// What the tasks of a cache need.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) folder: PathBuf,
    pub(super) layout: Layout,
    pub(super) names: Names,
    pub(super) quota: Quota,
    pub(super) reader: Arc<dyn ContentReader>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) locals: Locals,
    pub(super) fetches: Semaphore,
    pub(super) waiting: Semaphore,
    pub(super) counters: Counters,
    pub(super) in_part: InPart,
    pub(super) ahead: Ahead,
    pub(super) observer: OnceLock<Arc<dyn AccessObserver>>,
}

impl Inner {
    /// Opens what the node has of a content, and of a large one begins a file for its chunks.
    pub(super) async fn open_local(
        self: &Arc<Self>,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Local, ReadError> {
        let inner = Arc::clone(self);
        let complete = off_reactor(move || inner.open_complete(content, size_bytes));
        if let Some(file) = complete.await.flatten() {
            return Ok(self.locals.insert(content, Local::Complete(Arc::new(file))));
        }
        if is_small(size_bytes) {
            return Ok(Local::Absent);
        }
        let list = self.reader.chunk_list(content, size_bytes).await?;
        if list.size_bytes() != size_bytes {
            let reason = "its chunks have another length".into();
            return Err(ReadError::Corrupt {
                what: content.to_string(),
                reason,
            });
        }
        let inner = Arc::clone(self);
        let file = off_reactor(move || inner.open_partial(content, size_bytes)).await;
        let file = file.and_then(|file| self.stored(file));
        let partial = Arc::new(Partial::new(list, file));
        Ok(self.locals.insert(content, Local::Partial(partial)))
    }

    /// Fetches a content of one chunk, answers, and then writes it to the store.
    pub(super) async fn fetch_small(
        self: Arc<Self>,
        content: ContentId,
        size_bytes: u64,
        layers: Layers,
        answer: Answer<(ContentId, usize), Result<Bytes, ReadError>>,
    ) {
        // Another flight may have ended since the reader looked.
        if let Some(local @ Local::Complete(_)) = self.locals.get(content)
            && let Some(bytes) = read_file(&local, 0..size_bytes).await
        {
            return answer.send(Ok(bytes));
        }
        let permit = self.fetches.acquire().await;
        let id = content.as_single_chunk();
        let fetched = match Chunk::verify(id, Bytes::new()) {
            // No pack has the empty content.
            Ok(empty) => Ok(empty),
            Err(_) => self.reader.chunk(id).await,
        };
        let chunk = match fetched {
            Ok(chunk) if chunk.bytes().len() as u64 == size_bytes => chunk,
            Ok(_) => {
                let reason = "it has another length than its tree says".into();
                let what = content.to_string();
                return answer.send(Err(ReadError::Corrupt { what, reason }));
            }
            Err(error) => return answer.send(Err(error)),
        };
        answer.send(Ok(chunk.bytes().clone()));
        let inner = Arc::clone(&self);
        let published = off_reactor(move || inner.publish(content, layers, chunk.bytes())).await;
        if let Some(file) = published.and_then(|file| self.stored(file)) {
            drop(self.locals.insert(content, Local::Complete(Arc::new(file))));
        }
        drop(permit);
    }

    /// Gets one chunk of a large content from its file or the reader, answers, and then writes
    /// it to the file.
    pub(super) async fn fetch_chunk(
        self: Arc<Self>,
        content: ContentId,
        partial: Arc<Partial>,
        index: usize,
        answer: Answer<(ContentId, usize), Result<Bytes, ReadError>>,
    ) {
        // Before the queue for fetches: what is on the node must not wait for the network.
        let looking = Arc::clone(&partial);
        let stored = off_reactor(move || looking.read_stored(index))
            .await
            .flatten();
        let completed = if let Some((bytes, completed)) = stored {
            answer.send(Ok(bytes));
            completed
        } else {
            let permit = self.fetches.acquire().await;
            let extent = partial.extent(index);
            let chunk = match self.reader.chunk(extent.id).await {
                Ok(chunk) if chunk.bytes().len() as u64 == u64::from(extent.len_bytes) => chunk,
                Ok(_) => {
                    let reason = "it has another length than its content's list says".into();
                    let what = extent.id.to_string();
                    return answer.send(Err(ReadError::Corrupt { what, reason }));
                }
                Err(error) => return answer.send(Err(error)),
            };
            answer.send(Ok(chunk.bytes().clone()));
            let inner = Arc::clone(&self);
            let store = move || inner.store_chunk(content, &partial, index, &chunk);
            let written = off_reactor(store).await;
            drop(permit);
            written
                .and_then(|written| self.stored(written))
                .unwrap_or(false)
        };
        if completed {
            self.complete(content).await;
        }
    }

    /// Moves a content that has all its chunks to the store.
    async fn complete(self: &Arc<Self>, content: ContentId) {
        let inner = Arc::clone(self);
        off_reactor(move || inner.settle(content)).await;
    }

    /// Does so. Blocks.
    pub(super) fn settle(&self, content: ContentId) {
        match self.settle_complete(content) {
            Ok(false) => {
                tracing::error!(%content, "chunks do not make their content");
                drop(self.locals.insert(content, Local::Wrong));
                return;
            }
            // It was evicted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%content, %error, "move a content to the store"),
            Ok(true) => self.in_part.complete(content),
        }
        // The next read opens it where it is now.
        self.locals.remove(content);
    }

    /// Drops a local copy that proved bad.
    pub(super) async fn forget_local(self: &Arc<Self>, content: ContentId) {
        tracing::info!(%content, "drop a cached content that cannot be read");
        self.locals.remove(content);
        let inner = Arc::clone(self);
        off_reactor(move || inner.drop_content(content)).await;
    }

    /// Counts what the disk did not take: the content is served all the same.
    fn stored<T>(&self, written: io::Result<T>) -> Option<T> {
        written
            .inspect_err(|error| {
                self.counters.unstored();
                tracing::debug!(%error, "serve without storing");
            })
            .ok()
    }
}
