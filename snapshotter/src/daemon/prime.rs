//! Filling the region's cache with what starts of an image read.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use nacre_blobstore::{
    ItemKind, Key, PackKind, PackName, StoreError, Traced, load_packs, read_trace, trace_ref,
};

use super::api::PrimedRegion;
use super::node::{Node, NodeError};
use crate::trace::chunks_of;

/// How much of an image the region is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What a start reads for sure: record, metadata image, indexes, and what its trace names.
    Start,
    /// That, and all trees.
    Trees,
    /// All of it.
    All,
}

impl Extent {
    fn has(self, kind: PackKind) -> bool {
        match self {
            Self::Start => false,
            Self::Trees => kind == PackKind::Tree,
            Self::All => true,
        }
    }
}

impl Node {
    /// Primes the region with each image that members say a burst begins of, one after the other,
    /// for as long as the node is there. Costs the store nothing that the starts would not.
    pub async fn prime_bursts(self: Arc<Self>) {
        let Some(mut bursts) = self
            .options
            .region
            .as_ref()
            .and_then(|region| region.bursts())
        else {
            return;
        };
        let node = Arc::downgrade(&self);
        drop(self);
        while let Some(key) = bursts.recv().await {
            let Some(node) = node.upgrade() else { return };
            let Some((_, record)) = key.as_str().rsplit_once('/') else {
                continue;
            };
            match node.prime(record, Extent::Start).await {
                Ok(primed) => tracing::info!(
                    image = record,
                    requests = primed.requests,
                    failed = primed.failed,
                    "primed the region for a burst"
                ),
                // Of a trace, which all starts read as well; or whoever reads fetches for itself.
                Err(error) => tracing::debug!(record, %error, "prime the region"),
            }
        }
    }

    /// Asks the region for all that a start of an image, snapshot or volume reads before its files,
    /// and for what its recorded starts read of these; with `all`, for all of its packs. Members
    /// that lack any of it fetch it from the store. Nothing is kept on this node.
    ///
    /// # Errors
    /// [`NodeError::NoRegion`]; others of [`NodeError`] when the image cannot be read.
    pub async fn prime_region(&self, name: &str, all: bool) -> Result<PrimedRegion, NodeError> {
        let extent = if all { Extent::All } else { Extent::Trees };
        self.prime(name, extent).await
    }

    async fn prime(&self, name: &str, extent: Extent) -> Result<PrimedRegion, NodeError> {
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
            let contents = stored.trace.wanted().map(|entry| entry.what);
            let lists = stored.trace.wanted().filter_map(|entry| match entry.what {
                Traced::Tree(tree) => Some(ItemKind::Tree(tree)),
                Traced::Content { .. } => None,
            });
            let mut items: Vec<ItemKind> = lists.collect();
            let chunks = chunks_of::<NodeError>(&self.reader, contents).await?;
            items.extend(chunks.into_iter().map(ItemKind::Chunk));
            ranges = self.reader.ranges(items).await;
        }
        asks.extend(packs.iter().map(|pack| (pack.index_key(), None)));
        let whole = packs.iter().filter(|pack| extent.has(pack.kind));
        for pack in whole {
            let key = pack.key();
            let size = store.size(&key).await.map_err(of_pack)?;
            asks.push((key, Some(0..size)));
        }
        if extent != Extent::All {
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
