//! Fetching what will be read before it is asked for, in few large requests.
//!
//! ```text
//! items in order of urgency --> their frames --> windows --> ranges of neighbours --> memory
//! ```
//! A window is what may be fetched out of order so that neighbours come together: the first is
//! small, so that the most urgent is there soon. A reader that wants a frame of a range that is
//! under way waits for it; all others fetch as ever, and never queue behind a range.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::Reader;
use super::fetch::{Ahead, FrameKey, Shared};
use super::lock;
use super::memory::Arrived;
use crate::frame::FrameEntry;
use crate::pack::ItemKind;
use crate::{ChunkId, ChunkIndex, ChunkSource, IndexError, PackName, Tier};

/// Largest hole between two wanted frames of a pack that is fetched along with them.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// Most bytes of one range, unless a single frame is larger.
const RANGE_BYTES_MAX: u64 = 1 << 20;
/// Ranges of one prefetch that are under way, or have landed and are not yet taken.
const RANGES_MAX: usize = 16;
/// Memory for the plain bytes of all ranges that are under way or not yet dropped by who took
/// them, in KiB; larger than any frame.
pub(super) const PREFETCH_KIB_MAX: usize = 64 << 10;
/// Stored bytes of the first window; each further one is larger by [`WINDOW_GROWTH`].
const WINDOW_BYTES_FIRST: u64 = 1 << 20;
const WINDOW_GROWTH: u64 = 4;
/// Largest window: what is fetched out of order stays in memory until its turn comes.
const WINDOW_BYTES_MAX: u64 = 16 << 20;

/// Most plain bytes of one range, unless a single frame has more.
const RANGE_PLAIN_BYTES_MAX: usize = 12 << 20;
/// Stored bytes that are fetched at once to be kept with what was read recently: most of the room there.
const WARM_BYTES_MAX: u64 = 48 << 20;
/// Tasks that fetch without knowing what will be read.
pub(super) const AHEAD_TASKS_MAX: usize = 16;

/// What has to be read of a file in order before one may be sure that it is read on: more than a
/// start reads of a library at once.
const SURE_BYTES: u64 = 4 << 20;

/// Neighbouring frames and the wanted items in them.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) pack: PackName,
    pub(super) frames: Vec<(FrameKey, FrameEntry)>,
    pub(super) items: Vec<(FrameKey, ItemKind)>,
}

impl Span {
    fn stored_bytes(&self) -> u64 {
        let frames = self.frames.iter();
        frames.map(|(_, entry)| u64::from(entry.stored_bytes)).sum()
    }
}

impl Reader {
    /// Stops guessing what will be read until the result is dropped: for while it is known, and on
    /// its way.
    pub fn suspend_read_ahead(&self) -> Suspended {
        self.shared.ahead.suspend();
        Suspended(Arc::clone(&self.shared))
    }

    /// Returns how much of a file has to be read in order before what follows is to be fetched on a
    /// guess; `None` while it is known what will be read.
    ///
    /// With a region's cache it is more: what one node guesses in vain, all nodes of a burst guess a
    /// little differently, and the store would have to give it all.
    pub fn guesses_after(&self) -> Option<u64> {
        let shared = &self.shared;
        let is_cached = |source: &Arc<dyn ChunkSource>| source.tier() == Tier::Region;
        let after_bytes = match shared.sources.iter().any(is_cached) {
            true => SURE_BYTES,
            false => 0,
        };
        (!shared.ahead.is_off()).then_some(after_bytes)
    }

    /// Says that `chunks` will probably be read soon. They are fetched as far as
    /// [`ReaderOptions::read_ahead_percent`](super::ReaderOptions) allows; failures are silent.
    pub fn expect(&self, chunks: Vec<ChunkId>) {
        let awaited = chunks.iter().copied().map(ItemKind::Chunk).collect();
        self.shared.fetch_ahead(awaited, move |index| {
            let mut frames = Vec::new();
            let mut seen = HashSet::new();
            for chunk in chunks {
                if let Some(location) = index.chunk(chunk)?
                    && seen.insert((location.pack, location.frame))
                {
                    let key = (location.pack, location.frame);
                    frames.push((key, index.frame(location)?));
                }
            }
            Ok(frames)
        });
    }

