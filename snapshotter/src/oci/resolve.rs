//! From the root document of a source to one image, the same way for every kind of source.

use std::fmt;

use bytes::Bytes;

use super::blob::{BlobStream, VerifiedBlob};
use super::config::ImageConfig;
use super::digest::OciDigest;
use super::error::OciError;
use super::manifest::{
    CONFIG_BYTES_MAX, Descriptor, Document, ImageManifest, LayerDescriptor, MANIFEST_BYTES_MAX,
};
use super::platform::Platform;

/// Most manifests and indexes read on the way to one image.
const DOCUMENTS_MAX: usize = 64;

/// An image of one platform, checked against its digests.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The manifest, byte for byte as pulled.
    pub manifest: Bytes,
    /// Its digest.
    pub manifest_digest: OciDigest,
    /// Its media type.
    pub media_type: String,
    /// The config, byte for byte as pulled. [`ImageConfig::parse`] reads it.
    pub config: Bytes,
    /// Its digest, which docker calls the image id.
    pub config_digest: OciDigest,
    /// The layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
}

/// A place that holds an image.
#[async_trait::async_trait]
pub trait ImageSource: fmt::Debug + Send + Sync + 'static {
    /// Finds the image that runs best on `platform`. Reads the manifest, any indexes above it and
    /// the config; checks their digests, and that the config has as many layers as the manifest.
    ///
    /// # Errors
    /// [`OciError::NoPlatform`] when the image is for other platforms only,
    /// [`OciError::Unsupported`] for what is no image of plain layers.
    async fn resolve(&self, platform: &Platform) -> Result<ResolvedImage, OciError>;

    /// Streams the blob of a layer of an image resolved here. Any number may be open at once.
    ///
    /// # Errors
    /// The stream ends in [`OciError::Corrupt`] or [`OciError::Size`] when the bytes passed on
    /// were not the blob's, see [`VerifiedBlob`].
    async fn open_blob(&self, layer: &LayerDescriptor) -> Result<BlobStream, OciError>;
}

/// The document that a source starts with.
#[derive(Debug)]
pub struct Root {
    /// Its bytes.
    pub bytes: Bytes,
    /// The digest that it must have.
    pub digest: OciDigest,
    /// Its media type as far as the source states one, else empty.
    pub media_type: String,
}

/// Finds bytes and checks nothing but limits. Implementing this makes an [`ImageSource`].
#[async_trait::async_trait]
pub trait BlobProvider: fmt::Debug + Send + Sync + 'static {
    /// Reads the manifest or index that was asked for, of at most [`MANIFEST_BYTES_MAX`].
    async fn root(&self) -> Result<Root, OciError>;

    /// Opens a manifest or index that an index refers to.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError>;

    /// Opens a config or a layer.
    async fn blob(&self, digest: &OciDigest, size_bytes: u64) -> Result<BlobStream, OciError>;
}

/// Returns the one image that is left of those that `label` holds, after those that `tag` does not
/// mean were dropped; `all` names what it held, for the error.
pub(super) fn only<T>(
    mut left: Vec<T>,
    tag: Option<&str>,
    all: String,
    label: &str,
) -> Result<T, OciError> {
    match (left.pop(), left.is_empty(), tag) {
        (Some(only), true, _) => Ok(only),
        (Some(_), false, _) => Err(OciError::Ambiguous {
            what: label.to_owned(),
            tags: all,
        }),
        (None, _, Some(tag)) => Err(OciError::NotFound(format!(
            "{tag} (there are: {all}) in {label}"
        ))),
        (None, _, None) => Err(OciError::NotFound(format!("any image in {label}"))),
    }
}

#[async_trait::async_trait]
impl<P: BlobProvider> ImageSource for P {
    async fn resolve(&self, platform: &Platform) -> Result<ResolvedImage, OciError> {
        let root = self.root().await?;
        let actual = root.digest.same_kind_of(&root.bytes);
        if actual != root.digest {
            return Err(OciError::Corrupt {
                expected: root.digest,
                actual,
            });
        }
        Search {
            provider: self,
            platform,
            offered: Vec::new(),
        }
        .run(root)
        .await
    }

    async fn open_blob(&self, layer: &LayerDescriptor) -> Result<BlobStream, OciError> {
        let stream = self.blob(&layer.digest, layer.size_bytes).await?;
        Ok(Box::pin(VerifiedBlob::new(
            stream,
            layer.digest.clone(),
            layer.size_bytes,
        )))
    }
}

/// A depth-first walk over indexes, best platform first.
struct Search<'a, P> {
    provider: &'a P,
    platform: &'a Platform,
    /// The platforms seen, for the error when none fits.
    offered: Vec<String>,
}

