//! Adding an image to a store.
//!
//! ```text
//! blob --download, digest--> queue --decompress--> queue --diff id, tar, chunk, hash--> PackWriter
//!  async, as many layers       a thread a layer          a thread a layer            frames, packs
//!  at once as there are threads
//! ```
//! Layers are decoded in parallel and merged in order. Nothing is written to disk but the packs.
//! Order of writes: data packs, tree packs, the record, the ref; a lease is held from before the
//! first chunk is relied on until the ref is written. An ingest that ends early leaves packs that
//! a later one finds by their index and goes on from; what it does not need is garbage.

mod blob_reader;
mod layer;
mod progress;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use nacre_blobstore::{
    BlobStore, CatalogError, ChunkIndex, Chunker, Clock, CrashPoint, IndexError, ItemKind, Lease,
    LeaseError, PackKind, PackWriter, Record, RecordId, RecordKind, Ref, RefError, RefNameError,
    StoreError, TreeError, TreeId, WriteError, WriteStats, WriterOptions, read_ref, sync_index,
    write_ref,
};
use tokio::runtime::Handle;

use crate::image::{ImageLayer, ImagePayload, image_ref};
use crate::layer::{LayerError, LayerLimits};
use crate::merge::{MergeError, MergedTree};
use crate::oci::{self, ImageSource, OciDigest, OciError, Platform, ResolvedImage};
use layer::{LayerSource, Sink, StoredLayer};
pub use progress::{NoProgress, Progress};

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