    /// Tells whether the frame of a chunk was [warmed](Self::warm): who did it knew what else would be
    /// read.
    pub fn is_foretold(&self, chunk: ChunkId) -> bool {
        let location = self.known(chunk);
        location.is_some_and(|at| self.shared.ahead.is_foretold((at.pack, at.frame)))
    }

    /// Fetches the frames of `items`, given in the order in which they will be read, and returns
    /// those that are in memory as their frames land, a group for each range. They are read from
    /// there for as long as the group is not dropped.
    ///
    /// Nothing is fetched twice. The groups of all prefetches take at most 64 MiB, so that one that
    /// is kept holds the others up. What no pack holds or cannot be fetched is left out: whoever
    /// reads it learns why.
    pub fn prefetch(
        &self,
        items: Vec<ItemKind>,
    ) -> impl Stream<Item = Prefetched> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        landing(self.spans(items), move |span| {
            let shared = Arc::clone(&shared);
            async move { shared.prefetch_span(span).await }
        })
    }

    /// Fetches the frames of `items` as [`prefetch`](Self::prefetch) does, and keeps them with those
    /// that were read recently: for what will be read soon. Frames beyond 48 MiB as stored are left
    /// out, since they would displace the first ones.
    pub fn warm(&self, items: Vec<ItemKind>) -> impl Future<Output = ()> + Send + 'static {
        self.warmed(items).for_each(|_| std::future::ready(()))
    }

    /// Does so, and returns the items that have come, a group for each range.
    pub fn warmed(
        &self,
        items: Vec<ItemKind>,
    ) -> impl Stream<Item = Vec<ItemKind>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let mut room_bytes = WARM_BYTES_MAX;
        let spans = self.spans(items).take_while(move |span| {
            room_bytes = room_bytes.saturating_sub(span.stored_bytes());
            std::future::ready(room_bytes > 0)
        });
        landing(spans, move |mut span| {
            let shared = Arc::clone(&shared);
            let items = std::mem::take(&mut span.items).into_iter();
            async move {
                shared.fetch_span(span).await;
                items.map(|(_, item)| item).collect()
            }
        })
    }

    /// Returns where `items` are, in the order in which they are given as far as neighbours are not
    /// put together, as [`prefetch`](Self::prefetch) does. What no pack holds is left out.
    pub async fn ranges(&self, items: Vec<ItemKind>) -> Vec<(PackName, Range<u64>)> {
        let range = |span: Span| {
            let (first, last) = (span.frames.first()?, span.frames.last()?);
            let range = first.1.offset_bytes..last.1.range().end;
            Some((span.pack, range))
        };
        let spans: Vec<Span> = self.spans(items).collect().await;
        spans.into_iter().filter_map(range).collect()
    }

    /// Plans on a thread that may block.
    fn spans(&self, items: Vec<ItemKind>) -> impl Stream<Item = Span> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let planned = tokio::spawn(async move {
            let items = shared.await_items(items).await;
            tokio::task::spawn_blocking(move || plan(&shared, &items)).await
        });
        let spans = async move {
            match planned.await.and_then(std::convert::identity) {
                Ok(Ok(spans)) => spans,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "plan a prefetch");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        };
        stream::once(spans).flat_map(stream::iter)
    }
}

impl Shared {
    /// Notes that a frame is read, and fetches ahead what may be read next.
    pub(super) fn read_ahead(self: &Arc<Self>, key: FrameKey, missing: bool) {
        if let Some(candidates) = self.ahead.note(key, missing) {
            self.fetch_ahead(Vec::new(), move |index| {
                let frames = candidates.frames.iter();
                let found = frames.map(|frame| {
                    let entry = index.frame_numbered(candidates.pack, *frame)?;
                    Ok(entry.map(|entry| ((candidates.pack, *frame), entry)))
                });
                found.filter_map(Result::transpose).collect()
            });
        }
    }

