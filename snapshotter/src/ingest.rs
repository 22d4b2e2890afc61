//! Adding an image to a store.
//!
//! ```text
//! blob --download, digest--> queue --decompress--> queue --diff id, tar, chunk, hash--> PackWriter
//!  async, as many layers       a thread a layer          a thread a layer            frames, packs
//!  at once as there are threads
//! ```
//! Layers are decoded in parallel and merged in order. Nothing is written to disk but the packs.
//! Order of writes: data packs, tree packs, the metadata image, the record, the ref; a lease is held from before the
//! first chunk is relied on until the ref is written; refs of chains come before it. An ingest that ends early leaves packs that
//! a later one finds by their index and goes on from; what it does not need is garbage.

mod affinity;
mod blob_reader;
mod error;
mod layer;
mod metadata;
mod progress;
mod trees;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use nacre_blobstore::{
    BlobStore, ChunkIndex, Chunker, Clock, CrashPoint, Epoch, Lease, PackKind, PackWriter, Record,
    RecordId, RecordKind, Ref, SecureError, StoreError, TreeId, WriteStats, WriterOptions,
    read_epoch, read_ref, resolve_packs, secure, sync_index, write_ref,
};
use nacre_fs::erofs::SmallContents;
use tokio::runtime::Handle;

use crate::chains::{are_linked, link_chains};
use crate::hints::Program;
use crate::image::{ImagePayload, image_ref};
use crate::layer::LayerLimits;
use crate::oci::{self, ImageSource, OciDigest, Platform, ResolvedImage};
pub use error::IngestError;
use layer::{LayerSource, Sink, StoredLayer};
pub use progress::{NoProgress, Progress};
use trees::TreeStage;

/// What an ingest works with.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// The store to add to.
    pub store: Arc<dyn BlobStore>,
    /// The index of the store's packs; brought up to date first.
    pub index: Arc<ChunkIndex>,
    /// Time for leases and refs.
    pub clock: Arc<dyn Clock>,
    /// Limits of each layer.
    pub limits: LayerLimits,
    /// Layers that are decoded at once, at least 1.
    pub layers_at_once: usize,
    /// Size that the chunker aims at in large files.
    pub chunk_bytes: usize,
    /// How packs are written.
    pub writer: WriterOptions,
    /// Who holds the lease, for people.
    pub holder: String,
}

/// What to add.
#[derive(Debug, Clone)]
pub enum AddSource {
    /// An OCI image.
    Image(Arc<dyn ImageSource>),
    /// A plain root file system.
    Directory(PathBuf),
}

/// What was added.
#[derive(Debug, Clone)]
pub struct AddedImage {
    /// The name it got.
    pub name: String,
    /// The id of its record.
    pub id: RecordId,
    /// The root of its file system.
    pub tree: TreeId,
    /// The image as recorded.
    pub payload: ImagePayload,
    /// What was stored for it.
    pub stats: WriteStats,
    /// The name stood for this very image before, so nothing was read or written.
    pub unchanged: bool,
}

/// The documents of an image, whatever it was made from.
struct Documents {
    manifest: String,
    manifest_digest: OciDigest,
    media_type: String,
    config: String,
}

impl Ingest {
    /// Adds an image and gives it the name `name`, taking that from whatever had it.
    ///
    /// Costs, beside the layers: a listing of the packs and one of their indexes, and one request for
    /// each pack that the index does not know. Memory: some 200 MiB, and 300 bytes for each entry of the image.
    ///
    /// # Errors
    /// [`IngestError`]. The name then stands for what it stood for before.
    pub async fn add(
        &self,
        name: &str,
        source: AddSource,
        platform: &Platform,
        progress: Arc<dyn Progress>,
    ) -> Result<AddedImage, IngestError> {
        // Before anything is read: the name may not be allowed.
        image_ref(name)?;
        let (documents, layers) = match source {
            AddSource::Directory(path) => (
                self.describe_directory(platform)?,
                vec![LayerSource::Directory(path)],
            ),
            AddSource::Image(source) => {
                let resolved = source.resolve(platform).await?;
                if let Some(found) = self.find_unchanged(name, &resolved).await? {
                    return Ok(found);
                }
                let documents = Documents::of(&resolved)?;
                let blob = |layer| LayerSource::Blob {
                    source: Arc::clone(&source),
                    layer,
                };
                (documents, resolved.layers.into_iter().map(blob).collect())
            }
        };
        let lease_name = format!("ingest-{}", random_hex());
        let lease = Lease::acquire(
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            &lease_name,
            &self.holder,
        )
        .await?;
        let mut added = self
            .add_once(name, &documents, &layers, &progress, &lease)
            .await;
        // Something that it relied on was collected since it looked: this time it is stored again.
        if matches!(added, Err(IngestError::Secure(SecureError::Gone(_)))) {
            added = self
                .add_once(name, &documents, &layers, &progress, &lease)
                .await;
        }
        // A lease that cannot be given back expires by itself.
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        added
    }

