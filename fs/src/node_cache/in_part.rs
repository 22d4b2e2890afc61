//! Large contents that the gate serves in part, until they are complete.
//!
//! A file that overlayfs found at the gate stays there for as long as overlayfs knows it, also when
//! the content is in the store. Whoever can make overlayfs look again has to learn when it pays.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nacre_blobstore::ContentId;

/// Contents that are remembered; what the gate serves beyond those is not waited for.
const SERVED_MAX: usize = 16 << 10;

/// What the gate serves in part.
#[derive(Debug, Default)]
pub(super) struct InPart {
    served: Mutex<HashSet<ContentId>>,
    completed: AtomicU64,
}

impl InPart {
    /// Notes a content that the gate is about to serve.
    pub(super) fn serve(&self, content: ContentId) {
        let mut served = self.lock();
        if served.len() < SERVED_MAX {
            served.insert(content);
        }
    }

    /// Forgets one that was complete all the time.
    pub(super) fn forget(&self, content: ContentId) {
        self.lock().remove(&content);
    }

    /// Notes that a content is complete and in the store.
    pub(super) fn complete(&self, content: ContentId) {
        if self.lock().remove(&content) {
            self.completed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many have become complete.
    pub(super) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ContentId>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