/// Why an image could not be added. The store is consistent in any case.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The source cannot be read, or is no image for this platform.
    #[error(transparent)]
    Source(#[from] OciError),
    /// A layer is damaged, hostile, or uses what is not supported.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A layer does not fit on those below it.
    #[error("layer {layer}: {source}")]
    Merge {
        /// The layer.
        layer: String,
        /// What does not fit.
        source: MergeError,
    },
    /// A layer's plain bytes do not have the digest that the config says.
    #[error("layer {layer}: its plain bytes have digest {found}, the config says {expected}")]
    DiffId {
        /// The layer.
        layer: OciDigest,
        /// The digest of its bytes.
        found: OciDigest,
        /// The digest in the config.
        expected: OciDigest,
    },
    /// Manifest or config is not text.
    #[error("manifest or config is not UTF-8")]
    NotText,
    /// Packs could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store's packs could not be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lease was not had or was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The name was not given.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] RefNameError),
    /// A file cannot be described.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A content has too many chunks.
    #[error(transparent)]
    ChunkList(#[from] nacre_blobstore::ChunkListError),
    /// Something that was just stored is not in the index.
    #[error("{0} is missing after it was stored")]
    Missing(String),
    /// A worker ended without a result.
    #[error("a worker ended early")]
    Stopped,
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
        let reference = image_ref(name)?;
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
        let stored = self.store_image(documents, layers, &progress).await;
        let added = match stored {
            Ok((record, payload, stats)) => {
                self.publish(name, &reference, record, payload, stats, &lease)
                    .await
            }
            Err(error) => Err(error),
        };
        // A lease that cannot be given back expires by itself.
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        added
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
        for pack in &found.record.packs {
            if !self.index.contains(*pack)? {
                return Ok(None);
            }
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
        documents: Documents,
        layers: Vec<LayerSource>,
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
        let stored: Vec<StoredLayer> = stream::iter(layers.into_iter().enumerate())
            .map(|(number, layer)| {
                let sink = Sink {
                    items: data.stream(),
                    chunker: Chunker::with_average(self.chunk_bytes),
                    limits: self.limits.clone(),
                };
                layer::store_layer(layer, number, sink, Arc::clone(progress))
            })
            .buffered(self.layers_at_once.max(1))
            .try_collect()
            .await?;
        let mut stats = finish(data).await?;
        self.writer.crash.reach(CrashPoint::DataFinished);

        let trees = self.pack_writer(PackKind::Tree);
        let runtime_free = TreeStage {
            stream: trees.stream(),
            items: HashSet::new(),
        };
        let merged = tokio::task::spawn_blocking(move || runtime_free.run(stored));
        let merged = merged.await.map_err(|_| IngestError::Stopped)??;
        let tree_stats = finish(trees).await?;
        self.writer.crash.reach(CrashPoint::TreesFinished);
        stats.bytes_stored += tree_stats.bytes_stored;
        stats.packs += tree_stats.packs;

        let (packs, missing) = self.index.packs_of(merged.items)?;
        if let Some(item) = missing.first() {
            return Err(IngestError::Missing(item.to_string()));
        }
        let payload = ImagePayload {
            manifest: documents.manifest,
            manifest_digest: documents.manifest_digest,
            media_type: documents.media_type,
            config: documents.config,
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
        reference: &nacre_blobstore::RefName,
        record: Record,
        payload: ImagePayload,
        mut stats: WriteStats,
        lease: &Lease,
    ) -> Result<AddedImage, IngestError> {
        let before = read_ref(&*self.store, reference).await?;
        let (id, bytes) = record.encode();
        let unchanged = before
            .as_ref()
            .is_some_and(|(target, _)| target.record == id);
        if !unchanged {
            stats.bytes_stored += bytes.len() as u64;
            self.store.put(&id.key(), bytes.into()).await?;
            self.writer.crash.reach(CrashPoint::RecordPutAfter);
            lease.check()?;
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

/// The layers as one file system, its trees stored.
struct Merged {
    trees: Vec<TreeId>,
    layers: Vec<ImageLayer>,
    items: BTreeSet<ItemKind>,
    files: u64,
    bytes_compressed: u64,
    bytes_plain: u64,
}

/// Merges layers and stores trees and chunk lists; runs on a blocking thread.
struct TreeStage {
    stream: nacre_blobstore::ItemStream,
    items: HashSet<ItemKind>,
}

impl TreeStage {
    fn run(mut self, stored: Vec<StoredLayer>) -> Result<Merged, IngestError> {
        let mut tree = MergedTree::new();
        let (mut trees, mut layers) = (Vec::new(), Vec::new());
        let mut chain: Option<OciDigest> = None;
        let mut bytes_compressed = 0;
        if stored.is_empty() {
            trees.push(self.encode(&mut tree)?);
        }
        for layer in stored {
            let StoredLayer {
                name,
                diff,
                contents,
                blob,
            } = layer;
            let merge = |source| IngestError::Merge {
                layer: name,
                source,
            };
            tree.apply(diff).map_err(merge)?;
            for content in &contents {
                self.items
                    .extend(content.chunks.iter().map(|(id, _)| ItemKind::Chunk(*id)));
                if let Some(list) = content.list() {
                    self.add(ItemKind::ChunkList(content.content), &list.encode()?)?;
                }
            }
            let root = self.encode(&mut tree)?;
            trees.push(root);
            if let Some(descriptor) = blob {
                bytes_compressed += descriptor.size_bytes;
                let id = match &chain {
                    None => descriptor.diff_id.clone(),
                    Some(lower) => {
                        OciDigest::of(format!("{lower} {}", descriptor.diff_id).as_bytes())
                    }
                };
                chain = Some(id.clone());
                layers.push(ImageLayer {
                    digest: descriptor.digest,
                    diff_id: descriptor.diff_id,
                    chain_id: id,
                    tree: root.to_string(),
                });
            }
        }
        self.stream.flush()?;
        let (files, bytes_plain) = tree.count();
        let items = self.items.into_iter().collect();
        Ok(Merged {
            trees,
            layers,
            items,
            files,
            bytes_compressed,
            bytes_plain,
        })
    }

    fn encode(&mut self, tree: &mut MergedTree) -> Result<TreeId, IngestError> {
        tree.encode(&mut |id, bytes: &[u8]| self.add(ItemKind::Tree(id), bytes))
    }

    fn add(&mut self, item: ItemKind, bytes: &[u8]) -> Result<(), IngestError> {
        if self.items.insert(item) {
            self.stream.add_metadata(item, bytes)?;
        }
        Ok(())
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
