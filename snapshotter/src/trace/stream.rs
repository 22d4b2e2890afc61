//! Bringing what a trace names to the node, ahead of who will read it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};
use nacre_blobstore::{
    BlobStore, CHUNK_BYTES_MAX, ChunkId, ContentId, ItemKind, PackName, Prefetched, ReadError,
    Reader, TraceEntry, Traced, load_packs,
};
use nacre_fs::NodeCache;

use super::kin::Followed;
use super::part::Part;

/// Contents that are looked for on the node at once.
pub(super) const LOOK_UPS_MAX: usize = 16;
/// Groups of chunks that are taken in at once, each of one range.
const GROUPS_MAX: usize = 3;
/// Chunks of a group that are taken in at once, within the limit of the node cache for all.
const ADMISSIONS_MAX: usize = 8;

/// Brings one trace.
#[derive(Debug)]
pub(super) struct Streamer {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) reader: Arc<Reader>,
    pub(super) cache: Arc<NodeCache>,
    /// The packs of the image: what only others hold is not for it.
    pub(super) packs: BTreeSet<PackName>,
    /// What comes into memory only, from where reads take it to the disk.
    pub(super) checked: Option<Part>,
}

/// A place of a chunk.
#[derive(Debug, Clone, Copy)]
struct Place {
    content: ContentId,
    size_bytes: u64,
    number: u32,
}

impl Streamer {
    /// Leaves of another's trace what the image has, too.
    pub(super) async fn fit(&self, borrowed: Followed) -> Followed {
        self.reader.settled(&self.packs).await;
        let Followed { mut trace, copies } = borrowed;
        let mut is_held = self.is_held();
        trace.entries.retain(|entry| is_held(&item_of(entry)));
        Followed { trace, copies }
    }

    /// Brings what is missing, the most urgent first. Ends when all is there or has failed.
    pub(super) async fn run(mut self, Followed { trace, copies }: Followed) {
        let _suspended = self.reader.suspend_read_ahead();
        self.reader.settled(&self.packs).await;
        if !copies.is_empty() {
            // Entered last, they are where the index finds what they hold.
            match load_packs(&self.store, self.reader.index(), &copies).await {
                Ok(()) => self.packs.extend(copies),
                Err(error) => tracing::warn!(%error, "stream a trace without its copies"),
            }
        }
        let entries: Vec<TraceEntry> = trace.wanted().copied().collect();
        let metadata = entries.iter().filter_map(metadata_of).collect();
        self.reader.warm(metadata).await;
        let mut places = HashMap::<ChunkId, Vec<Place>>::new();
        let mut order = Vec::new();
        let look_ups = entries.iter().copied().map(|entry| self.missing(entry));
        let mut missing = stream::iter(look_ups).buffered(LOOK_UPS_MAX);
        while let Some(found) = missing.next().await {
            for (chunk, place) in found {
                let at = places.entry(chunk).or_default();
                if at.is_empty() {
                    order.push(ItemKind::Chunk(chunk));
                }
                at.push(place);
            }
        }
        drop(missing);
        let mut is_held = self.is_held();
        order.retain(|item| is_held(item));
        drop(is_held);
        let (chunks, places) = (order.len(), &places);
        if let Some(part) = self.checked {
            let is_checked = |item: &mut ItemKind| {
                let mut places = places_of(places, item).iter();
                places.any(|place| part.holds(&place.content))
            };
            // First, for its frames hold others that come to the disk from there.
            let checked = order.extract_if(.., is_checked).collect();
            self.reader.warm(checked).await;
        }
        let arriving = self.reader.prefetch(order);
        arriving
            .for_each_concurrent(GROUPS_MAX, |group| self.admit(group, places))
            .await;
        tracing::info!(entries = entries.len(), chunks, "streamed a trace");
    }

    /// Returns the chunks of an entry that are not on the node.
    async fn missing(&self, entry: TraceEntry) -> Vec<(ChunkId, Place)> {
        let Traced::Content {
            content,
            size_bytes,
            ..
        } = entry.what
        else {
            return Vec::new();
        };
        let place = |(number, chunk)| {
            let place = Place {
                content,
                size_bytes,
                number,
            };
            (chunk, place)
        };
        match missing_of(&self.cache, entry).await {
            Ok(missing) => missing.into_iter().map(place).collect(),
            Err(error) => {
                tracing::debug!(%content, %error, "stream a content");
                Vec::new()
            }
        }
    }

    /// Returns what tells whether a pack of the image holds an item.
    fn is_held(&self) -> impl FnMut(&ItemKind) -> bool {
        let index = self.reader.index();
        let mut numbers = HashMap::new();
        move |item| {
            let is_ours = |number| {
                let name = index.pack(number);
                name.is_ok_and(|name| self.packs.contains(&name))
            };
            let locations = index.locations(*item).unwrap_or_default();
            let mut packs = locations.iter().map(|location| location.pack);
            packs.any(|number| *numbers.entry(number).or_insert_with(|| is_ours(number)))
        }
    }

    /// Takes in chunks that are in memory.
    async fn admit(&self, group: Prefetched, places: &HashMap<ChunkId, Vec<Place>>) {
        let items = group.items().iter();
        stream::iter(items.flat_map(|item| places_of(places, item)))
            .for_each_concurrent(ADMISSIONS_MAX, |place| async {
                let Place {
                    content,
                    size_bytes,
                    number,
                } = *place;
                let admitted = self.cache.admit(content, size_bytes, number..number + 1);
                if let Err(error) = admitted.await {
                    tracing::debug!(%content, %error, "stream a content");
                }
            })
            .await;
    }
}

/// Returns where a chunk belongs.
fn places_of<'a>(places: &'a HashMap<ChunkId, Vec<Place>>, item: &ItemKind) -> &'a [Place] {
    match item {
        ItemKind::Chunk(chunk) => places.get(chunk).map_or(&[], Vec::as_slice),
        ItemKind::Tree(_) | ItemKind::ChunkList(_) => &[],
    }
}

/// Returns which chunks of an entry are not on the node.
pub(super) async fn missing_of(
    cache: &NodeCache,
    entry: TraceEntry,
) -> Result<Vec<(u32, ChunkId)>, ReadError> {
    match entry.what {
        Traced::Content {
            content,
            size_bytes,
            offset_bytes,
            len_bytes,
        } => {
            let range = offset_bytes..offset_bytes.saturating_add(len_bytes);
            cache.missing(content, size_bytes, range).await
        }
        Traced::Tree(_) => Ok(Vec::new()),
    }
}

/// Returns what a pack must hold for an entry to be read.
fn item_of(entry: &TraceEntry) -> ItemKind {
    metadata_of(entry).unwrap_or_else(|| match entry.what {
        Traced::Content { content, .. } => ItemKind::Chunk(content.as_single_chunk()),
        Traced::Tree(tree) => ItemKind::Tree(tree),
    })
}

/// Returns what must be read to read an entry: its tree, or its list of chunks.
fn metadata_of(entry: &TraceEntry) -> Option<ItemKind> {
    match entry.what {
        Traced::Tree(tree) => Some(ItemKind::Tree(tree)),
        Traced::Content {
            content,
            size_bytes,
            ..
        } => (size_bytes > CHUNK_BYTES_MAX as u64).then_some(ItemKind::ChunkList(content)),
    }
}
