//! OCI and docker manifests and indexes: parsed, bounded, and reduced to what can be ingested.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::digest::OciDigest;
use super::error::OciError;
use super::platform::Platform;
use crate::layer::Compression;

/// Largest manifest or index, in bytes. The limit that registries themselves enforce.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Largest image config, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Most layers of an image.
pub const LAYERS_MAX: usize = 1000;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Marks the manifests that buildkit puts beside an image; their platform is `unknown/unknown`.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Points from an index or a manifest to a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: OciDigest,
    /// Its length in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    #[serde(default, skip_serializing)]
    urls: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    platform: Option<RawPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Descriptor {
    /// Describes a blob of which no more is known.
    pub(crate) fn new(media_type: &str, digest: OciDigest, size_bytes: u64) -> Self {
        let media_type = media_type.to_owned();
        Self {
            media_type,
            digest,
            size_bytes,
            urls: None,
            platform: None,
            annotations: None,
        }
    }

    /// Returns the platform that an index states for the image.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let raw = self.platform.as_ref()?;
        Some(Platform::new(
            &raw.os,
            &raw.architecture,
            raw.variant.as_deref(),
        ))
    }

    pub(crate) fn is_attestation(&self) -> bool {
        self.annotation(ATTESTATION).is_some()
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_deref()
    }
}

/// Returns the OCI media type of a layer.
pub(crate) const fn layer_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => OCI_LAYER,
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// A layer of a resolved image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The digest of the blob as stored in the registry.
    pub digest: OciDigest,
    /// The length of that blob in bytes.
    pub size_bytes: u64,
    /// Its media type, as the manifest says.
    pub media_type: String,
    /// What the media type says of its compression. The bytes of some registries disagree;
    /// whoever reads a layer looks at its first bytes.
    pub compression: Compression,
    /// The digest of the plain tar, from the config. Not checked here.
    pub diff_id: OciDigest,
}

/// A manifest of one image.
#[derive(Debug)]
pub(crate) struct ImageManifest {
    /// What the text states, or what it was announced as, or OCI's (which may state none).
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<(Descriptor, Compression)>,
}

/// What a manifest request can return.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Image(ImageManifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses a manifest or an index. `announced` is the media type that a descriptor or a header
    /// gave it; one that names another kind of document than the text does is an error, because
    /// two readers might see two images in it (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8], announced: &str, what: &str) -> Result<Self, OciError> {
        let raw: RawDocument =
            serde_json::from_slice(bytes).map_err(|error| OciError::malformed(what, error))?;
        let stated = raw.media_type.as_deref().unwrap_or_default();
        if [stated, announced]
            .iter()
            .any(|t| t.starts_with(DOCKER_SCHEMA1))
            || raw.schema_version == Some(1)
        {
            return Err(refused(
                what,
                "is a docker schema 1 manifest, which is obsolete",
            ));
        }
        if raw.schema_version != Some(2) {
            return Err(OciError::malformed(what, "schemaVersion is not 2"));
        }
        let stated_index = match (is_index(stated), is_index(announced)) {
            (Some(a), Some(b)) if a != b => {
                return Err(OciError::malformed(what, "its two media types disagree"));
            }
            (None, _) if !stated.is_empty() => {
                return Err(refused(
                    what,
                    &format!("has the unknown media type {stated:?}"),
                ));
            }
            (Some(index), _) | (None, Some(index)) => index,
            (None, None) => raw.manifests.is_some(),
        };
        let index_like = raw.manifests.is_some();
        let image_like = raw.config.is_some() || raw.layers.is_some();
        match (stated_index, raw.manifests, raw.config) {
            _ if index_like && image_like => {
                Err(OciError::malformed(what, "both an index and an image"))
            }
            (true, Some(manifests), _) => Ok(Self::Index(manifests)),
            (false, _, Some(config)) => {
                let known = [stated, announced]
                    .into_iter()
                    .find(|t| is_index(t).is_some());
                let media_type = known.unwrap_or(OCI_MANIFEST).to_owned();
                check_kind(&config, raw.artifact_type.as_deref(), what)?;
                let layers = checked_layers(raw.layers.unwrap_or_default(), what)?;
                Ok(Self::Image(ImageManifest {
                    media_type,
                    config,
                    layers,
                }))
            }
            _ => Err(OciError::malformed(what, "neither an image nor an index")),
        }
    }
}

