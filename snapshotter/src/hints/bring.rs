//! Bringing what hints name to the node before it is read.
//!
//! ```text
//! wanted --look-ups--> missing --ranges--> memory, as stored --one by one--> the disk, unseen
//! ```
//! On the disk nobody finds it without being seen: a recorded start names what was read and not what
//! was guessed ([`NodeCache::bring_ahead`]).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use futures::{StreamExt, stream};
use nacre_blobstore::{CHUNK_BYTES_MAX, ChunkId, ContentId, Hinted, ItemKind, Reader};
use nacre_fs::NodeCache;
use tokio::sync::mpsc;

/// Contents of at most so many bytes have one chunk, which is theirs alone.
pub(super) const SMALL_BYTES_MAX: u64 = CHUNK_BYTES_MAX as u64;
/// Contents that are looked for on the node together, and then fetched.
const BATCH: usize = 256;
/// Batches of one read that are under way at once.
const BATCHES_MAX: usize = 4;
/// Contents that are looked for on the node at once.
const LOOK_UPS_MAX: usize = 16;
/// Ranges of neighbours that are in memory and wait for the disk; those beyond stay in memory.
const LANDED_MAX: usize = 4096;

/// What hints say is read of a content.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    content: ContentId,
    size_bytes: u64,
    ranges: Vec<Range<u64>>,
}

impl Wanted {
    pub(super) fn of(hinted: &Hinted<'_>) -> Self {
        let ranges = match hinted.ranges {
            [] => std::iter::once(0..hinted.size_bytes).collect(),
            ranges => ranges.to_vec(),
        };
        Self {
            content: hinted.content,
            size_bytes: hinted.size_bytes,
            ranges,
        }
    }
}

/// A place of a chunk.
#[derive(Debug, Clone, Copy)]
struct Place {
    content: ContentId,
    number: u32,
    chunk: ChunkId,
}

/// Fetches what is wanted. Clones share what lands.
#[derive(Debug, Clone)]
pub(super) struct Bringer {
    reader: Arc<Reader>,
    cache: Weak<NodeCache>,
    landed: mpsc::Sender<Vec<Place>>,
}

impl Bringer {
    /// Brings from `reader` to `cache`. Must be called in a runtime; a task there writes to the disk
    /// until all clones are dropped.
    pub(super) fn new(reader: Arc<Reader>, cache: Weak<NodeCache>) -> Self {
        let (landed, landing) = mpsc::channel(LANDED_MAX);
        drop(tokio::spawn(write(
            Arc::clone(&reader),
            Weak::clone(&cache),
            landing,
        )));
        Self {
            reader,
            cache,
            landed,
        }
    }

    /// Brings what is wanted, in its order. Ends when it is in memory, or failed.
    pub(super) async fn run(self, wanted: Vec<Wanted>) {
        let mut wanted = wanted.into_iter().peekable();
        let mut batches = Vec::new();
        while wanted.peek().is_some() {
            batches.push(self.batch(wanted.by_ref().take(BATCH).collect()));
        }
        let mut batches = stream::iter(batches).buffer_unordered(BATCHES_MAX);
        while batches.next().await.is_some() {}
    }

    /// Large contents come once their lists of chunks are there.
    async fn batch(&self, batch: Vec<Wanted>) {
        let is_large = |wanted: &Wanted| wanted.size_bytes > SMALL_BYTES_MAX;
        let (large, small): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_large);
        let list = |wanted: &Wanted| ItemKind::ChunkList(wanted.content);
        let lists = large.iter().map(list).collect();
        let large = async {
            self.reader.warm(lists).await;
            self.bring(large).await;
        };
        tokio::join!(self.bring(small), large);
    }

    async fn bring(&self, wanted: Vec<Wanted>) {
        let mut look_ups = Vec::new();
        for wanted in wanted {
            for range in wanted.ranges {
                look_ups.push(self.missing(wanted.content, wanted.size_bytes, range));
            }
        }
        let mut missing = stream::iter(look_ups).buffered(LOOK_UPS_MAX);
        let mut places = HashMap::<ChunkId, Vec<Place>>::new();
        let mut order = Vec::new();
        while let Some(found) = missing.next().await {
            for place in found {
                order.push(ItemKind::Chunk(place.chunk));
                places.entry(place.chunk).or_default().push(place);
            }
        }
        drop(missing);
        let mut warmed = std::pin::pin!(self.reader.warmed(order));
        while let Some(items) = warmed.next().await {
            let chunks = items.iter().filter_map(|item| match item {
                ItemKind::Chunk(chunk) => Some(chunk),
                ItemKind::Tree(_) | ItemKind::ChunkList(_) => None,
            });
            let landed = chunks.filter_map(|chunk| places.remove(chunk)).flatten();
            // What finds no room goes to the disk when it is read.
            drop(self.landed.try_send(landed.collect()));
        }
    }

    async fn missing(&self, content: ContentId, size_bytes: u64, range: Range<u64>) -> Vec<Place> {
        let cache = self.cache.upgrade();
        let Some(cache) = cache.filter(|cache| !cache.is_ahead(content)) else {
            return Vec::new();
        };
        let missing = cache.missing(content, size_bytes, range).await;
        let place = |(number, chunk)| Place {
            content,
            number,
            chunk,
        };
        missing.unwrap_or_default().into_iter().map(place).collect()
    }
}

/// Writes what landed, one group after the other: who reads has the other cores.
async fn write(
    reader: Arc<Reader>,
    cache: Weak<NodeCache>,
    mut landing: mpsc::Receiver<Vec<Place>>,
) {
    while let Some(places) = landing.recv().await {
        let Some(cache) = cache.upgrade() else { return };
        let reader = Arc::clone(&reader);
        let write = move || {
            for place in places {
                if let Some(chunk) = reader.at_hand(place.chunk) {
                    cache.bring_ahead(place.content, place.number, &chunk);
                }
            }
        };
        drop(tokio::task::spawn_blocking(write).await);
    }
}
