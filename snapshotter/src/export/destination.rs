//! Where an exported image goes.

use std::fmt;
use std::path::Path;

use bytes::Bytes;

use super::ExportError;
use crate::oci::{Descriptor, OciDigest};

/// A place that takes the parts of an image: blobs first, then the manifest that names them.
#[async_trait::async_trait]
pub(super) trait Destination: fmt::Debug + Send + Sync {
    /// Gets ready for what is to be put. Nothing is changed before that.
    async fn begin(&self) -> Result<(), ExportError>;

    /// Tells whether a blob is there, or makes it so without its bytes if it can.
    async fn has(&self, blob: &Descriptor) -> Result<bool, ExportError>;

    /// Takes a blob from a file, which it may move away. Its digest was checked.
    async fn put_file(&self, blob: &Descriptor, file: &Path) -> Result<(), ExportError>;

    /// Takes a small blob.
    async fn put_bytes(&self, digest: &OciDigest, bytes: Bytes) -> Result<(), ExportError>;

    /// Takes the manifest and gives it its name. The image is there when this returns.
    async fn put_manifest(&self, media_type: &str, manifest: Bytes) -> Result<(), ExportError>;
}
