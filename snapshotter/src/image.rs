//! Images in a store: records of an OCI manifest and config with the tree of every layer prefix.

use nacre_blobstore::{
    BlobStore, Record, RecordError, RecordId, RecordKind, Ref, RefError, RefName, RefNameError,
    TreeId, Version, delete_ref, list_refs, read_ref,
};
use serde::{Deserialize, Serialize};

use crate::oci::OciDigest;

/// The namespace of the refs of images.
pub const IMAGES_NAMESPACE: &str = "images";

/// What an image's record holds beside trees and packs, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePayload {
    /// The manifest, byte for byte as pulled.
    pub manifest: String,
    /// Its digest.
    pub manifest_digest: OciDigest,
    /// Its media type.
    pub media_type: String,
    /// The config, byte for byte as pulled.
    pub config: String,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Names in the merged tree that are no directories.
    pub files: u64,
    /// Bytes of the layers as pulled.
    pub bytes_compressed: u64,
    /// Bytes of the files of the merged tree.
    pub bytes_plain: u64,
}

/// A layer of an image, and the file system up to and with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the blob.
    pub digest: OciDigest,
    /// Digest of the plain tar.
    pub diff_id: OciDigest,
    /// Names this layer and all below it (OCI image-spec, config.md, "Layer ChainID").
    pub chain_id: OciDigest,
    /// The root tree of this prefix of the layers.
    pub tree: String,
}

/// An image that was found in a store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name, or none when it was found by its id.
    pub name: Option<String>,
    /// The id of its record.
    pub id: RecordId,
    /// When its name was given to it, in milliseconds since 1970; 0 without a name.
    pub changed_ms: u64,
    /// Its record.
    pub record: Record,
    /// What the record says of it.
    pub payload: ImagePayload,
}

/// Why an image is not found or not read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name or id.
    #[error("no image is called {0:?}")]
    NotFound(String),
    /// The text is neither a name nor an id.
    #[error(transparent)]
    Name(#[from] RefNameError),
    /// The ref cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The record cannot be read.
    #[error("image {name:?}: {source}")]
    Record {
        /// Name or id asked for.
        name: String,
        /// What is wrong.
        source: RecordError,
    },
    /// The record is not one of an image.
    #[error("{0:?} is not an image")]
    Kind(String),
}

/// Returns the ref of the image called `name`; without a tag it is `latest`, as docker has it.
///
/// # Errors
/// [`RefNameError`] for text that can be no name.
pub fn image_ref(name: &str) -> Result<RefName, RefNameError> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = if last.contains([':', '@']) {
        ""
    } else {
        ":latest"
    };
    format!("{IMAGES_NAMESPACE}/{name}{tag}").parse()
}

impl Image {
    /// Finds an image by name, or by its whole id.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn find(store: &dyn BlobStore, name: &str) -> Result<Self, ImageError> {
        if let Ok(id) = name.parse() {
            return Self::read(store, name, id, None).await;
        }
        let reference = image_ref(name)?;
        match read_ref(store, &reference).await? {
            Some((target, _)) => {
                Self::read(store, name, target.record, Some((reference, target))).await
            }
            None => Err(ImageError::NotFound(name.to_owned())),
        }
    }

    /// Returns the id of the image that has a name, or of the one that is named by its id. One
    /// request for a name, none for an id.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn locate(store: &dyn BlobStore, name: &str) -> Result<RecordId, ImageError> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        match read_ref(store, &image_ref(name)?).await? {
            Some((target, _)) => Ok(target.record),
            None => Err(ImageError::NotFound(name.to_owned())),
        }
    }

    async fn read(
        store: &dyn BlobStore,
        asked: &str,
        id: RecordId,
        named: Option<(RefName, Ref)>,
    ) -> Result<Self, ImageError> {
        let record = match Record::read(store, id).await {
            Err(RecordError::Store(nacre_blobstore::StoreError::NotFound(_)))
                if named.is_none() =>
            {
                return Err(ImageError::NotFound(asked.to_owned()));
            }
            read => read.map_err(|source| ImageError::Record {
                name: asked.into(),
                source,
            })?,
        };
        if record.kind != RecordKind::Image {
            return Err(ImageError::Kind(asked.to_owned()));
        }
        let payload = serde_json::from_slice(&record.payload);
        let payload = payload.map_err(|_| ImageError::Kind(asked.to_owned()))?;
        let changed_ms = named.as_ref().map_or(0, |(_, target)| target.changed_ms);
        let strip = |name: &RefName| {
            let name = name.as_str();
            name.split_once('/')
                .map_or(name, |(_, name)| name)
                .to_owned()
        };
        let name = named.as_ref().map(|(name, _)| strip(name));
        Ok(Self {
            name,
            id,
            changed_ms,
            record,
            payload,
        })
    }

    /// Returns all images that have names, sorted by name.
    ///
    /// # Errors
    /// [`ImageError`] for the first that cannot be read.
    pub async fn list(store: &dyn BlobStore) -> Result<Vec<Self>, ImageError> {
        let mut images = Vec::new();
        for reference in list_refs(store, Some(IMAGES_NAMESPACE)).await? {
            // One that was removed since it was listed is no error.
            if let Some((target, _)) = read_ref(store, &reference).await? {
                let name = reference.to_string();
                images.push(
                    Self::read(store, &name, target.record, Some((reference, target))).await?,
                );
            }
        }
        Ok(images)
    }

    /// Takes a name away. What no other ref needs becomes garbage.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when nothing has that name.
    pub async fn remove(store: &dyn BlobStore, name: &str) -> Result<(), ImageError> {
        let reference = image_ref(name)?;
        let found: Option<(Ref, Version)> = read_ref(store, &reference).await?;
        found.ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
        Ok(delete_ref(store, &reference).await?)
    }

    /// Returns the root tree of the whole image.
    pub fn tree(&self) -> Option<TreeId> {
        self.record.trees.last().copied()
    }
}
