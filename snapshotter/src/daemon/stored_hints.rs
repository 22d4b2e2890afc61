//! The hints of a tree that FUSE serves. They are in its metadata image, which is of no other use there.

use std::error::Error;
use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, Hints, MetadataImage, MetadataImageId, TreeId, fetch_metadata_image,
};

/// Returns the hints that the metadata image `id` of `tree` has, with one request. `None` when they
/// are not to be had: a start goes on without. FUSE has no file's bytes in the metadata image.
pub(super) async fn stored_hints(
    store: Arc<dyn BlobStore>,
    tree: TreeId,
    id: MetadataImageId,
) -> Option<Hints> {
    let read = async || {
        let bytes = fetch_metadata_image(&*store, id).await?;
        let decode = move || MetadataImage::open(tree, id, bytes)?.hints();
        let decoded = tokio::task::spawn_blocking(decode).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(decoded?)
    };
    let hints = read().await;
    let mut hints = hints
        .inspect_err(|error| tracing::warn!(%tree, error, "start without hints"))
        .ok()?;
    hints.set_small_bytes(0);
    Some(hints)
}
