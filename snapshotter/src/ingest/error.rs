//! Why an ingest ends early.

use nacre_blobstore::{
    CatalogError, ChunkListError, IndexError, LeaseError, MetadataImageError, RefError,
    RefNameError, SecureError, StoreError, TreeError, WriteError,
};

use nacre_fs::erofs::ErofsError;

use crate::layer::LayerError;
use crate::merge::MergeError;
use crate::oci::{OciDigest, OciError};

/// Why an image could not be added. The store is consistent in any case.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The source cannot be read, or is no image for this platform.
    #[error(transparent)]
    Source(#[from] OciError),
    /// A layer is damaged, hostile, or uses what is not supported.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A layer does not fit on those below it.
    #[error("layer {layer}: {source}")]
    Merge {
        /// The layer.
        layer: String,
        /// What does not fit.
        source: MergeError,
    },
    /// A layer's plain bytes do not have the digest that the config says.
    #[error("layer {layer}: its plain bytes have digest {found}, the config says {expected}")]
    DiffId {
        /// The layer.
        layer: OciDigest,
        /// The digest of its bytes.
        found: OciDigest,
        /// The digest in the config.
        expected: OciDigest,
    },
    /// Manifest or config is not text.
    #[error("manifest or config is not UTF-8")]
    NotText,
    /// Packs could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store's packs could not be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lease was not had or was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Something that the image needs is being collected, or was.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The name was not given.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] RefNameError),
    /// A file cannot be described.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The trees make no metadata image.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The metadata image cannot be stored.
    #[error(transparent)]
    Metadata(#[from] MetadataImageError),
    /// A content has too many chunks.
    #[error(transparent)]
    ChunkList(#[from] ChunkListError),
    /// Something that was just stored is not in the index.
    #[error("{0} is missing after it was stored")]
    Missing(String),
    /// A worker ended without a result.
    #[error("a worker ended early")]
    Stopped,
}