    async fn add_once(
        &self,
        name: &str,
        documents: &Documents,
        layers: &[LayerSource],
        progress: &Arc<dyn Progress>,
        lease: &Lease,
    ) -> Result<AddedImage, IngestError> {
        let since = read_epoch(&*self.store).await.map_err(SecureError::Gc)?;
        let (record, payload, stats) = self.store_image(documents, layers, progress).await?;
        self.publish(name, record, payload, stats, lease, since)
            .await
    }

    /// Returns the image that has the name already, if it is the resolved one and whole: one that
    /// lost a pack is stored again.
    async fn find_unchanged(
        &self,
        name: &str,
        resolved: &ResolvedImage,
    ) -> Result<Option<AddedImage>, IngestError> {
        let Ok(found) = crate::image::Image::find(&*self.store, name).await else {
            return Ok(None);
        };
        let Some(tree) = found.tree() else {
            return Ok(None);
        };
        if found.payload.manifest_digest != resolved.manifest_digest {
            return Ok(None);
        }
        sync_index(&self.store, &self.index).await?;
        let packs = resolve_packs(&*self.store, found.id, &found.record).await;
        for pack in packs.map_err(SecureError::from)? {
            if !self.index.contains(pack)? {
                return Ok(None);
            }
        }
        // One that was added before layers were found by their chain ids, or by who was killed.
        if !are_linked(&*self.store, &found.payload.layers).await? {
            let layers = &found.payload.layers;
            link_chains(&*self.store, &*self.clock, found.id, layers).await?;
        }
        Ok(Some(AddedImage {
            name: name.to_owned(),
            id: found.id,
            tree,
            payload: found.payload,
            stats: WriteStats::default(),
            unchanged: true,
        }))
    }

    fn describe_directory(&self, platform: &Platform) -> Result<Documents, IngestError> {
        let image = oci::plain_image(platform, None);
        Ok(Documents {
            manifest: text(&image.manifest)?,
            manifest_digest: image.manifest_digest,
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            config: text(&image.config)?,
        })
    }

    async fn store_image(
        &self,
        documents: &Documents,
        layers: &[LayerSource],
        progress: &Arc<dyn Progress>,
    ) -> Result<(Record, ImagePayload, WriteStats), IngestError> {
        sync_index(&self.store, &self.index).await?;
        progress.started(
            &layers
                .iter()
                .map(LayerSource::size_bytes)
                .collect::<Vec<_>>(),
        );
        let data = self.pack_writer(PackKind::Data);
        let small = Arc::new(Mutex::new(SmallContents::default()));
        let stored: Vec<StoredLayer> = stream::iter(layers.iter().cloned().enumerate())
            .map(|(number, layer)| {
                let sink = Sink {
                    items: data.stream(),
                    chunker: Chunker::with_average(self.chunk_bytes),
                    limits: self.limits.clone(),
                    small: Arc::clone(&small),
                };
                layer::store_layer(layer, number, sink, Arc::clone(progress))
            })
            .buffered(self.layers_at_once.max(1))
            .try_collect()
            .await?;
        let mut stats = finish(data).await?;
        self.writer.crash.reach(CrashPoint::DataFinished);

        let trees = self.pack_writer(PackKind::Tree);
        let stage = TreeStage::new(trees.stream(), Program::of(&documents.config));
        let merged = tokio::task::spawn_blocking(move || stage.run(stored));
        let merged = merged.await.map_err(|_| IngestError::Stopped)??;
        let tree_stats = finish(trees).await?;
        self.writer.crash.reach(CrashPoint::TreesFinished);
        stats.bytes_stored += tree_stats.bytes_stored;
        stats.packs += tree_stats.packs;
        let mut metadata_images = BTreeMap::new();
        if let Some(root) = merged.trees.last().copied() {
            let small = std::mem::take(&mut *small.lock().unwrap_or_else(PoisonError::into_inner));
            let (staged, hints) = (merged.staged, merged.hints);
            let stored = metadata::store_image(&*self.store, root, staged, small, hints).await?;
            if let Some((image, stored_bytes)) = stored {
                metadata_images.insert(root, image);
                stats.bytes_stored += stored_bytes;
            }
        }
        self.writer.crash.reach(CrashPoint::MetadataPutAfter);

        let (packs, missing) = self.index.packs_of(merged.items)?;
        if let Some(item) = missing.first() {
            return Err(IngestError::Missing(item.to_string()));
        }
        let payload = ImagePayload {
            manifest: documents.manifest.clone(),
            manifest_digest: documents.manifest_digest.clone(),
            media_type: documents.media_type.clone(),
            config: documents.config.clone(),
            layers: merged.layers,
            files: merged.files,
            bytes_compressed: merged.bytes_compressed,
            bytes_plain: merged.bytes_plain,
        };
        let json = serde_json::to_vec(&payload).map_err(|_| IngestError::NotText)?;
        let record = Record {
            kind: RecordKind::Image,
            trees: merged.trees,
            packs,
            metadata_images,
            payload: json,
        };
        Ok((record, payload, stats))
    }

