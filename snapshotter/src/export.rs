//! Snapshots as OCI images: the layers of the image that they started from, and one more.
//!
//! ```text
//! base image: manifest, config -----------------------+--> manifest, config
//! trees of base and snapshot --Diff--> tar --gzip--> layer
//! blobs of the base's layers <-- there already, or from a source that has them
//! ```
//! nacre keeps the manifest and the config of an image but not its compressed layers, and nobody can make
//! these again bit by bit from what they hold. So they are where the image is put already, or come from a
//! source that the caller names. An image without layers (a plain directory), a directory snapshot, and
//! whatever the caller wants so become an image of one layer with all of it.

mod blob;
mod destination;
mod documents;
mod error;
mod image;
mod layer;
mod layout;
mod registry;
mod tar;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt as _;
use nacre_blobstore::{BlobStore, Entry, Reader, RecordKind, load_packs, read_root};
use tokio::io::AsyncWriteExt as _;

use crate::daemon::Mountable;
use crate::image::{Image, ImageError};
use crate::layer::Compression;
use crate::oci::{
    self, Descriptor, ImageSource, LayerDescriptor, OCI_MANIFEST, OciDigest, RegistryOptions,
    Source, base_layers,
};
use crate::snapshot::{SnapshotKind, SnapshotPayload};
pub(crate) use blob::{Blob, BlobWriter};
use destination::Destination;
pub(crate) use documents::rfc3339;
use documents::{Documents, Top, flat, on_base};
pub use error::ExportError;
pub(crate) use layer::write_layer;
use layout::LayoutDestination;
use registry::RegistryDestination;

/// What an export works with.
#[derive(Debug)]
pub struct Export {
    /// Where the snapshot is.
    pub store: Arc<dyn BlobStore>,
    /// Reads it.
    pub reader: Reader,
    /// A directory for blobs on their way to a registry; it is made.
    pub scratch: PathBuf,
    /// How registries are reached.
    pub registry: RegistryOptions,
}

/// What to export, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Name or id of a snapshot or an image.
    pub name: String,
    /// A layout or a registry.
    pub to: Source,
    /// What has the layers of the base image.
    pub from: Option<Source>,
    /// Whether to make one layer of everything.
    pub flat: bool,
    /// How the new layer is compressed.
    pub compression: Compression,
}

/// An image that was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The digest of its manifest.
    pub digest: OciDigest,
    /// How many layers it has.
    pub layers: usize,
    /// The digest of the new one; none if nothing differs from the base image.
    pub layer: Option<OciDigest>,
    /// The length of that in bytes.
    pub bytes_layer: u64,
    /// Bytes of layers of the base image that were copied.
    pub bytes_copied: u64,
    /// Paths that no layer can hold and that were left out: sockets.
    pub skipped: Vec<String>,
}

/// What is to be exported.
struct Subject {
    root: Entry,
    config: String,
    created_ms: Option<u64>,
    /// The image whose layers are at the bottom, and its root.
    base: Option<(Image, Entry)>,
}

/// The image as it is to be.
struct Made {
    documents: Documents,
    media_type: String,
    layer: Option<Blob>,
    skipped: Vec<String>,
}

