//! Filling the region's cache with what starts of an image read.

use std::collections::BTreeSet;
use std::ops::Range;

use nacre_blobstore::{
    ItemKind, Key, PackKind, PackName, StoreError, Traced, load_packs, read_trace, trace_ref,
};

use super::api::PrimedRegion;
use super::node::{Node, NodeError};
use crate::trace::chunks_of;

impl Node {
    /// Asks the region for all that a start of an image, snapshot or volume reads before its files,
    /// and for what its recorded starts read of these; with `all`, for all of its packs. Members
    /// that lack any of it fetch it from the store. Nothing is kept on this node.
    ///
    /// # Errors
    /// [`NodeError::NoRegion`]; others of [`NodeError`] when the image cannot be read.
    pub async fn prime_region(&self, name: &str, all: bool) -> Result<PrimedRegion, NodeError> {
        let region = self.options.region.as_ref().ok_or(NodeError::NoRegion)?;
        let began = self.options.clock.elapsed();
        let image = self.find_image(name).await?;
        let tree = image
            .tree()
            .ok_or_else(|| NodeError::NoTree(name.to_owned()))?;
        let store = &self.options.store;
        load_packs(store, &self.index, &image.record.packs).await?;
        let stored = read_trace(&**store, &trace_ref(tree.digest())).await?;
        let mut packs: BTreeSet<PackName> = image.record.packs.clone();
        let mut asks: Vec<(Key, Option<Range<u64>>)> = vec![(image.id.key(), None)];
        asks.extend(
            image
                .record
                .metadata_images
                .get(&tree)
                .map(|id| (id.key(), None)),
        );
        let traced = stored.is_some();
        let mut ranges = Vec::new();
        if let Some(stored) = stored {
            load_packs(store, &self.index, &stored.record.packs).await?;
            packs.extend(&stored.record.packs);
            let contents = stored.trace.entries.iter().map(|entry| entry.what);
            let lists = stored
                .trace
                .entries
                .iter()
                .filter_map(|entry| match entry.what {
                    Traced::Tree(tree) => Some(ItemKind::Tree(tree)),
                    Traced::Content { .. } => None,
                });
            let mut items: Vec<ItemKind> = lists.collect();
            let chunks = chunks_of::<NodeError>(&self.reader, contents).await?;
            items.extend(chunks.into_iter().map(ItemKind::Chunk));
            ranges = self.reader.ranges(items).await;
        }
        asks.extend(packs.iter().map(|pack| (pack.index_key(), None)));
        let whole = packs
            .iter()
            .filter(|pack| all || pack.kind == PackKind::Tree);
        for pack in whole {
            let key = pack.key();
            let size = store.size(&key).await.map_err(of_pack)?;
            asks.push((key, Some(0..size)));
        }
        if !all {
            asks.extend(
                ranges
                    .into_iter()
                    .map(|(pack, range)| (pack.key(), Some(range))),
            );
        }
        let primed = region.prime(asks).await;
        let took = self.options.clock.elapsed().saturating_sub(began);
        Ok(PrimedRegion {
            image: image.id.to_string(),
            requests: primed.requests,
            bytes: primed.bytes,
            failed: primed.failed,
            traced,
            seconds: took.as_secs_f64(),
        })
    }
}

fn of_pack(error: StoreError) -> NodeError {
    NodeError::Catalog(error.into())
}
