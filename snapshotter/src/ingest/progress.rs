//! Telling how far an ingest is.

use std::fmt;

/// Is told how far an ingest is. Called from several threads; must not block.
pub trait Progress: fmt::Debug + Send + Sync + 'static {
    /// The layers are known: bytes to read for each, or 0 where that is not known.
    fn started(&self, layer_bytes: &[u64]);

    /// So many more bytes of a layer were read.
    fn read(&self, layer: usize, bytes: u64);

    /// A layer is decoded and its data on the way to the store.
    fn finished(&self, layer: usize);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _layer_bytes: &[u64]) {}

    fn read(&self, _layer: usize, _bytes: u64) {}

    fn finished(&self, _layer: usize) {}
}