impl Export {
    /// Exports a snapshot, or an image. Blobs go first and the manifest last: an export that ends early
    /// has changed no name. Costs one layer of what differs from the base image, in time and in disk.
    /// Equal snapshots give equal digests.
    ///
    /// # Errors
    /// [`ExportError`]; [`ExportError::NoLayers`] before anything is written.
    pub async fn export(&self, options: &ExportOptions) -> Result<Exported, ExportError> {
        let subject = self.subject(options).await?;
        let (destination, scratch) = self.destination(options)?;
        let layers = match &subject.base {
            Some((image, _)) => base_layers(image.payload.manifest.as_bytes())?,
            None => Vec::new(),
        };
        let missing = missing(&*destination, &layers).await?;
        let from = self.source(options, &missing).await?;
        destination.begin().await?;
        let scratch = Scratch::make(scratch)?;
        let mut bytes_copied = 0;
        if let Some(from) = from {
            for layer in &missing {
                bytes_copied += copy(&*from, layer, &*destination, &scratch).await?;
            }
        }
        let made = self.make(options, &subject, &scratch).await?;
        if let Some(blob) = &made.layer {
            let descriptor = Descriptor::new("", blob.digest.clone(), blob.size_bytes);
            let file = scratch.path.join(LAYER_FILE);
            if !destination.has(&descriptor).await? {
                destination.put_file(&descriptor, &file).await?;
            }
        }
        let Documents {
            config, manifest, ..
        } = &made.documents;
        let config_digest = OciDigest::of(config);
        destination
            .put_bytes(&config_digest, config.clone())
            .await?;
        destination
            .put_manifest(&made.media_type, manifest.clone())
            .await?;
        Ok(Exported {
            digest: made.documents.digest(),
            layers: made.documents.layers.len(),
            bytes_layer: made.layer.as_ref().map_or(0, |blob| blob.size_bytes),
            layer: made.layer.map(|blob| blob.digest),
            bytes_copied,
            skipped: made.skipped,
        })
    }

    async fn subject(&self, options: &ExportOptions) -> Result<Subject, ExportError> {
        let (store, name) = (&*self.store, &options.name);
        let id = Mountable::locate(store, name).await?.record;
        let found = Mountable::read(store, name, id).await?;
        let tree = found
            .tree()
            .ok_or_else(|| ExportError::NoTree(name.clone()))?;
        load_packs(&self.store, self.reader.index(), &found.record.packs).await?;
        let root = read_root(&self.reader, tree).await?;
        let snapshot = match found.record.kind {
            RecordKind::Snapshot => Some(SnapshotPayload::decode(name, &found.record.payload)?),
            RecordKind::Image | RecordKind::Trace => None,
        };
        // A volume may be made from a directory, or from nothing.
        let is_part = |snapshot: &SnapshotPayload| snapshot.kind != SnapshotKind::Filesystem;
        let base = if options.flat || snapshot.as_ref().is_some_and(is_part) {
            None
        } else {
            match Image::find(store, &found.base).await {
                Err(ImageError::NotFound(base)) => return Err(ExportError::NoBase(base)),
                found => Some(found?),
            }
        };
        // An image of a plain directory has no layers.
        let base = match base.filter(|image| !image.payload.layers.is_empty()) {
            Some(image) => {
                let tree = image
                    .tree()
                    .ok_or_else(|| ExportError::NoTree(name.clone()))?;
                load_packs(&self.store, self.reader.index(), &image.record.packs).await?;
                let root = read_root(&self.reader, tree).await?;
                Some((image, root))
            }
            None => None,
        };
        Ok(Subject {
            root,
            config: found.config,
            created_ms: snapshot.map(|snapshot| snapshot.created_ms),
            base,
        })
    }

    /// Names the place to export to; returns also where files may be that are to be put there.
    fn destination(
        &self,
        options: &ExportOptions,
    ) -> Result<(Box<dyn Destination>, PathBuf), ExportError> {
        match &options.to {
            Source::Layout { directory, tag } => {
                let random = getrandom::u64().map_err(|_| ExportError::Stopped)?;
                // On the file system of the layout, so that files can be moved there.
                let scratch = directory.join(format!(".export-{random:016x}"));
                let layout = LayoutDestination::new(directory.clone(), tag.clone());
                Ok((Box::new(layout), scratch))
            }
            Source::Registry(to) if to.digest.is_none() => {
                let from = match &options.from {
                    Some(Source::Registry(from)) => Some(from),
                    _ => None,
                };
                let registry = RegistryDestination::new(to.clone(), from, &self.registry)?;
                Ok((Box::new(registry), self.scratch.clone()))
            }
            other => Err(ExportError::Destination(other.to_string())),
        }
    }

