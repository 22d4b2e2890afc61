//! An OCI image layout inside a tar, read in place.

use std::path::Path;

use super::blob::BlobStream;
use super::digest::OciDigest;
use super::error::OciError;
use super::file_range::{FileRange, blocking};
use super::layout::{self, LayoutFiles};
use super::manifest::Descriptor;
use super::resolve::{BlobProvider, Root};
use super::tar_index::TarIndex;

/// A tar of an OCI image layout. Nothing is extracted; the tar must not be compressed.
#[derive(Debug)]
pub struct OciArchive {
    index: TarIndex,
    tag: Option<String>,
}

impl OciArchive {
    /// Opens a tar and lists its entries. Without a tag it must hold exactly one image.
    ///
    /// # Errors
    /// [`OciError::NotFound`], [`OciError::Malformed`], [`OciError::Unsupported`] for a compressed
    /// tar, or [`OciError::Io`].
    pub async fn open(file: &Path, tag: Option<String>) -> Result<Self, OciError> {
        let file = FileRange::open(file.to_owned()).await?;
        let index = blocking(move || TarIndex::read(file)).await?;
        Ok(Self { index, tag })
    }
}

#[async_trait::async_trait]
impl LayoutFiles for OciArchive {
    async fn open(&self, name: &str) -> Result<FileRange, OciError> {
        self.index.find(name)
    }

    fn label(&self) -> String {
        self.index.label()
    }
}

#[async_trait::async_trait]
impl BlobProvider for OciArchive {
    async fn root(&self) -> Result<Root, OciError> {
        layout::root(self, self.tag.as_deref()).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        layout::blob(self, &descriptor.digest).await
    }

    async fn blob(&self, digest: &OciDigest, _size_bytes: u64) -> Result<BlobStream, OciError> {
        layout::blob(self, digest).await
    }
}
