//! The contents whose local file is open.

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use nacre_blobstore::ContentId;
use rustix::io::{ReadWriteFlags, preadv2};

use super::partial::Partial;

/// What the node has of a content. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Local {
    /// All of it, checked.
    Complete(Arc<File>),
    /// Some of its chunks.
    Partial(Arc<Partial>),
    /// Nothing, and it is one chunk.
    Absent,
    /// Nothing usable: its chunks do not make it.
    Wrong,
}

impl Local {
    fn file(&self) -> Option<&File> {
        match self {
            Self::Complete(file) => Some(file),
            Self::Partial(partial) => partial.file_with(0..0),
            Self::Absent | Self::Wrong => None,
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Complete(file) => Arc::strong_count(file) == 1,
            Self::Partial(partial) => Arc::strong_count(partial) == 1,
            Self::Absent | Self::Wrong => true,
        }
    }
}

/// Open contents, at most about a given number: when there are as many, the idle ones are closed.
#[derive(Debug)]
pub(super) struct Locals {
    limit: usize,
    open: Mutex<HashMap<ContentId, Local>>,
}

impl Locals {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Mutex::default(),
        }
    }

    pub(super) fn get(&self, content: ContentId) -> Option<Local> {
        self.lock().get(&content).cloned()
    }

    pub(super) fn insert(&self, content: ContentId, local: Local) -> Local {
        let mut open = self.lock();
        if open.len() >= self.limit {
            open.retain(|_, local| !local.is_idle());
        }
        open.insert(content, local.clone());
        local
    }

    /// Closes a content unless it is being read, and tells whether it is closed.
    pub(super) fn remove_idle(&self, content: ContentId) -> bool {
        let mut open = self.lock();
        let idle = open.get(&content).is_none_or(Local::is_idle);
        let removed = idle.then(|| open.remove(&content));
        drop(open);
        removed.is_some()
    }

    pub(super) fn remove(&self, content: ContentId) {
        let removed = self.lock().remove(&content);
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContentId, Local>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a range that the local file holds: at once from the page cache, otherwise off the
/// reactor. `None` when the file is short or cannot be read.
pub(super) async fn read_file(local: &Local, range: Range<u64>) -> Option<Bytes> {
    let len = usize::try_from(range.end - range.start).ok()?;
    let mut bytes = BytesMut::zeroed(len);
    let cached = {
        let file = local.file()?;
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        // Fails with `EAGAIN`, or where the file system cannot tell, without reading anything.
        preadv2(file, buffers, range.start, ReadWriteFlags::NOWAIT).unwrap_or(0)
    };
    if cached == len {
        return Some(bytes.freeze());
    }
    let local = local.clone();
    let rest = range.start + cached as u64;
    let read = off_reactor(move || {
        local
            .file()?
            .read_exact_at(&mut bytes[cached..], rest)
            .ok()?;
        Some(bytes.freeze())
    });
    read.await.flatten()
}

/// Runs what blocks on a thread for it; `None` when the runtime is shutting down.
pub(super) async fn off_reactor<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
