//! Who gives a content a name and who takes its names away wait for each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nacre_blobstore::ContentId;

/// Locks; contents share them.
const STRIPES: usize = 64;

/// Locks of contents' names, held for a few system calls.
#[derive(Debug)]
pub(super) struct Names([Mutex<()>; STRIPES]);

impl Default for Names {
    fn default() -> Self {
        Self([const { Mutex::new(()) }; STRIPES])
    }
}

impl Names {
    /// Waits until nobody else changes names of `content`. Blocks.
    pub(super) fn lock(&self, content: ContentId) -> MutexGuard<'_, ()> {
        let stripe = usize::from(content.as_bytes()[0]) % STRIPES;
        self.0[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