fn is_index(media_type: &str) -> Option<bool> {
    match media_type {
        OCI_INDEX | DOCKER_INDEX => Some(true),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        _ => None,
    }
}

fn refused(what: &str, why: &str) -> OciError {
    OciError::Unsupported(format!("{what} {why}"))
}

/// Refuses what is stored like an image and is none: charts, signatures, models.
fn check_kind(
    config: &Descriptor,
    artifact_type: Option<&str>,
    what: &str,
) -> Result<(), OciError> {
    if let Some(kind) = artifact_type.filter(|kind| !matches!(*kind, "" | OCI_CONFIG)) {
        return Err(refused(
            what,
            &format!("is an artifact ({kind:?}), not an image"),
        ));
    }
    match config.media_type.as_str() {
        OCI_CONFIG | DOCKER_CONFIG => Ok(()),
        kind => Err(refused(
            what,
            &format!("is an artifact (config {kind:?}), not an image"),
        )),
    }
}

fn checked_layers(
    layers: Vec<Descriptor>,
    what: &str,
) -> Result<Vec<(Descriptor, Compression)>, OciError> {
    if layers.len() > LAYERS_MAX {
        return Err(refused(what, &format!("has more than {LAYERS_MAX} layers")));
    }
    let check =
        |layer: Descriptor| compression(&layer, what).map(|compression| (layer, compression));
    layers.into_iter().map(check).collect()
}

/// Returns how a layer is compressed, or why it is not accepted.
fn compression(layer: &Descriptor, what: &str) -> Result<Compression, OciError> {
    let media_type = layer.media_type.as_str();
    if media_type.contains("foreign") || media_type.contains("nondistributable") {
        return Err(refused(
            what,
            &format!("has a foreign layer ({media_type:?})"),
        ));
    }
    if layer.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
        return Err(refused(
            what,
            "has a layer that is to be fetched from other urls",
        ));
    }
    if media_type.contains("+encrypted") {
        return Err(refused(
            what,
            &format!("has an encrypted layer ({media_type:?})"),
        ));
    }
    Compression::of_media_type(media_type).ok_or_else(|| {
        refused(
            what,
            &format!("has a layer of the unknown media type {media_type:?}"),
        )
    })
}

/// Returns the layers of a manifest, lowest first, with the media types of OCI for docker's: the
/// blobs are the same.
///
/// # Errors
/// [`OciError`] for what is no manifest of an image.
pub(crate) fn base_layers(manifest: &[u8]) -> Result<Vec<Descriptor>, OciError> {
    let Document::Image(manifest) = Document::parse(manifest, "", "the manifest")? else {
        return Err(OciError::malformed("the manifest", "it is an index"));
    };
    let layer = |(mut layer, compression): (Descriptor, Compression)| {
        layer.media_type = layer_media_type(compression).to_owned();
        layer
    };
    Ok(manifest.layers.into_iter().map(layer).collect())
}

/// An OCI manifest. The order of the fields is that of the text.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewManifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl NewManifest {
    /// Encodes the manifest of an image whose config is `config`.
    pub(crate) fn encode(config: &[u8], layers: Vec<Descriptor>) -> Bytes {
        let config = Descriptor::new(OCI_CONFIG, OciDigest::of(config), config.len() as u64);
        let manifest = Self {
            schema_version: 2,
            media_type: OCI_MANIFEST,
            config,
            layers,
        };
        serde_json::to_vec(&manifest)
            .expect("plain structs become JSON")
            .into()
    }
}

#[cfg(test)]
mod tests;
