//! Storing the data of one layer.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use nacre_blobstore::{Attributes, Chunk, Chunked, Chunker, ItemStream, Node};
use nacre_fs::erofs::SmallContents;

use super::IngestError;
use super::affinity;
use super::blob_reader::{BlockReader, BlockSender, pump, queue};
use super::progress::Progress;
use crate::hints::{AllNeeds, Scanner};
use crate::layer::{
    Compression, Decompressor, DirectoryReader, EntryKind, EntrySource, LayerEntry, LayerError,
    LayerLimits, TarReader,
};
use crate::merge::{LayerDiff, Leaf, StoredEntry, StoredKind};
use crate::oci::{Hasher, ImageSource, LayerDescriptor, OciError};

/// What Linux shows of every symlink.
const SYMLINK_MODE: u16 = 0o777;

/// Where a layer's entries come from.
#[derive(Debug, Clone)]
pub(super) enum LayerSource {
    /// A blob of an image.
    Blob {
        source: Arc<dyn ImageSource>,
        layer: LayerDescriptor,
    },
    /// A plain directory.
    Directory(PathBuf),
}

impl LayerSource {
    /// Bytes to read, or 0 where that is not known.
    pub(super) const fn size_bytes(&self) -> u64 {
        match self {
            Self::Blob { layer, .. } => layer.size_bytes,
            Self::Directory(_) => 0,
        }
    }
}

/// Where a layer's data goes, and within which limits.
pub(super) struct Sink {
    pub(super) items: ItemStream,
    pub(super) chunker: Chunker,
    pub(super) limits: LayerLimits,
    /// Of all layers.
    pub(super) small: Arc<Mutex<SmallContents>>,
}

/// A layer whose data is stored, or on its way to the store.
#[derive(Debug)]
pub(super) struct StoredLayer {
    /// How errors call it.
    pub(super) name: String,
    pub(super) diff: LayerDiff,
    pub(super) contents: Vec<Chunked>,
    /// What its files say that they need.
    pub(super) needs: AllNeeds,
    /// The blob that it came from.
    pub(super) blob: Option<LayerDescriptor>,
}

/// Decodes a layer and stores its data through `items`.
pub(super) async fn store_layer(
    source: LayerSource,
    number: usize,
    sink: Sink,
    progress: Arc<dyn Progress>,
) -> Result<StoredLayer, IngestError> {
    let stored = match source {
        LayerSource::Directory(path) => {
            let name = path.display().to_string();
            let work = move || {
                let mut reader = DirectoryReader::open(&path, &name, sink.limits.clone())?;
                store_entries(&mut reader, name, sink)
            };
            blocking(work).await
        }
        LayerSource::Blob { source, layer } => {
            store_blob(&*source, layer, number, sink, &*progress).await
        }
    };
    progress.finished(number);
    stored
}

async fn store_blob(
    source: &dyn ImageSource,
    layer: LayerDescriptor,
    number: usize,
    sink: Sink,
    progress: &dyn Progress,
) -> Result<StoredLayer, IngestError> {
    let (compressed_sender, compressed) = queue();
    let (plain_sender, plain) = queue();
    let name = layer.digest.to_string();
    let declared = Compression::of_media_type(&layer.media_type);
    let opened = (compressed, name.clone(), sink.limits.clone());
    let decompressing = tokio::task::spawn_blocking(move || {
        let (compressed, name, limits) = opened;
        decompress(compressed, &name, declared, &limits, &plain_sender)
    });
    let expected = layer.clone();
    let storing = tokio::task::spawn_blocking(move || store_tar(plain, name, expected, sink));
    let downloaded = download(source, &layer, number, &compressed_sender, progress).await;
    drop(compressed_sender);
    let decompressed = decompressing.await.map_err(|_| IngestError::Stopped)?;
    let stored = storing.await.map_err(|_| IngestError::Stopped)?;
    // The first stage that failed knows why; the later ones only see its stream end in an error.
    downloaded?;
    decompressed?;
    stored
}

async fn download(
    source: &dyn ImageSource,
    layer: &LayerDescriptor,
    number: usize,
    sender: &BlockSender,
    progress: &dyn Progress,
) -> Result<(), OciError> {
    let result = async {
        let mut blob = source.open_blob(layer).await?;
        while let Some(block) = blob.next().await {
            let block = block?;
            progress.read(number, block.len() as u64);
            if sender.send(Ok(block)).await.is_err() {
                // The next stage failed and says why.
                return Ok(());
            }
        }
        Ok(())
    }
    .await;
    if result.is_err() {
        drop(sender.send(Err(io::Error::other("download failed"))).await);
    }
    result
}

fn decompress(
    compressed: BlockReader,
    name: &str,
    declared: Option<Compression>,
    limits: &LayerLimits,
    sender: &BlockSender,
) -> Result<(), LayerError> {
    match Decompressor::new(compressed, name, declared, limits) {
        Ok(plain) => {
            pump(plain, sender);
            Ok(())
        }
        Err(error) => {
            drop(sender.blocking_send(Err(io::Error::other("decompression failed"))));
            Err(error)
        }
    }
}