    /// Fetches the frames that `find` names as far as they may be fetched in vain, in a task, once
    /// the index knows `awaited`; does nothing when many such tasks are under way. `find` may block.
    fn fetch_ahead(
        self: &Arc<Self>,
        awaited: Vec<ItemKind>,
        find: impl FnOnce(&ChunkIndex) -> Result<Vec<(FrameKey, FrameEntry)>, IndexError>
        + Send
        + 'static,
    ) {
        let Ok(turn) = Arc::clone(&self.ahead_turns).try_acquire_owned() else {
            return;
        };
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            drop(shared.await_items(awaited).await);
            let finding = Arc::clone(&shared);
            let spans = tokio::task::spawn_blocking(move || {
                let mut window = Window::default();
                for (key, entry) in find(&finding.index)? {
                    if finding.ahead.admit(key, entry.stored_bytes) {
                        window.add(finding.index.pack(key.0)?, key, entry);
                    }
                }
                Ok::<_, IndexError>(window.spans(&mut HashMap::new()))
            });
            if let Ok(Ok(spans)) = spans.await {
                let guesses = spans.into_iter().map(|span| shared.guess_span(span));
                futures::future::join_all(guesses).await;
            }
            drop(turn);
        });
    }

    /// Fetches what of a span is missing, and keeps it, and what is there, with the recent frames.
    async fn fetch_span(self: &Arc<Self>, span: Span) {
        self.ahead.foretell(span.frames.iter().map(|(key, _)| *key));
        for (key, _) in &span.frames {
            drop(lock(&self.packed).get(key));
        }
        let wanted = self.announce(span.frames);
        drop(self.fetch_run(span.pack, wanted, Ahead::Recent).await);
    }

    /// Does so if it costs little. What does not come is not counted as fetched in vain.
    async fn guess_span(self: &Arc<Self>, span: Span) {
        let keys: Vec<FrameKey> = span.frames.iter().map(|(key, _)| *key).collect();
        let wanted = self.announce(span.frames);
        if self
            .fetch_run(span.pack, wanted, Ahead::Guessed)
            .await
            .is_none()
        {
            self.ahead.forget(&keys);
        }
    }

    /// Fetches what of a span is missing, and waits for what of it others are fetching.
    async fn prefetch_span(self: &Arc<Self>, span: Span) -> Prefetched {
        let plain: usize = span.frames.iter().map(|(_, e)| e.plain_bytes()).sum();
        let kib = u32::try_from(plain.div_ceil(1024).min(PREFETCH_KIB_MAX)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.prefetch_room).acquire_many_owned(kib);
        let room = room.await.expect("the semaphore is never closed");
        let keys: Vec<FrameKey> = span.frames.iter().map(|(key, _)| *key).collect();
        let wanted = self.announce(span.frames);
        let fetched = self.fetch_run(span.pack, wanted, Ahead::Held).await;
        let mut frames = fetched.unwrap_or_default();
        for key in keys {
            if !frames.contains_key(&key) {
                let there = match self.get(key) {
                    Some(frame) => Some(frame),
                    None => self.flights.join(key).await.and_then(Result::ok),
                };
                frames.extend(there.map(|frame| (key, frame)));
            }
        }
        let mut items = span.items;
        items.retain(|(key, _)| frames.contains_key(key));
        Prefetched {
            items: items.into_iter().map(|(_, item)| item).collect(),
            _frames: frames.into_values().collect(),
            _room: room,
        }
    }
}

/// Fetches spans, several at once, and returns what comes of each.
fn landing<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    spans: impl Stream<Item = Span> + Send + 'static,
    fetch: impl Fn(Span) -> F + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    spans
        .map(move |span| {
            // A task of its own: it goes on while the caller is busy with another span.
            let fetched = tokio::spawn(fetch(span));
            async move { fetched.await.ok() }
        })
        .buffer_unordered(RANGES_MAX)
        .filter_map(std::future::ready)
}

/// Keeps a reader from fetching on a guess.
#[derive(Debug)]
pub struct Suspended(Arc<Shared>);

impl Drop for Suspended {
    fn drop(&mut self) {
        self.0.ahead.resume();
    }
}

