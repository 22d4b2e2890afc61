//! Fetching frames: one for a reader that waits, or a run of neighbours ahead of any reader.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::ReadError;
use super::flight::{Announced, SingleFlight};
use super::memory::{Arrived, Packed};
use super::read_ahead::ReadAhead;
use super::recent::Recent;
use super::stats::Counters;
use crate::frame::FrameEntry;
use crate::pack::PackName;
use crate::{ChunkIndex, ChunkSource, PackLoader, StoreError, Tier, UnverifiedBytes};

/// How many of one tier are asked for a frame, when the first gives wrong bytes.
const GIVERS_MAX: usize = 3;

/// Number of a pack in the index, number of the frame in the pack.
pub(super) type FrameKey = (u32, u32);
pub(super) type Fetched = Result<Arc<Arrived>, ReadError>;

/// What a fetch needs; it outlives the reader that asked for it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) index: Arc<ChunkIndex>,
    /// What makes packs known behind the readers; without, the index knows all that there is.
    pub(super) loader: Option<Arc<PackLoader>>,
    pub(super) sources: Vec<Arc<dyn ChunkSource>>,
    pub(super) frames: Mutex<Recent<FrameKey, Arc<Arrived>>>,
    /// Frames as stored: three times as many fit, those that nobody comes for are never
    /// decompressed, and those that are read again after a while are not fetched again. Those go first
    /// that were asked for longest ago.
    pub(super) packed: Mutex<Recent<FrameKey, Arc<Packed>>>,
    /// Frames that a prefetch holds until they are taken: found as those in `frames` are.
    pub(super) held: Mutex<HashMap<FrameKey, Weak<Arrived>>>,
    pub(super) flights: SingleFlight<FrameKey, Fetched>,
    pub(super) ahead: ReadAhead,
    pub(super) ahead_turns: Arc<Semaphore>,
    pub(super) prefetch_room: Arc<Semaphore>,
    pub(super) counters: Counters,
    pub(super) wait_max: Duration,
}

/// How frames are fetched that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// They stay in memory for as long as they are held.
    Held,
    /// They stay with the recent frames.
    Recent,
    /// As that, if they cost no more than a request to the nearest tier that is not the node: whether
    /// anybody will read them is a guess.
    Guessed,
}

/// Why a tier gave no frame.
enum Asked {
    /// It gave wrong bytes; whether another one of it can be asked.
    Corrupt {
        reason: String,
        again: bool,
    },
    Unavailable(StoreError),
    Stopped,
}

/// A frame that was announced and is to be fetched with its neighbours.
pub(super) struct Wanted {
    announced: Announced<FrameKey, Fetched>,
    entry: FrameEntry,
}

impl Shared {
    /// Fetches a frame from the first tier that gives right bytes. Ends in time, so that who comes
    /// when the tiers answer again does not wait for a request that nobody will answer.
    pub(super) async fn fetch(&self, key: FrameKey, pack: PackName, entry: FrameEntry) -> Fetched {
        let what = format!("frame at {} of pack {}", entry.offset_bytes, pack.id);
        let fetch = self.fetch_from_tiers(key, pack, entry);
        let fetched = tokio::time::timeout(self.wait_max, fetch).await;
        fetched.unwrap_or_else(|_| {
            Err(ReadError::Unavailable {
                what,
                source: Arc::new(StoreError::TimedOut {
                    operation: "get range of",
                    key: pack.key(),
                    seconds: self.wait_max.as_secs(),
                }),
            })
        })
    }

    async fn fetch_from_tiers(&self, key: FrameKey, pack: PackName, entry: FrameEntry) -> Fetched {
        self.ahead.missed(entry.stored_bytes);
        let entry = Arc::new(entry);
        let what = format!("frame at {} of pack {}", entry.offset_bytes, pack.id);
        let mut failed = None;
        for source in &self.sources {
            for _ in 0..GIVERS_MAX {
                match self.ask(&**source, key, pack, &entry, &what).await {
                    Ok(frame) => return Ok(frame),
                    Err(Asked::Stopped) => return Err(ReadError::Stopped(what)),
                    Err(Asked::Corrupt { reason, again }) => {
                        failed = Some(ReadError::Corrupt {
                            what: what.clone(),
                            reason,
                        });
                        if !again {
                            break;
                        }
                    }
                    Err(Asked::Unavailable(error)) => {
                        let source = Arc::new(error);
                        let error = ReadError::Unavailable {
                            what: what.clone(),
                            source,
                        };
                        failed = Some(match failed {
                            Some(corrupt @ ReadError::Corrupt { .. }) => corrupt,
                            _ => error,
                        });
                        break;
                    }
                }
            }
        }
        Err(failed.unwrap_or(ReadError::NotFound(what)))
    }

