//! The metadata image of what is added, made from the trees while they are at hand.

use std::collections::HashMap;
use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, Hints, MetadataImageId, ReadError, StoreError, Tree, TreeId, TreeReader,
    encode_metadata_image,
};
use nacre_fs::erofs::{ErofsError, SmallContents, metadata_image};

use super::IngestError;

/// Encoded trees, by id.
#[derive(Debug, Default)]
pub(super) struct StagedTrees(HashMap<TreeId, Vec<u8>>);

impl StagedTrees {
    pub(super) fn insert(&mut self, id: TreeId, encoded: &[u8]) {
        self.0.entry(id).or_insert_with(|| encoded.to_vec());
    }
}

#[async_trait::async_trait]
impl TreeReader for StagedTrees {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        let encoded = self.0.get(&id);
        let encoded = encoded.ok_or_else(|| ReadError::NotFound(id.to_string()))?;
        let tree = Tree::decode(id, encoded).map_err(|error| ReadError::Corrupt {
            what: id.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(tree))
    }
}

/// Stores the metadata image of `root`, with its `small` files and the hints of all, unless it is there;
/// returns its id and the bytes that it took. `None` for a tree that EROFS cannot hold: nodes serve that by FUSE.
pub(super) async fn store_image(
    store: &dyn BlobStore,
    root: TreeId,
    trees: StagedTrees,
    mut small: SmallContents,
    mut hints: Hints,
) -> Result<Option<(MetadataImageId, u64)>, IngestError> {
    // They bring what they need when they are fetched. What is read from the image nobody sees.
    hints.needing().for_each(|content| small.leave_out(content));
    hints.set_small_bytes(small.longest_bytes() as u64);
    let plain = match metadata_image(root, &trees, &small).await {
        Ok(plain) => plain,
        Err(error @ ErofsError::Unrepresentable { .. }) => {
            tracing::warn!(%error, "add an image that only FUSE can serve");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    drop((trees, small));
    let encoded =
        tokio::task::spawn_blocking(move || encode_metadata_image(root, &plain, &hints)).await;
    let (id, bytes) = encoded.map_err(|_| IngestError::Stopped)??;
    match store.size(&id.key()).await {
        Ok(_) => return Ok(Some((id, 0))),
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let stored_bytes = bytes.len() as u64;
    store.put(&id.key(), bytes.into()).await?;
    Ok(Some((id, stored_bytes)))
}
