//! A repository of a registry, as a place to put images.

use std::path::Path;

use bytes::Bytes;

use super::ExportError;
use super::destination::Destination;
use crate::oci::{Descriptor, ImageReference, OciDigest, Registry, RegistryOptions};

/// A repository to be written to.
#[derive(Debug)]
pub(super) struct RegistryDestination {
    registry: Registry,
    /// A repository of the same registry that may have what is wanted.
    other: Option<String>,
}

impl RegistryDestination {
    /// Names a repository. Nothing is sent yet. What the repository of `from` has is not sent, if
    /// that is in the same registry.
    pub(super) fn new(
        to: ImageReference,
        from: Option<&ImageReference>,
        options: &RegistryOptions,
    ) -> Result<Self, ExportError> {
        let near = from.filter(|from| from.host == to.host && from.repository != to.repository);
        Ok(Self {
            other: near.map(|from| from.repository.clone()),
            registry: Registry::new(to, options)?,
        })
    }
}

#[async_trait::async_trait]
impl Destination for RegistryDestination {
    async fn begin(&self) -> Result<(), ExportError> {
        Ok(())
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, ExportError> {
        if self.registry.has_blob(&blob.digest).await? {
            return Ok(true);
        }
        match &self.other {
            Some(other) => Ok(self.registry.mount_blob(&blob.digest, other).await?),
            None => Ok(false),
        }
    }

    async fn put_file(&self, blob: &Descriptor, file: &Path) -> Result<(), ExportError> {
        Ok(self.registry.put_blob(&blob.digest, file).await?)
    }

    async fn put_bytes(&self, digest: &OciDigest, bytes: Bytes) -> Result<(), ExportError> {
        Ok(self.registry.put_blob_bytes(digest, bytes).await?)
    }

    async fn put_manifest(&self, media_type: &str, manifest: Bytes) -> Result<(), ExportError> {
        Ok(self.registry.put_manifest(media_type, manifest).await?)
    }
}