    fn pack_writer(&self, kind: PackKind) -> PackWriter {
        let (store, index) = (Arc::clone(&self.store), Arc::clone(&self.index));
        PackWriter::new(kind, store, index, Handle::current(), self.writer.clone())
    }

    /// Writes the record and then the ref.
    async fn publish(
        &self,
        name: &str,
        record: Record,
        payload: ImagePayload,
        mut stats: WriteStats,
        lease: &Lease,
        since: Epoch,
    ) -> Result<AddedImage, IngestError> {
        let reference = &image_ref(name)?;
        let before = read_ref(&*self.store, reference).await?;
        let (id, bytes) = record.encode();
        let unchanged = before
            .as_ref()
            .is_some_and(|(target, _)| target.record == id);
        if !unchanged {
            match self.store.size(&id.key()).await {
                // The same image has another name already.
                Ok(_) => {}
                Err(StoreError::NotFound(_)) => {
                    stats.bytes_stored += bytes.len() as u64;
                    self.store.put(&id.key(), bytes.into()).await?;
                }
                Err(error) => return Err(error.into()),
            }
            self.writer.crash.reach(CrashPoint::RecordPutAfter);
            // Before the name, which is what tells that all is there.
            link_chains(&*self.store, &*self.clock, id, &payload.layers).await?;
            let secured = secure(&*self.store, &*self.clock, id, &record, Some(since)).await?;
            lease.check()?;
            secured.check(&*self.clock)?;
            let target = Ref {
                record: id,
                changed_ms: self.clock.now_ms(),
            };
            let seen = before.as_ref().map(|(_, version)| version);
            write_ref(&*self.store, reference, target, seen).await?;
            self.writer.crash.reach(CrashPoint::RefChanged);
        }
        let tree = record.trees.last().copied().ok_or(IngestError::Stopped)?;
        Ok(AddedImage {
            name: name.to_owned(),
            id,
            tree,
            payload,
            stats,
            unchanged,
        })
    }
}

impl Documents {
    fn of(image: &ResolvedImage) -> Result<Self, IngestError> {
        Ok(Self {
            manifest: text(&image.manifest)?,
            manifest_digest: image.manifest_digest.clone(),
            media_type: image.media_type.clone(),
            config: text(&image.config)?,
        })
    }
}

async fn finish(writer: PackWriter) -> Result<WriteStats, IngestError> {
    let finished = tokio::task::spawn_blocking(|| writer.finish()).await;
    Ok(finished.map_err(|_| IngestError::Stopped)??)
}

fn text(bytes: &[u8]) -> Result<String, IngestError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| IngestError::NotText)
}

fn random_hex() -> String {
    use std::hash::{BuildHasher, RandomState};
    // Each RandomState has keys of its own; all that is asked for is a name nobody else has.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests;
