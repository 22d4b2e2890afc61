//! What became of the layers that containerd asked for: nothing falls back in silence.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) attached: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) ingests: AtomicU64,
    pub(super) ingests_failed: AtomicU64,
}

/// `GET /v1/containerd/stats`: what became of layers that containerd asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerdStats {
    /// Layers that were attached, so that containerd did not download them.
    pub layers_attached: u64,
    /// Layers that containerd unpacked, because the store has not got them.
    pub layers_ordinary_unknown: u64,
    /// Layers that containerd unpacked, because the store or the registry could not be asked.
    pub layers_ordinary_failed: u64,
    /// Images that were added to the store because containerd pulled them.
    pub images_added: u64,
    /// Images that could not be added.
    pub images_add_failed: u64,
}

impl Counters {
    /// Returns the counts.
    pub(crate) fn stats(&self) -> ContainerdStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ContainerdStats {
            layers_attached: read(&self.attached),
            layers_ordinary_unknown: read(&self.unknown),
            layers_ordinary_failed: read(&self.failed),
            images_added: read(&self.ingests),
            images_add_failed: read(&self.ingests_failed),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
