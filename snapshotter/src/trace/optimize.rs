//! Boot packs: copies of what a trace names, in its order, to be read in a few large requests.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, CatalogError, ChunkId, ChunkIndex, Clock, IndexError, ItemStream, Lease, LeaseError,
    PackKind, PackWriter, ReadError, Reader, Ref, SecureError, TraceError, Traced, WriteError,
    WriteStats, WriterOptions, load_packs, read_epoch, read_trace, secure, trace_ref, write_ref,
};
use tokio::runtime::Handle;

use super::publisher::trace_record;
use crate::image::Image;

/// Why an image has no boot pack afterwards.
#[derive(Debug, thiserror::Error)]
pub enum OptimizeError {
    /// Nothing is known of its starts.
    #[error("no start of {0:?} was recorded")]
    NoTrace(String),
    /// Its trace cannot be read or changed.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Something that the trace names cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The packs of the image cannot be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The scratch index cannot be made.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The copies cannot be stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Someone else is at it, or the lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Something that the trace needs is being collected.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// A task ended early.
    #[error("a task ended early")]
    Stopped,
}

/// Writes copies of the chunks that the trace of `image` names, and lets the trace's record list
/// them in place of older copies. `reader` reads the packs of `store`; `scratch` is an empty folder.
///
/// # Errors
/// [`OptimizeError`]; the trace then has the copies that it had.
pub async fn optimize_image(
    store: &Arc<dyn BlobStore>,
    reader: &Reader,
    clock: &Arc<dyn Clock>,
    image: &Image,
    scratch: &Path,
) -> Result<WriteStats, OptimizeError> {
    let no_trace = || OptimizeError::NoTrace(image.name.clone().unwrap_or_default());
    let tree = image.tree().ok_or_else(no_trace)?;
    let name = trace_ref(tree.digest());
    let stored = read_trace(&**store, &name).await?.ok_or_else(no_trace)?;
    load_packs(store, reader.index(), &image.record.packs).await?;
    let lease_name = format!("optimize-{tree}");
    let holder = format!("process {}", std::process::id());
    let lease = Lease::acquire(Arc::clone(store), Arc::clone(clock), &lease_name, &holder).await?;
    let since = read_epoch(&**store).await.map_err(SecureError::Gc)?;
    // An index that knows nothing makes the writer store again what is stored elsewhere.
    let index = Arc::new(ChunkIndex::open(scratch)?);
    let written = async {
        let writer = PackWriter::new(
            PackKind::Data,
            Arc::clone(store),
            Arc::clone(&index),
            Handle::current(),
            WriterOptions::default(),
        );
        let chunks =
            chunks_of::<OptimizeError>(reader, stored.trace.wanted().map(|e| e.what)).await?;
        let copied = copy(reader, writer.stream(), chunks).await;
        let finished = tokio::task::spawn_blocking(move || writer.finish());
        let finished = finished.await.map_err(|_| OptimizeError::Stopped)?;
        copied?;
        let stats = finished?;
        let record = trace_record(&stored.trace, index.packs()?);
        let id = record.write(&**store).await.map_err(TraceError::Store)?;
        let secured = secure(&**store, &**clock, id, &record, Some(since)).await?;
        lease.check()?;
        secured.check(&**clock)?;
        let target = Ref {
            record: id,
            changed_ms: clock.now_ms(),
        };
        let written = write_ref(&**store, &name, target, Some(&stored.version)).await;
        written.map_err(TraceError::Ref)?;
        Ok(stats)
    };
    let written = written.await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "could not release lease");
    }
    written
}

/// Returns the chunks of what was traced, each once, in order. What no pack holds is left out.
pub(crate) async fn chunks_of<E: From<ReadError> + From<IndexError>>(
    reader: &Reader,
    traced: impl Iterator<Item = Traced>,
) -> Result<Vec<ChunkId>, E> {
    let mut chunks = Vec::new();
    let mut seen = HashSet::new();
    for what in traced {
        let Traced::Content {
            content,
            size_bytes,
            offset_bytes,
            len_bytes,
        } = what
        else {
            continue;
        };
        let list = match reader.chunk_list(content, size_bytes).await {
            Err(ReadError::NotFound(_)) => continue,
            list => list?,
        };
        let extents = &list.extents()[list.overlapping(offset_bytes, len_bytes)];
        for extent in extents.iter().filter(|extent| seen.insert(extent.id)) {
            if reader.index().chunk(extent.id)?.is_some() {
                chunks.push(extent.id);
            }
        }
    }
    Ok(chunks)
}

async fn copy(
    reader: &Reader,
    mut stream: ItemStream,
    chunks: Vec<ChunkId>,
) -> Result<(), OptimizeError> {
    for id in chunks {
        let chunk = reader.chunk(id).await?;
        // Blocks while the packs before are being written.
        let added = tokio::task::spawn_blocking(move || {
            let added = stream.add_chunk(&chunk);
            (stream, added)
        });
        let added = added.await.map_err(|_| OptimizeError::Stopped)?;
        stream = added.0;
        added.1?;
    }
    let flushed = tokio::task::spawn_blocking(move || stream.flush()).await;
    Ok(flushed.map_err(|_| OptimizeError::Stopped)??)
}
