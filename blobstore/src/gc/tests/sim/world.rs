//! The store and the clock that all simulated nodes share. Every request waits twice for the
//! scheduler: before it is applied and before its answer arrives.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use crate::{BlobStore, Clock, Key, ObjectInfo, StoreError, Version};

/// What a waiting task is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    /// The request fails and was not applied.
    FailBefore,
    /// The request is applied, and its answer lost.
    FailAfter,
}

/// Something that waits for the scheduler.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) node: usize,
    /// When a request was sent; `None` for a process that is about to go on.
    pub(super) sent_ms: Option<u64>,
    /// Whether the process may stop to run here for any time.
    pub(super) is_pause: bool,
    /// Whether it is to take long; `None` before the scheduler has decided.
    pub(super) slow: Option<bool>,
    pub(super) go: oneshot::Sender<Fate>,
}

/// The machine of a node: how its clocks stand, and whether it runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Machine {
    /// How far its wall clock is ahead of the world's, in milliseconds.
    pub(super) ahead_ms: i64,
    /// How long it was suspended: its other clock stood still.
    pub(super) suspended_ms: u64,
    /// Until when it does not run.
    pub(super) frozen_until: Option<u64>,
    /// Whether it is suspended meanwhile, and not just slow.
    pub(super) is_suspended: bool,
}

#[derive(Debug)]
struct Sleeper {
    node: usize,
    until: Duration,
    wake: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) objects: Mutex<BTreeMap<Key, (Bytes, u64)>>,
    versions: AtomicU64,
    pub(super) waiting: Mutex<Vec<Waiting>>,
    pub(super) now_ms: AtomicU64,
    pub(super) machines: Mutex<Vec<Machine>>,
    sleepers: Mutex<Vec<Sleeper>>,
    /// Hashes all that happens, to show that a seed decides everything.
    pub(super) history: Mutex<blake3::Hasher>,
    /// Is set by each change, for the checks after it.
    pub(super) changed: AtomicU64,
    /// Refs may be deleted only by those who say so.
    pub(super) refs_deleted_by_gc: AtomicU64,
}

impl World {
    async fn wait(&self, node: usize, sent_ms: Option<u64>, is_pause: bool) -> Fate {
        let (go, told) = oneshot::channel();
        self.waiting.lock().unwrap().push(Waiting {
            node,
            sent_ms,
            is_pause,
            slow: None,
            go,
        });
        told.await.unwrap_or(Fate::FailBefore)
    }

    /// A moment at which a process may stop to run for any time.
    pub(super) async fn pause(&self, node: usize) {
        self.wait(node, None, true).await;
    }

    pub(super) fn now(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    pub(super) fn machine(&self, node: usize) -> Machine {
        self.machines.lock().unwrap()[node]
    }

    pub(super) fn advance(&self, by_ms: u64) {
        let now = self.now_ms.fetch_add(by_ms, Ordering::SeqCst) + by_ms;
        for machine in &mut *self.machines.lock().unwrap() {
            let frozen = machine.frozen_until.is_some();
            machine.suspended_ms += if frozen && machine.is_suspended {
                by_ms
            } else {
                0
            };
            machine.frozen_until = machine.frozen_until.filter(|until| *until > now);
        }
        let mut sleepers = self.sleepers.lock().unwrap();
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *sleepers)
                .into_iter()
                .partition(|sleeper| {
                    let runs = self.machine(sleeper.node).frozen_until.is_none();
                    runs && self.elapsed(sleeper.node) >= sleeper.until
                });
        *sleepers = rest;
        for sleeper in due {
            let _gone: Result<(), ()> = sleeper.wake.send(());
        }
    }

    fn elapsed(&self, node: usize) -> Duration {
        Duration::from_millis(self.now() - self.machine(node).suspended_ms)
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        objects.keys().map(ToString::to_string).collect()
    }
}

#[derive(Debug)]
pub(super) struct SimClock {
    pub(super) world: Arc<World>,
    pub(super) node: usize,
    /// When it was made, if it does not go on from there.
    pub(super) stopped: Option<u64>,
}

#[async_trait::async_trait]
impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let now = self.stopped.unwrap_or_else(|| self.world.now());
        now.saturating_add_signed(self.world.machine(self.node).ahead_ms)
    }

    fn elapsed(&self) -> Duration {
        match self.stopped {
            Some(at) => Duration::from_millis(at),
            None => self.world.elapsed(self.node),
        }
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel();
        self.world.sleepers.lock().unwrap().push(Sleeper {
            node: self.node,
            until: self.world.elapsed(self.node) + duration,
            wake,
        });
        drop(woken.await);
    }
}