    /// Asks one tier for a frame. Who gave wrong bytes is told so.
    async fn ask(
        &self,
        source: &dyn ChunkSource,
        key: FrameKey,
        pack: PackName,
        entry: &Arc<FrameEntry>,
        what: &str,
    ) -> Result<Arc<Arrived>, Asked> {
        let tier = source.tier();
        let fetched = source.fetch(pack, entry.range()).await;
        let bytes = fetched.map_err(Asked::Unavailable)?;
        self.counters.fetched(tier, entry.stored_bytes.into());
        let (decoding, stored) = (Arc::clone(entry), bytes.clone());
        // Hashing and decompressing 1 MiB takes about a millisecond.
        let decoded = tokio::task::spawn_blocking(move || decoding.decode(stored)).await;
        match decoded {
            Ok(Ok(frame)) => {
                self.pack(key, entry, bytes, tier);
                Ok(self.keep(key, frame, tier))
            }
            Ok(Err(error)) => {
                self.counters.corrupt(tier);
                let (reason, giver) = (error.to_string(), bytes.giver());
                tracing::warn!(%tier, giver, what, reason, "dropped corrupt frame");
                let again = match giver {
                    Some(giver) => source.report(pack, entry.range(), giver).await,
                    None => false,
                };
                Err(Asked::Corrupt { reason, again })
            }
            Err(_) => Err(Asked::Stopped),
        }
    }

    /// Announces those of the frames that are neither in memory nor being fetched.
    pub(super) fn announce(&self, frames: Vec<(FrameKey, FrameEntry)>) -> Vec<Wanted> {
        let announce = |(key, entry)| {
            let announced = self.flights.announce(key, || self.is_here(key))?;
            Some(Wanted { announced, entry })
        };
        frames.into_iter().filter_map(announce).collect()
    }

    /// Fetches announced frames of one pack, in the order of their offsets, with one request from
    /// the nearest tier that answers. Whatever goes wrong is left to those who wait for a frame:
    /// they fetch it themselves. Returns what has come; `None` if no tier gave anything.
    pub(super) async fn fetch_run(
        self: &Arc<Self>,
        pack: PackName,
        wanted: Vec<Wanted>,
        ahead: Ahead,
    ) -> Option<HashMap<FrameKey, Arc<Arrived>>> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Some(HashMap::new());
        };
        let range = first.entry.offset_bytes..last.entry.range().end;
        // Those who wait for an announced frame must not wait for longer than for one of their own.
        let fetch = self.fetch_range(pack, &range, ahead);
        let fetched = tokio::time::timeout(self.wait_max, fetch).await;
        let (bytes, tier) = fetched.ok().flatten()?;
        self.counters.fetched(tier, range.end - range.start);
        let run = Run {
            bytes,
            range,
            tier,
            recent: ahead != Ahead::Held,
        };
        let shared = Arc::clone(self);
        let decoded = tokio::task::spawn_blocking(move || shared.land(&run, wanted));
        Some(decoded.await.unwrap_or_default())
    }

    /// Fetches a range from the nearest tier that answers.
    async fn fetch_range(
        &self,
        pack: PackName,
        range: &Range<u64>,
        ahead: Ahead,
    ) -> Option<(UnverifiedBytes, Tier)> {
        for source in &self.sources {
            let (range, tier) = (range.clone(), source.tier());
            let fetched = match ahead {
                Ahead::Guessed => source.fetch_cached(pack, range).await,
                Ahead::Held | Ahead::Recent => source.fetch(pack, range).await,
            };
            match fetched {
                Ok(bytes) => return Some((bytes, tier)),
                Err(error) => tracing::debug!(%tier, %error, "fetch frames ahead"),
            }
            if ahead == Ahead::Guessed && tier != Tier::Node {
                return None;
            }
        }
        None
    }

    /// Decodes the frames of a run, those that somebody waits for first. Blocks.
    fn land(&self, run: &Run, mut wanted: Vec<Wanted>) -> HashMap<FrameKey, Arc<Arrived>> {
        wanted.reverse();
        let mut landed = HashMap::with_capacity(wanted.len());
        while let Some(last) = wanted.len().checked_sub(1) {
            let awaited = wanted.iter().rposition(|w| w.announced.is_awaited());
            let Wanted { announced, entry } = wanted.remove(awaited.unwrap_or(last));
            let Some(stored) = cut(&run.bytes, &run.range, &entry.range()) else {
                continue;
            };
            let key = announced.key();
            if run.recent {
                self.pack(key, &entry, stored.to_owned_part(), run.tier);
                if !announced.is_awaited() {
                    // Who joined meanwhile finds it there.
                    drop(announced);
                    continue;
                }
            }
            match entry.decode(stored) {
                Ok(frame) => {
                    let frame = match run.recent {
                        true => self.keep(key, frame, run.tier),
                        false => self.hold(key, frame, run.tier),
                    };
                    announced.land(Ok(Arc::clone(&frame)));
                    landed.insert(key, frame);
                }
                // Who needs it asks each tier for it and reports what is wrong.
                Err(error) => tracing::debug!(%error, "decode frame ahead"),
            }
        }
        landed
    }
}

/// The bytes of neighbouring frames.
struct Run {
    bytes: UnverifiedBytes,
    range: Range<u64>,
    tier: Tier,
    recent: bool,
}

/// Cuts out of the bytes of `all` what lies in `range`.
fn cut(bytes: &UnverifiedBytes, all: &Range<u64>, range: &Range<u64>) -> Option<UnverifiedBytes> {
    let start = usize::try_from(range.start.checked_sub(all.start)?).ok()?;
    let end = usize::try_from(range.end.checked_sub(all.start)?).ok()?;
    bytes.slice(start..end)
}
