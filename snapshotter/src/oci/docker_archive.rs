//! What `docker save` writes: a tar with a `manifest.json`, plain or compressed layers, and no
//! OCI manifest. One is made up, the same for the same archive.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;

use super::blob::BlobStream;
use super::config::ImageConfig;
use super::digest::{Algorithm, Hasher, OciDigest};
use super::error::OciError;
use super::file_range::{FileRange, blocking};
use super::manifest::{
    CONFIG_BYTES_MAX, Descriptor, LAYERS_MAX, MANIFEST_BYTES_MAX, NewManifest, OCI_MANIFEST,
    layer_media_type,
};
use super::resolve::{BlobProvider, Root, only};
use super::tar_index::TarIndex;
use crate::layer::Compression;

/// Bytes of a layer hashed at once.
const HASH_BYTES: u64 = 1 << 20;

/// An image in an archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    label: String,
    manifest: Bytes,
    blobs: HashMap<OciDigest, FileRange>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// Opens an archive and one of its images. Without a tag it must hold exactly one.
    ///
    /// # Errors
    /// [`OciError::NotFound`] and [`OciError::Ambiguous`] for the tag, [`OciError::Malformed`] for
    /// an archive without a sound `manifest.json`, [`OciError::Io`].
    pub async fn open(file: &Path, tag: Option<&str>) -> Result<Self, OciError> {
        let file = FileRange::open(file.to_owned()).await?;
        let tag = tag.map(str::to_owned);
        blocking(move || Self::read(&TarIndex::read(file)?, tag.as_deref())).await
    }

    fn read(index: &TarIndex, tag: Option<&str>) -> Result<Self, OciError> {
        let what = format!("manifest.json of {}", index.label());
        let json = index
            .find("manifest.json")?
            .read_all(&what, MANIFEST_BYTES_MAX)?;
        let images: Vec<SavedImage> =
            serde_json::from_slice(&json).map_err(|error| OciError::malformed(&what, error))?;
        let image = choose(images, tag, &index.label())?;
        let config_file = index.find(&image.config)?;
        let config = config_file.read_all(&image.config, CONFIG_BYTES_MAX)?;
        let diff_ids = ImageConfig::parse(&config)?.diff_ids;
        let layers = image.layers.unwrap_or_default();
        if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX {
            let message = format!("{} layers, {} diff_ids", layers.len(), diff_ids.len());
            return Err(OciError::malformed(what, message));
        }
        let mut blobs = HashMap::from([(OciDigest::of(&config), config_file)]);
        let mut descriptors = Vec::with_capacity(layers.len());
        for (name, diff_id) in layers.iter().zip(diff_ids) {
            let (descriptor, file) = layer(index.find(name)?, diff_id)?;
            blobs.insert(descriptor.digest.clone(), file);
            descriptors.push(descriptor);
        }
        let manifest = NewManifest::encode(&config, descriptors);
        Ok(Self {
            label: index.label(),
            manifest,
            blobs,
        })
    }

    fn stored(&self, digest: &OciDigest) -> Result<BlobStream, OciError> {
        let missing = || OciError::NotFound(format!("{digest} in {}", self.label));
        Ok(self.blobs.get(digest).ok_or_else(missing)?.clone().stream())
    }
}

/// Describes a layer. That of a plain tar is its diff id; one that docker's containerd store
/// saved compressed has to be hashed.
fn layer(file: FileRange, diff_id: OciDigest) -> Result<(Descriptor, FileRange), OciError> {
    let mut head = [0; 4];
    let head_bytes = usize::try_from(file.len())
        .unwrap_or(usize::MAX)
        .min(head.len());
    file.read_exact_at(&mut head[..head_bytes], 0)?;
    let compression = Compression::of_magic(&head[..head_bytes]);
    let digest = match compression {
        Compression::None => diff_id,
        Compression::Gzip | Compression::Zstd => hash(&file)?,
    };
    Ok((
        Descriptor::new(layer_media_type(compression), digest, file.len()),
        file,
    ))
}

fn hash(file: &FileRange) -> Result<OciDigest, OciError> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut at = 0;
    while let Some(piece) = file
        .part(at, HASH_BYTES.min(file.len() - at))
        .filter(|p| p.len() > 0)
    {
        hasher.update(&piece.read_all("a piece of a layer", HASH_BYTES)?);
        at += piece.len();
    }
    Ok(hasher.finish())
}

/// Tells whether `tag` means the image that docker tagged `repo_tag`.
fn means(tag: &str, repo_tag: &str) -> bool {
    let full = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        name.strip_prefix("library/").unwrap_or(name).to_owned()
    };
    let tag_alone = repo_tag.rsplit_once(':').is_some_and(|(_, t)| t == tag);
    full(tag) == full(repo_tag) || tag_alone
}

fn choose(
    mut images: Vec<SavedImage>,
    tag: Option<&str>,
    label: &str,
) -> Result<SavedImage, OciError> {
    let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
    let all = images
        .iter()
        .flat_map(tags)
        .take(20)
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(tag) = tag {
        images.retain(|image| tags(image).iter().any(|repo_tag| means(tag, repo_tag)));
    }
    only(images, tag, all, label)
}

#[async_trait::async_trait]
impl BlobProvider for DockerArchive {
    async fn root(&self) -> Result<Root, OciError> {
        let bytes = self.manifest.clone();
        let digest = OciDigest::of(&bytes);
        Ok(Root {
            bytes,
            digest,
            media_type: OCI_MANIFEST.to_owned(),
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        self.stored(&descriptor.digest)
    }

    async fn blob(&self, digest: &OciDigest, _size_bytes: u64) -> Result<BlobStream, OciError> {
        self.stored(digest)
    }
}

#[cfg(test)]
mod tests;