/// One node's way to the store.
#[derive(Clone)]
pub(super) struct SimStore {
    pub(super) world: Arc<World>,
    pub(super) node: usize,
    pub(super) is_gc: bool,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl SimStore {
    /// Sends a request: it is applied, or not, even if its sender dies meanwhile.
    async fn request<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        apply: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, key) = (self.clone(), key.to_owned());
        let now = self.world.now();
        let sent = tokio::spawn(async move {
            let fate = store.world.wait(store.node, Some(now), false).await;
            let line = format!("{operation} {key} {fate:?}\n");
            store.world.history.lock().unwrap().update(line.as_bytes());
            let lost = || StoreError::unavailable(operation, &key, "simulated");
            match fate {
                Fate::FailBefore => Err(lost()),
                Fate::Pass => apply(&store),
                Fate::FailAfter => apply(&store).and_then(|_| Err(lost())),
            }
        });
        let outcome = sent.await.unwrap();
        self.world.wait(self.node, None, false).await;
        outcome
    }

    fn write(&self, key: &Key, body: Bytes) -> Version {
        let version = self.world.versions.fetch_add(1, Ordering::SeqCst);
        let mut objects = self.world.objects.lock().unwrap();
        objects.insert(key.clone(), (body, version));
        self.world.changed.fetch_add(1, Ordering::SeqCst);
        Version(version.to_string())
    }

    fn read(&self, key: &Key) -> Result<(Bytes, Version), StoreError> {
        let objects = self.world.objects.lock().unwrap();
        let found = objects.get(key);
        let (bytes, version) = found.ok_or_else(|| StoreError::NotFound(key.clone()))?;
        Ok((bytes.clone(), Version(version.to_string())))
    }

    /// Half of what is left to be listed: more may happen between two pages.
    fn page(&self, folder: &str, after: Option<&Key>) -> Vec<ObjectInfo> {
        let objects = self.world.objects.lock().unwrap();
        let inside = format!("{folder}/");
        let rest: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(&inside) && after.is_none_or(|a| *key > a))
            .collect();
        let len = rest.len().div_ceil(2);
        let info = |(key, (bytes, _)): &(&Key, &(Bytes, u64))| ObjectInfo {
            key: (*key).clone(),
            size_bytes: bytes.len() as u64,
            modified_ms: 0,
        };
        rest.iter().take(len).map(info).collect()
    }
}

#[async_trait::async_trait]
impl BlobStore for SimStore {
    async fn get(&self, key: &Key, _limit: u64) -> Result<(Bytes, Version), StoreError> {
        let named = key.clone();
        let get = move |s: &Self| s.read(&named);
        self.request("get", key.as_str(), get).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let named = key.clone();
        let cut = move |bytes: Bytes| {
            let at = |offset| usize::try_from(offset).unwrap();
            bytes.slice(at(range.start)..at(range.end))
        };
        let read = move |s: &Self| s.read(&named).map(|(bytes, _)| cut(bytes));
        self.request("range", key.as_str(), read).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let named = key.clone();
        let size = move |s: &Self| s.read(&named).map(|(bytes, _)| bytes.len() as u64);
        self.request("size", key.as_str(), size).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let named = key.clone();
        let put = move |s: &Self| {
            s.write(&named, body);
            Ok(())
        };
        self.request("put", key.as_str(), put).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        let named = key.clone();
        let create = move |s: &Self| match s.read(&named) {
            Ok(_) => Err(StoreError::Exists(named)),
            Err(_) => Ok(s.write(&named, body)),
        };
        self.request("create", key.as_str(), create).await
    }

    async fn replace(&self, key: &Key, body: Bytes, old: &Version) -> Result<Version, StoreError> {
        let (named, old) = (key.clone(), old.clone());
        let replace = move |s: &Self| match s.read(&named) {
            Ok((_, version)) if version == old => Ok(s.write(&named, body)),
            _ => Err(StoreError::Conflict(named)),
        };
        self.request("replace", key.as_str(), replace).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let named = key.clone();
        let delete = move |s: &Self| {
            s.world.objects.lock().unwrap().remove(&named);
            s.world.changed.fetch_add(1, Ordering::SeqCst);
            if s.is_gc && named.as_str().starts_with("refs/") {
                s.world.refs_deleted_by_gc.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        };
        self.request("delete", key.as_str(), delete).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let (store, folder) = (self.clone(), prefix.to_owned());
        let pages = futures::stream::unfold(Some(None), move |after: Option<Option<Key>>| {
            let (store, folder) = (store.clone(), folder.clone());
            async move {
                let after = after?;
                let listed = folder.clone();
                let list = move |s: &Self| Ok(s.page(&listed, after.as_ref()));
                match store.request("list", &folder, list).await {
                    Ok(page) => {
                        let next = page.last().map(|last| Some(last.key.clone()));
                        Some((page.into_iter().map(Ok).collect(), next))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        pages.flat_map(futures::stream::iter).boxed()
    }
}
