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
mod prime;
mod span;
mod store;
mod wire;
mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures::future::join_all;
use nacre_blobstore::{ChunkSource, Clock, Key, PackName, StoreError, Tier, UnverifiedBytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use counters::RegionStats;
use counters::count;
use directory::Directory;
pub use directory::RegionMembers;
pub use fetch::PATIENCE_MAX;
use fetch::{Fetcher, PassBy};
use http::Http;
use members::Members;
use place::{Spot, parts};
pub use prime::Primed;
pub use store::RegionStore;
use wire::{Ask, Wire};
pub use write::WRITE_MEMBERS;

/// How long the first request waits for the members' names to be resolved.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Bursts that this node was told of and has not looked at; of more it does not hear.
const BURSTS_MAX: usize = 16;

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
    /// How long members are waited for before the origin is asked, busy ones too. More than
    /// [`PATIENCE_MAX`] counts as that.
    pub patience: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Decides the jitter of waits; should differ between processes.
    pub seed: u64,
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
    fetcher: Arc<Fetcher>,
    /// Records of images that many nodes begin to start.
    bursts: (mpsc::Sender<Key>, Mutex<Option<mpsc::Receiver<Key>>>),
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
        let mut region = Self::over(
            http,
            &names,
            Arc::clone(&options.clock),
            options.seed,
            options.patience,
        );
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
        patience: Duration,
    ) -> Self {
        let list = Members::default();
        list.replace(members);
        let (told, bursts) = mpsc::channel(BURSTS_MAX);
        let fetcher = Fetcher::new(wire, Arc::new(list), clock, seed, patience);
        Self {
            fetcher: Arc::new(fetcher),
            bursts: (told, Mutex::new(Some(bursts))),
            follower: None,
        }
    }

    /// Returns what the client did so far.
    pub fn stats(&self) -> RegionStats {
        let list = self.fetcher.members.list();
        let down = list.iter().filter(|member| !member.breaker.is_closed());
        self.fetcher.counters.snapshot(list.len(), down.count())
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
        if answer.burst && self.bursts.0.try_send(key.clone()).is_ok() {
            count(&self.fetcher.counters.bursts);
        }
        Ok(UnverifiedBytes::given_by(answer.bytes, giver))
    }

    /// Returns the records of which members say that many nodes begin to start what they are of, and
    /// that this node is the one to prime the region. `None` for all callers but the first.
    pub fn bursts(&self) -> Option<mpsc::Receiver<Key>> {
        let mut bursts = self.bursts.1.lock().unwrap_or_else(PoisonError::into_inner);
        bursts.take()
    }

    async fn part(
        &self,
        key: &Key,
        range: Range<u64>,
        need: Need,
    ) -> Result<fetch::Given, StoreError> {
        let spot = Spot::of(key, range.start);
        let ask = Ask {
            key: key.clone(),
            limit_bytes: range.end - range.start,
            range: Some(range),
            only_if_cached: need == Need::IfCached,
            ahead: need == Need::Ahead,
        };
        if need == Need::IfCached {
            let given = self.fetcher.fetch_cached(spot, &ask).await;
            return given.ok_or_else(|| StoreError::NotFound(key.clone()));
        }
        let given = self.fetcher.fetch(spot, &ask).await;
        given.map_err(|error| pass_by(key, &error))
    }

    /// Returns a range of an object, each part as its members give it, unchecked.
    async fn range(
        &self,
        key: &Key,
        range: &Range<u64>,
        need: Need,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.looked().await;
        let wanted = parts(range);
        if let [part] = &wanted[..] {
            let (answer, giver) = self.part(key, part.clone(), need).await?;
            return Ok(UnverifiedBytes::given_by(answer.bytes, giver));
        }
        let parts = wanted.into_iter();
        let asked = join_all(parts.map(|part| self.part(key, part, need))).await;
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

/// How much a part of an object is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Somebody waits for it.
    Now,
    /// Somebody will.
    Ahead,
    /// Somebody may: not if the origin must be asked.
    IfCached,
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
        self.range(&pack.key(), &range, Need::Now).await
    }

    async fn fetch_cached(
        &self,
        pack: PackName,
        range: Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.range(&pack.key(), &range, Need::IfCached).await
    }

    async fn report(&self, pack: PackName, range: Range<u64>, giver: &str) -> bool {
        self.blame(&pack.key(), range, giver).await
    }
}

#[cfg(test)]
mod tests;
