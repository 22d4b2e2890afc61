//! Members that do as a test says, in the time that the test owns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::testing::TokioClock;
use nacre_blobstore::{Digest, Key, PackId, PackKind, PackName};

use crate::client::wire::{Answer, Ask, Had, Part, Wire, WireError};
use crate::client::{PATIENCE_MAX, RegionCache};

/// In what time a member says that it has not got what it need not ask the origin for.
const REFUSED_AFTER: Duration = Duration::from_millis(10);

/// What a member says to every request.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Bytes,
    Busy(Duration),
    Refused(u16),
    /// The connection is refused.
    Dead,
    /// Nothing, for ever.
    Silent,
}

/// A member.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) says: Says,
    pub(crate) after: Duration,
    /// Whether it says so without asking the origin.
    pub(crate) cached: bool,
}

impl Script {
    pub(crate) fn new(says: Says, after_ms: u64) -> Self {
        Self {
            says,
            after: Duration::from_millis(after_ms),
            cached: false,
        }
    }
}

/// All that members were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) asks: Vec<(String, Ask)>,
    pub(crate) puts: Vec<(String, Part)>,
    pub(crate) reports: Vec<(String, Key, Range<u64>)>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeWire {
    /// Whether answers with records say that a burst begins.
    pub(crate) burst: AtomicBool,
    scripts: Mutex<BTreeMap<String, Script>>,
    told: Mutex<Told>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right bytes of a range of an object.
pub(crate) fn body(key: &Key, range: &Range<u64>) -> Bytes {
    let first = Digest::of(key.as_str().as_bytes()).as_bytes()[0];
    let byte = |at: u64| u8::try_from(at % 251).unwrap() ^ first;
    range.clone().map(byte).collect()
}

pub(crate) fn pack(number: u32) -> PackName {
    PackName {
        kind: PackKind::Data,
        id: PackId::new(Digest::of(&number.to_le_bytes())),
    }
}

impl FakeWire {
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }

    /// How often a member was asked since the last time.
    pub(crate) fn take_asks(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (member, _) in std::mem::take(&mut self.told().asks) {
            *counts.entry(member).or_default() += 1;
        }
        counts
    }

    pub(crate) fn set(&self, member: &str, script: Script) {
        lock(&self.scripts).insert(member.to_owned(), script);
    }

    pub(crate) fn set_all(&self, script: &Script) {
        for held in lock(&self.scripts).values_mut() {
            *held = script.clone();
        }
    }

    fn script(&self, member: &str) -> Script {
        lock(&self.scripts)[member].clone()
    }

    async fn play(&self, script: &Script, cached_only: bool) -> Result<(), WireError> {
        let is_missing = cached_only && !script.cached;
        let after = match script.says {
            // It waits for the origin alone.
            Says::Bytes if is_missing => script.after.min(REFUSED_AFTER),
            _ => script.after,
        };
        tokio::time::sleep(after).await;
        match script.says {
            Says::Bytes if is_missing => Err(WireError::Refused(504)),
            Says::Bytes => Ok(()),
            Says::Busy(after) => Err(WireError::Busy(after)),
            Says::Refused(status) => Err(WireError::Refused(status)),
            Says::Dead => Err(WireError::Failed("refused".to_owned())),
            Says::Silent => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl Wire for FakeWire {
    async fn get(&self, member: &str, ask: &Ask) -> Result<Answer, WireError> {
        self.told().asks.push((member.to_owned(), ask.clone()));
        let script = self.script(member);
        self.play(&script, ask.only_if_cached).await?;
        let range = ask.range.clone().unwrap_or(0..100);
        let bytes = body(&ask.key, &range);
        let had = if script.cached {
            Had::Memory
        } else {
            Had::Origin
        };
        let burst = ask.key.as_str().starts_with("records/") && self.burst.load(Ordering::Relaxed);
        Ok(Answer { bytes, had, burst })
    }

    async fn put(&self, member: &str, part: &Part) -> Result<(), WireError> {
        let script = self.script(member);
        self.play(&script, false).await?;
        self.told().puts.push((member.to_owned(), part.clone()));
        Ok(())
    }

    async fn report(&self, member: &str, key: &Key, range: Range<u64>) -> Result<(), WireError> {
        self.told()
            .reports
            .push((member.to_owned(), key.clone(), range));
        Ok(())
    }
}

/// A region of members `m0:1`, `m1:1`, ... that answer after 10 ms.
pub(crate) fn region(count: usize) -> (RegionCache, Arc<FakeWire>) {
    region_with(count, PATIENCE_MAX)
}

/// As [`region`], for a client of so much patience.
pub(crate) fn region_with(count: usize, patience: Duration) -> (RegionCache, Arc<FakeWire>) {
    let wire = Arc::new(FakeWire::default());
    let names: BTreeSet<String> = (0..count).map(|n| format!("m{n}:1")).collect();
    for name in &names {
        wire.set(name, Script::new(Says::Bytes, 10));
    }
    let clock = Arc::new(TokioClock::new());
    let region = RegionCache::over(Arc::clone(&wire) as _, &names, clock, 7, patience);
    (region, wire)
}
