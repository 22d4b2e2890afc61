//! The OCI image layout, in a directory or (see [`OciArchive`](super::OciArchive)) in a tar.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Deserialize;

use super::blob::BlobStream;
use super::digest::OciDigest;
use super::error::OciError;
use super::file_range::{FileRange, blocking};
use super::manifest::{Descriptor, MANIFEST_BYTES_MAX};
use super::resolve::{BlobProvider, Root, only};

/// The annotation by which `index.json` names its images.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The version of the layout that is understood.
const LAYOUT_VERSION: &str = "1.0.0";

/// Most tags listed in an error.
const TAGS_LISTED_MAX: usize = 20;

/// The files of a layout, wherever they are.
#[async_trait::async_trait]
pub(crate) trait LayoutFiles: fmt::Debug + Send + Sync + 'static {
    /// Opens the file of this name, relative to the top of the layout.
    async fn open(&self, name: &str) -> Result<FileRange, OciError>;

    /// Names the layout in errors.
    fn label(&self) -> String;
}

/// An OCI image layout in a directory.
#[derive(Debug)]
pub struct LayoutDirectory {
    directory: PathBuf,
    tag: Option<String>,
}

impl LayoutDirectory {
    /// Names a layout and which of its images. Without a tag it must hold exactly one.
    pub const fn new(directory: PathBuf, tag: Option<String>) -> Self {
        Self { directory, tag }
    }
}

#[async_trait::async_trait]
impl LayoutFiles for LayoutDirectory {
    async fn open(&self, name: &str) -> Result<FileRange, OciError> {
        FileRange::open(self.directory.join(name)).await
    }

    fn label(&self) -> String {
        self.directory.display().to_string()
    }
}

#[async_trait::async_trait]
impl BlobProvider for LayoutDirectory {
    async fn root(&self) -> Result<Root, OciError> {
        root(self, self.tag.as_deref()).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        blob(self, &descriptor.digest).await
    }

    async fn blob(&self, digest: &OciDigest, _size_bytes: u64) -> Result<BlobStream, OciError> {
        blob(self, digest).await
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// Reads the manifest or index that `index.json` lists under `tag`.
pub(crate) async fn root(files: &dyn LayoutFiles, tag: Option<&str>) -> Result<Root, OciError> {
    let label = files.label();
    let version: LayoutFile = read_json(files, "oci-layout").await?;
    if version.image_layout_version != LAYOUT_VERSION {
        let version = version.image_layout_version;
        return Err(OciError::Unsupported(format!(
            "{label} is a layout of version {version:?}"
        )));
    }
    let index: Index = read_json(files, "index.json").await?;
    let chosen = choose(index.manifests.unwrap_or_default(), tag, &label)?;
    let Descriptor {
        digest, media_type, ..
    } = chosen;
    let bytes = read(files, &blob_name(&digest)).await?;
    Ok(Root {
        bytes,
        digest,
        media_type,
    })
}

/// Opens a blob of a layout.
pub(crate) async fn blob(
    files: &dyn LayoutFiles,
    digest: &OciDigest,
) -> Result<BlobStream, OciError> {
    Ok(files.open(&blob_name(digest)).await?.stream())
}

fn blob_name(digest: &OciDigest) -> String {
    format!("blobs/{}", digest.as_str().replacen(':', "/", 1))
}

async fn read(files: &dyn LayoutFiles, name: &str) -> Result<Bytes, OciError> {
    let file = files.open(name).await?;
    let what = format!("{name} of {}", files.label());
    blocking(move || file.read_all(&what, MANIFEST_BYTES_MAX)).await
}

async fn read_json<T: serde::de::DeserializeOwned>(
    files: &dyn LayoutFiles,
    name: &str,
) -> Result<T, OciError> {
    let bytes = read(files, name).await?;
    let what = || format!("{name} of {}", files.label());
    serde_json::from_slice(&bytes).map_err(|error| OciError::malformed(what(), error))
}

fn choose(
    mut manifests: Vec<Descriptor>,
    tag: Option<&str>,
    label: &str,
) -> Result<Descriptor, OciError> {
    let names = |manifests: &[Descriptor]| -> String {
        let name = |m: &Descriptor| {
            m.annotation(REF_NAME)
                .unwrap_or(m.digest.as_str())
                .to_owned()
        };
        manifests
            .iter()
            .take(TAGS_LISTED_MAX)
            .map(name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all = names(&manifests);
    if let Some(tag) = tag {
        // A layout whose images have no names lets one be chosen by its digest.
        manifests.retain(|m| m.annotation(REF_NAME) == Some(tag) || m.digest.as_str() == tag);
    }
    manifests.dedup_by(|a, b| a.digest == b.digest);
    only(manifests, tag, all, label)
}