impl<P: BlobProvider> Search<'_, P> {
    async fn run(mut self, root: Root) -> Result<ResolvedImage, OciError> {
        // Documents yet to be read, the most promising last.
        let mut pending: Vec<Descriptor> = Vec::new();
        let mut next = Some(root);
        for _ in 0..DOCUMENTS_MAX {
            let (document, platform_stated) = match next.take() {
                Some(root) => (root, false),
                None => match pending.pop() {
                    Some(entry) => (self.read(&entry).await?, entry.platform().is_some()),
                    None => return Err(self.no_platform()),
                },
            };
            let what = document.digest.to_string();
            match Document::parse(&document.bytes, &document.media_type, &what)? {
                Document::Index(entries) => pending.extend(self.candidates(entries)),
                Document::Image(manifest) => {
                    if let Some(image) = self.image(document, manifest, platform_stated).await? {
                        return Ok(image);
                    }
                }
            }
        }
        Err(OciError::Unsupported(format!(
            "the index refers to over {DOCUMENTS_MAX} manifests"
        )))
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Root, OciError> {
        let Descriptor {
            digest,
            size_bytes,
            media_type,
            ..
        } = descriptor.clone();
        if size_bytes > MANIFEST_BYTES_MAX {
            let what = digest.to_string();
            return Err(OciError::TooLarge {
                what,
                limit_bytes: MANIFEST_BYTES_MAX,
            });
        }
        let stream = self.provider.manifest(descriptor).await?;
        let blob = VerifiedBlob::new(stream, digest.clone(), size_bytes);
        Ok(Root {
            bytes: blob.collect(MANIFEST_BYTES_MAX).await?,
            digest,
            media_type,
        })
    }

    /// Orders those entries that may hold an image for the platform, the best last. An entry
    /// without a platform may: its config or its own entries tell.
    fn candidates(&mut self, entries: Vec<Descriptor>) -> Vec<Descriptor> {
        let mut ranked: Vec<(usize, Descriptor)> = Vec::new();
        for entry in entries.into_iter().filter(|entry| !entry.is_attestation()) {
            match entry.platform() {
                None => ranked.push((usize::MAX, entry)),
                Some(offered) => match self.platform.rank(&offered) {
                    Some(rank) => ranked.push((rank, entry)),
                    None => self.offered.push(offered.to_string()),
                },
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().rev().map(|(_, entry)| entry).collect()
    }

    /// Reads the config of an image. `None`: the image is for another platform. What an index
    /// stated of that counts more than the config, which often leaves the variant out.
    async fn image(
        &mut self,
        document: Root,
        manifest: ImageManifest,
        platform_stated: bool,
    ) -> Result<Option<ResolvedImage>, OciError> {
        let Descriptor {
            digest: config_digest,
            size_bytes,
            ..
        } = manifest.config;
        if size_bytes > CONFIG_BYTES_MAX {
            let what = format!("the config {config_digest}");
            return Err(OciError::TooLarge {
                what,
                limit_bytes: CONFIG_BYTES_MAX,
            });
        }
        let stream = self.provider.blob(&config_digest, size_bytes).await?;
        let blob = VerifiedBlob::new(stream, config_digest.clone(), size_bytes);
        let config = blob.collect(CONFIG_BYTES_MAX).await?;
        let parsed = ImageConfig::parse(&config)?;
        if !platform_stated && !self.fits(&parsed) {
            return Ok(None);
        }
        if parsed.diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), parsed.diff_ids.len());
            let message = format!("{diff_ids} diff_ids for {layers} layers");
            return Err(OciError::malformed(
                format!("the config {config_digest}"),
                message,
            ));
        }
        let layers = manifest.layers.into_iter().zip(parsed.diff_ids);
        let layers = layers.map(|((layer, compression), diff_id)| LayerDescriptor {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            media_type: layer.media_type,
            compression,
            diff_id,
        });
        Ok(Some(ResolvedImage {
            media_type: manifest.media_type,
            manifest: document.bytes,
            manifest_digest: document.digest,
            config,
            config_digest,
            layers: layers.collect(),
        }))
    }

    /// Tells whether a config is for the platform. One that states no platform is for all.
    fn fits(&mut self, config: &ImageConfig) -> bool {
        if config.os.is_empty() || config.architecture.is_empty() {
            return true;
        }
        let offered = Platform::new(&config.os, &config.architecture, Some(&config.variant));
        let fits = self.platform.rank(&offered).is_some();
        if !fits {
            self.offered.push(offered.to_string());
        }
        fits
    }

    fn no_platform(mut self) -> OciError {
        self.offered.sort_unstable();
        self.offered.dedup();
        self.offered
            .retain(|platform| platform != "unknown/unknown");
        let offered = match self.offered.as_slice() {
            [] => "none at all".to_owned(),
            offered => offered.join(", "),
        };
        OciError::NoPlatform {
            wanted: self.platform.clone(),
            offered,
        }
    }
}

#[cfg(test)]
mod tests;
