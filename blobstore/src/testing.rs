//! For tests of this and the crates above: a store with faults, and the suite that every store
//! must pass. Behind the feature `testing`.

mod clock;
mod conformance;
mod fault;
mod hook;

use std::sync::Arc;

use crate::{BlobStore, ObjectBackend};

pub use clock::TokioClock;
pub use conformance::{ConformanceOptions, conformance, conformance_with};
pub use fault::{Count, Fault, FaultKind, FaultStore, Operation};
pub use hook::HookStore;

/// Returns an empty store in memory.
pub fn memory_store() -> Arc<dyn BlobStore> {
    Arc::new(ObjectBackend::memory())
}
