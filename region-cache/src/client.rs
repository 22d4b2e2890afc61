//! The client: the region's members as a tier of the reader, and on the way of objects to the
//! origin.
//!
//! ```text
//! Reader --> RegionCache --> Fetcher --(rank, breaker, hedge, budget)--> Wire --> member
//!                ^              ^
//!          RegionStore       Members <-- Directory (flag, file, DNS)
//! ```
//! [`place`] says which member has what, [`fetch`] how it is asked; [`RegionStore`] is the object
//! store with the region before it. Nothing here is relied on: what the region gives is checked by
//! who reads it, and what it does not give comes from the origin.

mod breaker;
mod budget;
mod counters;
mod directory;
mod fetch;
mod http;
mod latency;
mod members;
mod place;
mod store;
mod wire;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use nacre_blobstore::{ChunkSource, Clock, Key, PackName, StoreError, Tier, UnverifiedBytes};
use tokio::task::JoinHandle;

pub use counters::RegionStats;
use counters::count;
use directory::Directory;
pub use directory::RegionMembers;
use fetch::{Fetcher, PassBy};
use http::Http;
use members::Members;
use place::{Spot, parts};
pub use store::RegionStore;
use wire::{Ask, Part, Wire, WireError};

/// Members that keep each part of an object on its way to the origin.
pub const WRITE_MEMBERS: usize = 2;
/// Parts of one object that are given to members at once.
const WRITES_MAX: usize = 4;
/// How long the giving of one part may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Requests of one priming that are under way at once.
const PRIME_REQUESTS_MAX: usize = 8;
/// Largest whole object that is primed.
const PRIME_BYTES_MAX: u64 = 1 << 30;
/// How long the first request waits for the members' names to be resolved.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// How to reach a region.
#[derive(Debug)]
pub struct RegionOptions {
    /// Where the list of members comes from.
    pub members: Vec<RegionMembers>,
    /// A file with the token that members want, read again when it changes.
    pub token: Option<PathBuf>,
    /// A file of certificates (PEM) that members' may be signed by, besides the system's.
    pub authority: Option<PathBuf>,
    /// Folder in which members find the objects of this store, if not at the root of theirs.
    pub prefix: Option<String>,
    /// For whom members queue fairly: one name for each node.
    pub client: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Decides the jitter of waits; should differ between processes.
    pub seed: u64,
}

/// What came of a priming.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Primed {
    /// Requests to members.
    pub requests: u64,
    /// Bytes of their answers.
    pub bytes: u64,
    /// Requests that no member answered.
    pub failed: u64,
}

