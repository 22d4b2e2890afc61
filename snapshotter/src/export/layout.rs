//! An OCI image layout in a directory, as a place to put images (OCI image-spec, image-layout.md).
//!
//! What is there stays; of several images of one name the last counts. Blobs are published whole, and
//! `index.json` is replaced last, so that an export that dies leaves unnamed blobs at most. Exports
//! that change it at the same time take turns by a lock on the directory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nacre_blobstore::{publish, publish_file};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::ExportError;
use super::destination::Destination;
use crate::oci::{Descriptor, MANIFEST_BYTES_MAX, OciDigest, REF_NAME};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout to be written to.
#[derive(Debug)]
pub(super) struct LayoutDestination {
    directory: PathBuf,
    tag: Option<String>,
}

impl LayoutDestination {
    /// Names a layout. Nothing is written yet.
    pub(super) const fn new(directory: PathBuf, tag: Option<String>) -> Self {
        Self { directory, tag }
    }

    fn path(&self, digest: &OciDigest) -> PathBuf {
        let name = digest.as_str().replacen(':', "/", 1);
        self.directory.join("blobs").join(name)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ExportError> + Send + 'static,
    ) -> Result<T, ExportError> {
        let layout = Self {
            directory: self.directory.clone(),
            tag: self.tag.clone(),
        };
        let done = tokio::task::spawn_blocking(move || work(&layout)).await;
        done.map_err(|_| ExportError::Stopped)?
    }

    fn publish(&self, digest: &OciDigest, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.path(digest);
        let fail = |error| ExportError::io("write", &path, error);
        make_parent(&path).map_err(fail)?;
        publish(&path, bytes).map_err(fail)
    }

    /// Names a manifest in `index.json`, in place of what had the name.
    fn name(&self, media_type: &str, manifest: &[u8]) -> Result<(), ExportError> {
        let path = self.directory.join("index.json");
        let fail = |verb, error| ExportError::io(verb, &path, error);
        let turn = File::open(&self.directory).map_err(|error| fail("lock", error))?;
        flock(&turn, FlockOperation::LockExclusive).map_err(|error| fail("lock", error.into()))?;
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut index = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json!({ "schemaVersion": 2, "manifests": [] })
            }
            Ok(found) if found.len() > MANIFEST_BYTES_MAX => {
                return Err(fail("read", invalid("it is too large")));
            }
            _ => {
                let text = std::fs::read(&path).map_err(|error| fail("read", error))?;
                serde_json::from_slice(&text).map_err(|error| fail("read", error.into()))?
            }
        };
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let manifests = manifests.ok_or_else(|| fail("read", invalid("it lists no manifests")))?;
        let name = |manifest: &Value| {
            let name = manifest
                .get("annotations")
                .and_then(|all| all.get(REF_NAME));
            name.and_then(Value::as_str).map(str::to_owned)
        };
        manifests.retain(|manifest| name(manifest) != self.tag);
        let mut descriptor = json!({
            "mediaType": media_type,
            "digest": OciDigest::of(manifest),
            "size": manifest.len(),
        });
        if let Some(tag) = &self.tag {
            descriptor["annotations"] = json!({ REF_NAME: tag });
        }
        manifests.push(descriptor);
        publish(&path, index.to_string().as_bytes()).map_err(|error| fail("write", error))
    }
}

/// Makes the folder of an algorithm.
fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

#[async_trait::async_trait]
impl Destination for LayoutDestination {
    async fn begin(&self) -> Result<(), ExportError> {
        self.blocking(|layout| {
            let path = layout.directory.join("blobs/sha256");
            let made = std::fs::create_dir_all(&path);
            made.map_err(|error| ExportError::io("create", &path, error))?;
            let path = layout.directory.join("oci-layout");
            if path.exists() {
                return Ok(());
            }
            let written = publish(&path, LAYOUT.as_bytes());
            written.map_err(|error| ExportError::io("write", &path, error))
        })
        .await
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, ExportError> {
        let (path, size_bytes) = (self.path(&blob.digest), blob.size_bytes);
        // A blob is published whole: one of the right length is the right one.
        self.blocking(move |_| match std::fs::metadata(&path) {
            Ok(found) => Ok(found.is_file() && found.len() == size_bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ExportError::io("read", &path, error)),
        })
        .await
    }

    async fn put_file(&self, blob: &Descriptor, file: &Path) -> Result<(), ExportError> {
        let (path, file) = (self.path(&blob.digest), file.to_owned());
        self.blocking(move |_| {
            let put = make_parent(&path).and_then(|()| publish_file(&file, &path));
            put.map_err(|error| ExportError::io("write", &path, error))
        })
        .await
    }

    async fn put_bytes(&self, digest: &OciDigest, bytes: Bytes) -> Result<(), ExportError> {
        let digest = digest.clone();
        self.blocking(move |layout| layout.publish(&digest, &bytes))
            .await
    }

    async fn put_manifest(&self, media_type: &str, manifest: Bytes) -> Result<(), ExportError> {
        let media_type = media_type.to_owned();
        self.blocking(move |layout| {
            layout.publish(&OciDigest::of(&manifest), &manifest)?;
            layout.name(&media_type, &manifest)
        })
        .await
    }
}