    /// Opens the source of the layers that are missing, if any are.
    async fn source(
        &self,
        options: &ExportOptions,
        missing: &[Descriptor],
    ) -> Result<Option<Arc<dyn ImageSource>>, ExportError> {
        match (&options.from, missing) {
            (_, []) => Ok(None),
            (Some(from), _) => Ok(Some(oci::open(from, &self.registry).await?)),
            (None, [first, rest @ ..]) => Err(ExportError::NoLayers {
                first: first.digest.clone(),
                more: rest.len(),
                to: options.to.to_string(),
            }),
        }
    }

    async fn make(
        &self,
        options: &ExportOptions,
        subject: &Subject,
        scratch: &Scratch,
    ) -> Result<Made, ExportError> {
        let before = subject.base.as_ref().map(|(_, root)| root);
        if let Some((image, root)) = &subject.base
            && *root == subject.root
        {
            // It is the image, byte for byte.
            let payload = &image.payload;
            return Ok(Made {
                documents: Documents {
                    config: payload.config.clone().into(),
                    manifest: payload.manifest.clone().into(),
                    layers: base_layers(payload.manifest.as_bytes())?,
                },
                media_type: payload.media_type.clone(),
                layer: None,
                skipped: Vec::new(),
            });
        }
        let file = scratch.path.join(LAYER_FILE);
        let out = BlobWriter::new(&file, options.compression);
        let skipped = write_layer(&self.reader, before, &subject.root, &out).await?;
        let blob = out.finish().await?;
        let top = Top {
            blob: &blob,
            compression: options.compression,
            created_ms: subject.created_ms,
        };
        let documents = match &subject.base {
            Some((image, _)) => on_base(&image.payload.manifest, &image.payload.config, top)?,
            None => flat(&subject.config, top)?,
        };
        Ok(Made {
            documents,
            media_type: OCI_MANIFEST.to_owned(),
            layer: Some(blob),
            skipped,
        })
    }
}

/// Returns those of the layers that a place does not have.
async fn missing(
    destination: &dyn Destination,
    layers: &[Descriptor],
) -> Result<Vec<Descriptor>, ExportError> {
    let mut missing: Vec<Descriptor> = Vec::new();
    for layer in layers {
        let known = missing.iter().any(|other| other.digest == layer.digest);
        if !known && !destination.has(layer).await? {
            missing.push(layer.clone());
        }
    }
    Ok(missing)
}

/// Copies a layer, checked on the way; returns its length in bytes.
async fn copy(
    from: &dyn ImageSource,
    layer: &Descriptor,
    destination: &dyn Destination,
    scratch: &Scratch,
) -> Result<u64, ExportError> {
    let wanted = LayerDescriptor {
        digest: layer.digest.clone(),
        size_bytes: layer.size_bytes,
        media_type: layer.media_type.clone(),
        compression: Compression::None,
        // Not known here, nor needed for the blob.
        diff_id: layer.digest.clone(),
    };
    let path = scratch.path.join("copied");
    let fail = |error| ExportError::io("write", &path, error);
    let mut blob = from.open_blob(&wanted).await?;
    let mut file = tokio::fs::File::create(&path).await.map_err(fail)?;
    while let Some(bytes) = blob.try_next().await? {
        file.write_all(&bytes).await.map_err(fail)?;
    }
    file.flush().await.map_err(fail)?;
    drop(file);
    destination.put_file(layer, &path).await?;
    Ok(layer.size_bytes)
}

/// The new layer, in the scratch directory.
const LAYER_FILE: &str = "layer";

/// A directory that goes with whoever made it.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Scratch {
    pub(crate) fn make(path: PathBuf) -> Result<Self, ExportError> {
        std::fs::create_dir_all(&path).map_err(|error| ExportError::io("create", &path, error))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove what was in the making");
    }
}