/// The client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegionCacheError {
    /// The HTTP client refuses its settings.
    #[error("set up region cache: {0}")]
    Http(#[from] reqwest::Error),
    /// A name of a member is none.
    #[error("{0:?} is not HOST:PORT, https://HOST:PORT, file:PATH or dns:NAME:PORT")]
    Member(String),
    /// The folder's name is none.
    #[error("{0:?} is not a folder of a store")]
    Prefix(String),
    /// A file cannot be read.
    #[error("read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The members of a region's cache.
#[derive(Debug)]
pub struct RegionCache {
    fetcher: Fetcher,
    /// Keeps the list of members, if that may change.
    follower: Option<JoinHandle<()>>,
}

impl RegionCache {
    /// Makes the client. No member is contacted yet. Must be called in a runtime.
    ///
    /// # Errors
    /// [`RegionCacheError`] when the HTTP client cannot be made or a file cannot be read.
    pub fn new(options: RegionOptions) -> Result<Self, RegionCacheError> {
        let http = Http::new(
            &options.client,
            options.prefix.as_deref(),
            options.authority.as_deref(),
        );
        let http = Arc::new(http?);
        let directory = Directory {
            entries: options.members,
            token: options.token,
            http: Arc::clone(&http),
        };
        let known = directory.first()?;
        let names = known.iter().flatten().cloned().collect();
        let mut region = Self::over(http, &names, Arc::clone(&options.clock), options.seed);
        if !directory.is_fixed() {
            let members = Arc::downgrade(&region.fetcher.members);
            let follow = directory.follow(known, members, options.clock);
            region.follower = Some(tokio::spawn(follow));
        }
        Ok(region)
    }

    /// Reaches `members` by `wire`.
    fn over(
        wire: Arc<dyn Wire>,
        members: &BTreeSet<String>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let list = Members::default();
        list.replace(members);
        Self {
            fetcher: Fetcher::new(wire, Arc::new(list), clock, seed),
            follower: None,
        }
    }

    /// Returns what the client did so far.
    pub fn stats(&self) -> RegionStats {
        let list = self.fetcher.members.list();
        let down = list.iter().filter(|member| !member.breaker.is_closed());
        self.fetcher.counters.snapshot(list.len(), down.count())
    }

    /// Gives an object to two members for each of its spans, and returns how many took the part that
    /// fewest took. Members may forget it at any time.
    pub async fn write(&self, key: &Key, body: &Bytes) -> usize {
        let total = body.len() as u64;
        let cut = |range: Range<u64>| {
            let start = usize::try_from(range.start).ok()?;
            let end = usize::try_from(range.end).ok()?;
            Some(Part {
                key: key.clone(),
                body: body.slice(start..end),
                offset: range.start,
                total,
            })
        };
        // What is no pack is read whole.
        let is_pack = PackName::from_key(key).is_some_and(|pack| pack.key() == *key);
        let ranges = if is_pack {
            parts(&(0..total))
        } else {
            vec![0..total]
        };
        let parts: Vec<Part> = ranges.into_iter().filter_map(cut).collect();
        let mut least = WRITE_MEMBERS;
        for parts in parts.chunks(WRITES_MAX) {
            let taken = join_all(parts.iter().map(|part| self.write_part(part))).await;
            least = taken.into_iter().fold(least, usize::min);
        }
        count(&self.fetcher.counters.written);
        if least < WRITE_MEMBERS {
            count(&self.fetcher.counters.written_short);
        }
        least
    }

    /// Gives a part to the first members that answer.
    async fn write_part(&self, part: &Part) -> usize {
        let now = self.fetcher.clock.elapsed();
        let mut ranked = self
            .fetcher
            .members
            .ranked(Spot::of(&part.key, part.offset));
        ranked.retain(|member| member.breaker.allows(now));
        let mut taken = 0;
        let mut left = ranked.into_iter();
        while taken < WRITE_MEMBERS {
            let asked: Vec<_> = left.by_ref().take(WRITE_MEMBERS - taken).collect();
            if asked.is_empty() {
                break;
            }
            let puts = asked.iter().map(|member| async {
                let _load = member.load();
                let outcome = tokio::select! {
                    biased;
                    outcome = self.put_when_free(&member.name, part) => outcome,
                    () = self.fetcher.clock.sleep(WRITE_DEADLINE) => {
                        Err(WireError::Failed("timed out".to_owned()))
                    }
                };
                match &outcome {
                    Err(WireError::Failed(_)) => self.fetcher.note_failure(member),
                    _ => drop(member.breaker.succeeded()),
                }
                outcome.is_ok()
            });
            taken += join_all(puts).await.into_iter().filter(|put| *put).count();
        }
        taken
    }

    /// Gives a part to a member, as soon as that is not busy.
    async fn put_when_free(&self, member: &str, part: &Part) -> Result<(), WireError> {
        loop {
            match self.fetcher.wire.put(member, part).await {
                Err(WireError::Busy(after)) => self.fetcher.clock.sleep(after).await,
                put => return put,
            }
        }
    }

    /// Asks for ranges and whole objects in order, several at a time, and drops what comes: so that
    /// the members have it. Failures are counted only.
    pub async fn prime(&self, asks: Vec<(Key, Option<Range<u64>>)>) -> Primed {
        self.looked().await;
        let ranges = asks.into_iter().flat_map(|(key, range)| match range {
            None => vec![(key, None)],
            Some(range) => {
                let parts = parts(&range).into_iter();
                parts.map(|part| (key.clone(), Some(part))).collect()
            }
        });
        let fetches = ranges.map(|(key, range)| async move {
            let fetched = match range {
                Some(range) => self
                    .part(&key, range, true)
                    .await
                    .map(|(answer, _)| answer.bytes),
                None => {
                    let got = self.whole(&key, PRIME_BYTES_MAX, true).await;
                    got.map(UnverifiedBytes::into_untrusted)
                }
            };
            fetched.ok().map(|bytes| bytes.len() as u64)
        });
        let mut primed = Primed::default();
        let mut fetches = stream::iter(fetches).buffer_unordered(PRIME_REQUESTS_MAX);
        while let Some(fetched) = fetches.next().await {
            primed.requests += 1;
            match fetched {
                Some(bytes) => primed.bytes += bytes,
                None => primed.failed += 1,
            }
        }
        primed
    }

    /// Returns a whole object of at most `limit_bytes` as a member gives it, unchecked.
    async fn whole(
        &self,
        key: &Key,
        limit_bytes: u64,
        ahead: bool,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.looked().await;
        let ask = Ask {
            key: key.clone(),
            range: None,
            limit_bytes,
            only_if_cached: false,
            ahead,
        };
        let given = self.fetcher.fetch(Spot::of(key, 0), &ask).await;
        let (answer, giver) = given.map_err(|error| pass_by(key, &error))?;
        Ok(UnverifiedBytes::given_by(answer.bytes, giver))
    }

    async fn part(
        &self,
        key: &Key,
        range: Range<u64>,
        ahead: bool,
    ) -> Result<fetch::Given, StoreError> {
        let ask = Ask {
            key: key.clone(),
            limit_bytes: range.end - range.start,
            range: Some(range.clone()),
            only_if_cached: false,
            ahead,
        };
        let given = self.fetcher.fetch(Spot::of(key, range.start), &ask).await;
        given.map_err(|error| pass_by(key, &error))
    }

    /// Tells who gave wrong bytes for `range` so, and does not ask them for these for a while.
    /// Returns whether another member can be asked.
    async fn blame(&self, key: &Key, range: Range<u64>, givers: &str) -> bool {
        let now = self.fetcher.clock.elapsed();
        let spots: Vec<Spot> = parts(&range)
            .iter()
            .map(|p| Spot::of(key, p.start))
            .collect();
        for giver in givers.split(GIVERS) {
            for spot in &spots {
                self.fetcher.members.distrust(giver, *spot, now);
            }
            count(&self.fetcher.counters.reported);
            let reported = self.fetcher.wire.report(giver, key, range.clone()).await;
            if let Err(error) = reported {
                tracing::debug!(member = giver, %error, "report wrong bytes");
            }
        }
        let candidates = |spot: &Spot| self.fetcher.members.candidates(*spot, now);
        spots.iter().all(|spot| !candidates(spot).is_empty())
    }

    /// Waits until the list of members is known, but not for long.
    async fn looked(&self) {
        if self.follower.is_none() || !self.fetcher.members.list().is_empty() {
            return;
        }
        tokio::select! {
            biased;
            () = self.fetcher.members.looked() => {}
            () = self.fetcher.clock.sleep(LOOK_DEADLINE) => {}
        }
    }
}

impl Drop for RegionCache {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// Between the names of those who gave parts of a range.
const GIVERS: char = ' ';

fn pass_by(key: &Key, error: &PassBy) -> StoreError {
    StoreError::Unavailable {
        operation: "get from region",
        target: key.to_string(),
        message: error.to_string(),
    }
}

#[async_trait::async_trait]
impl ChunkSource for RegionCache {
    fn tier(&self) -> Tier {
        Tier::Region
    }

    async fn fetch(
        &self,
        pack: PackName,
        range: Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.looked().await;
        let key = pack.key();
        let mut parts = parts(&range);
        if let (1, Some(part)) = (parts.len(), parts.pop()) {
            let (answer, giver) = self.part(&key, part, false).await?;
            return Ok(UnverifiedBytes::given_by(answer.bytes, giver));
        }
        let parts = place::parts(&range).into_iter();
        let asked = join_all(parts.map(|part| self.part(&key, part, false))).await;
        let mut joined = BytesMut::new();
        let mut givers = Vec::new();
        for given in asked {
            let (answer, giver) = given?;
            joined.extend_from_slice(&answer.bytes);
            if !givers.contains(&giver) {
                givers.push(giver);
            }
        }
        let givers = givers.join(&GIVERS.to_string());
        Ok(UnverifiedBytes::given_by(joined.freeze(), givers.into()))
    }

    async fn report(&self, pack: PackName, range: Range<u64>, giver: &str) -> bool {
        self.blame(&pack.key(), range, giver).await
    }
}

#[cfg(test)]
mod tests;