/// Items that are in memory for as long as this is not dropped.
#[derive(Debug)]
pub struct Prefetched {
    items: Vec<ItemKind>,
    _frames: Vec<Arc<Arrived>>,
    _room: OwnedSemaphorePermit,
}

impl Prefetched {
    /// Returns the items, in the order in which they were asked for.
    pub fn items(&self) -> &[ItemKind] {
        &self.items
    }
}

/// Finds the frames of `items` and puts neighbours together. Blocks.
fn plan(shared: &Shared, items: &[ItemKind]) -> Result<Vec<Span>, IndexError> {
    let mut windows = vec![Window::default()];
    let mut window_bytes = WINDOW_BYTES_FIRST;
    let mut items_of = HashMap::<FrameKey, Vec<ItemKind>>::new();
    let mut names = HashMap::new();
    for item in items {
        let Some(location) = shared.index.locate(*item)? else {
            continue;
        };
        let key = (location.pack, location.frame);
        let of_frame = items_of.entry(key).or_default();
        of_frame.push(*item);
        if of_frame.len() > 1 {
            continue;
        }
        let name = match names.get(&location.pack) {
            Some(name) => *name,
            None => {
                let name = shared.index.pack(location.pack)?;
                names.insert(location.pack, name);
                name
            }
        };
        match windows.last_mut() {
            Some(window) if window.bytes < window_bytes => {
                window.add(name, key, shared.index.frame(location)?);
            }
            _ => {
                window_bytes = (window_bytes * WINDOW_GROWTH).min(WINDOW_BYTES_MAX);
                let mut window = Window::default();
                window.add(name, key, shared.index.frame(location)?);
                windows.push(window);
            }
        }
    }
    let spans = windows.into_iter().flat_map(|w| w.spans(&mut items_of));
    Ok(spans.collect())
}

/// Frames that may be fetched in any order, in their order of urgency.
#[derive(Debug, Default)]
struct Window {
    frames: Vec<(PackName, FrameKey, FrameEntry)>,
    bytes: u64,
}

impl Window {
    fn add(&mut self, pack: PackName, key: FrameKey, entry: FrameEntry) {
        self.bytes += u64::from(entry.stored_bytes);
        self.frames.push((pack, key, entry));
    }

    /// Puts neighbours together, with the items of each frame out of `items_of`. The span with the
    /// most urgent frame comes first.
    fn spans(self, items_of: &mut HashMap<FrameKey, Vec<ItemKind>>) -> Vec<Span> {
        let urgency: HashMap<FrameKey, usize> = self.frames.iter().map(|f| f.1).zip(0..).collect();
        let mut frames = self.frames;
        frames.sort_by_key(|(_, key, _)| *key);
        let mut spans: Vec<Span> = Vec::new();
        for (pack, key, entry) in frames {
            let items = items_of.remove(&key).unwrap_or_default();
            let items = items.into_iter().map(|item| (key, item));
            match spans.last_mut() {
                Some(span) if span.pack == pack && joins(&span.frames, &entry) => {
                    span.frames.push((key, entry));
                    span.items.extend(items);
                }
                _ => spans.push(Span {
                    pack,
                    frames: vec![(key, entry)],
                    items: items.collect(),
                }),
            }
        }
        let first = |span: &Span| span.frames.iter().map(|(key, _)| urgency[key]).min();
        spans.sort_by_cached_key(first);
        spans
    }
}

/// Tells whether a frame is to be fetched in one range with `frames`, which it follows.
fn joins(frames: &[(FrameKey, FrameEntry)], next: &FrameEntry) -> bool {
    let (Some((_, first)), Some((_, last))) = (frames.first(), frames.last()) else {
        return true;
    };
    let plain_bytes: usize = frames.iter().map(|(_, e)| e.plain_bytes()).sum();
    let gap_bytes = next.offset_bytes.saturating_sub(last.range().end);
    gap_bytes <= GAP_BYTES_MAX
        && plain_bytes + next.plain_bytes() <= RANGE_PLAIN_BYTES_MAX
        && next.range().end - first.offset_bytes <= RANGE_BYTES_MAX
}