fn store_tar(
    plain: BlockReader,
    name: String,
    layer: LayerDescriptor,
    sink: Sink,
) -> Result<StoredLayer, IngestError> {
    let hasher = Hasher::new(layer.diff_id.algorithm());
    let mut tar = TarReader::new(
        HashingReader {
            inner: plain,
            hasher,
        },
        &name,
        sink.limits.clone(),
    );
    let stored = store_entries(&mut tar, name, sink)?;
    let found = tar.into_inner().hasher.finish();
    if found != layer.diff_id {
        let (layer, expected) = (layer.digest, layer.diff_id);
        return Err(IngestError::DiffId {
            layer,
            found,
            expected,
        });
    }
    Ok(StoredLayer {
        blob: Some(layer),
        ..stored
    })
}

/// Takes the digest of what is read through it.
struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Stores the data of all entries and collects the rest of them.
fn store_entries(
    source: &mut impl EntrySource,
    name: String,
    sink: Sink,
) -> Result<StoredLayer, IngestError> {
    let mut diff = LayerDiff::default();
    let mut contents = Vec::new();
    let mut needs = AllNeeds::new();
    let (mut items, mut chunker) = (sink.items, sink.chunker);
    while let Some(LayerEntry {
        path,
        kind,
        attributes,
    }) = source.next_entry()?
    {
        let other = |node| StoredKind::Inode(attributes.clone(), Leaf::Other(node));
        let what = match kind {
            EntryKind::Whiteout => {
                diff.whiteouts.push(path);
                continue;
            }
            EntryKind::OpaqueDirectory => {
                diff.opaques.push(path);
                continue;
            }
            EntryKind::Directory => StoredKind::Directory(attributes),
            EntryKind::HardLink(target) => StoredKind::HardLink(target),
            EntryKind::Symlink(target) => {
                // Linux ignores what an archive says of a symlink's mode and shows this.
                let attributes = Attributes {
                    mode: SYMLINK_MODE,
                    ..attributes
                };
                StoredKind::Inode(attributes, Leaf::Other(Node::Symlink(target)))
            }
            EntryKind::CharDevice(device) => other(Node::CharDevice(device)),
            EntryKind::BlockDevice(device) => other(Node::BlockDevice(device)),
            EntryKind::Fifo => other(Node::Fifo),
            EntryKind::Socket => other(Node::Socket),
            EntryKind::File { .. } => {
                items.turn_to(affinity::of(path.as_bytes()));
                let mut scanner = Scanner::new(path.as_bytes());
                let take = |chunk: &Chunk| scanner.take(chunk.bytes());
                let (chunked, last) = store_content(source, &mut chunker, &mut items, take)?;
                if let ([_], Some(only)) = (chunked.chunks.as_slice(), last) {
                    let small = sink.small.lock();
                    small.unwrap_or_else(PoisonError::into_inner).add(&only);
                }
                let (content, size_bytes) = (chunked.content, chunked.size_bytes);
                if let Some(found) = scanner.finish(size_bytes) {
                    needs.insert(content, found);
                }
                contents.push(chunked);
                StoredKind::Inode(
                    attributes,
                    Leaf::File {
                        content,
                        size_bytes,
                    },
                )
            }
        };
        diff.entries.push(StoredEntry { path, what });
    }
    items.flush()?;
    Ok(StoredLayer {
        name,
        diff,
        contents,
        needs,
        blob: None,
    })
}

/// Stores the data of an entry and shows it to `take`; also returns its last chunk.
fn store_content(
    source: &mut impl EntrySource,
    chunker: &mut Chunker,
    items: &mut ItemStream,
    mut take: impl FnMut(&Chunk),
) -> Result<(Chunked, Option<Chunk>), IngestError> {
    // `Read` can only carry an io::Error, so the layer's own error waits beside it.
    let mut failed = None;
    let mut data = EntryData {
        source,
        failed: &mut failed,
    };
    let mut last = None;
    let result = chunker.cut(&mut data, |chunk| {
        take(&chunk);
        items.add_chunk(&chunk).map_err(CutError::Write)?;
        last = Some(chunk);
        Ok(())
    });
    match (result, failed) {
        (_, Some(error)) => Err(error.into()),
        (Ok(chunked), None) => Ok((chunked, last)),
        (Err(CutError::Write(error)), None) => Err(error.into()),
        (Err(CutError::Read), None) => Err(IngestError::Stopped),
    }
}

enum CutError {
    Read,
    Write(nacre_blobstore::WriteError),
}

impl From<io::Error> for CutError {
    fn from(_: io::Error) -> Self {
        Self::Read
    }
}

/// The data of the current entry as a reader.
struct EntryData<'a, S> {
    source: &'a mut S,
    failed: &'a mut Option<LayerError>,
}

impl<S: EntrySource> Read for EntryData<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read_data(buffer).map_err(|error| {
            *self.failed = Some(error);
            io::Error::other("layer")
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IngestError> + Send + 'static,
) -> Result<T, IngestError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| IngestError::Stopped)?
}
