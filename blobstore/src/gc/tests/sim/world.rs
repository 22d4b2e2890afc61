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
    /// When a request was sent; `None` for what may wait for any time.
    pub(super) sent_ms: Option<u64>,
    pub(super) go: oneshot::Sender<Fate>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) objects: Mutex<BTreeMap<Key, (Bytes, u64)>>,
    versions: AtomicU64,
    pub(super) waiting: Mutex<Vec<Waiting>>,
    pub(super) now_ms: AtomicU64,
    sleepers: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
    /// Hashes all that happens, to show that a seed decides everything.
    pub(super) history: Mutex<blake3::Hasher>,
    /// Is set by each change, for the checks after it.
    pub(super) changed: AtomicU64,
    /// Refs may be deleted only by those who say so.
    pub(super) refs_deleted_by_gc: AtomicU64,
}

impl World {
    pub(super) async fn wait(&self, sent_ms: Option<u64>) -> Fate {
        let (go, told) = oneshot::channel();
        self.waiting.lock().unwrap().push(Waiting { sent_ms, go });
        told.await.unwrap_or(Fate::Pass)
    }

    pub(super) fn advance(&self, by_ms: u64) {
        let now = self.now_ms.fetch_add(by_ms, Ordering::SeqCst) + by_ms;
        let mut sleepers = self.sleepers.lock().unwrap();
        let (due, rest) = std::mem::take(&mut *sleepers)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        *sleepers = rest;
        let due: Vec<(u64, oneshot::Sender<()>)> = due;
        for (_, wake) in due {
            let _gone: Result<(), ()> = wake.send(());
        }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        objects.keys().map(ToString::to_string).collect()
    }
}

#[derive(Debug)]
pub(super) struct SimClock(pub(super) Arc<World>);

#[async_trait::async_trait]
impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now_ms() + u64::try_from(duration.as_millis()).unwrap();
        let (wake, woken) = oneshot::channel();
        self.0.sleepers.lock().unwrap().push((until, wake));
        drop(woken.await);
    }
}

/// One node's way to the store.
#[derive(Clone)]
pub(super) struct SimStore {
    pub(super) world: Arc<World>,
    pub(super) is_gc: bool,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl SimStore {
    async fn request<T>(
        &self,
        operation: &'static str,
        key: &str,
        apply: impl FnOnce(&Self) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let lost = || StoreError::unavailable(operation, key, "simulated");
        let now = self.world.now_ms.load(Ordering::SeqCst);
        let fate = self.world.wait(Some(now)).await;
        self.world
            .history
            .lock()
            .unwrap()
            .update(format!("{operation} {key} {fate:?}\n").as_bytes());
        if fate == Fate::FailBefore {
            return Err(lost());
        }
        let outcome = apply(self);
        self.world.wait(None).await;
        if fate == Fate::FailAfter {
            return Err(lost());
        }
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
        self.request("get", key.as_str(), |s| s.read(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let cut = |bytes: Bytes| {
            let at = |offset| usize::try_from(offset).unwrap();
            bytes.slice(at(range.start)..at(range.end))
        };
        let read = |s: &Self| s.read(key).map(|(bytes, _)| cut(bytes));
        self.request("range", key.as_str(), read).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let size = |s: &Self| s.read(key).map(|(bytes, _)| bytes.len() as u64);
        self.request("size", key.as_str(), size).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let put = |s: &Self| {
            s.write(key, body);
            Ok(())
        };
        self.request("put", key.as_str(), put).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        let create = |s: &Self| match s.read(key) {
            Ok(_) => Err(StoreError::Exists(key.clone())),
            Err(_) => Ok(s.write(key, body)),
        };
        self.request("create", key.as_str(), create).await
    }

    async fn replace(&self, key: &Key, body: Bytes, old: &Version) -> Result<Version, StoreError> {
        let replace = |s: &Self| match s.read(key) {
            Ok((_, version)) if version == *old => Ok(s.write(key, body)),
            _ => Err(StoreError::Conflict(key.clone())),
        };
        self.request("replace", key.as_str(), replace).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let delete = |s: &Self| {
            s.world.objects.lock().unwrap().remove(key);
            s.world.changed.fetch_add(1, Ordering::SeqCst);
            if s.is_gc && key.as_str().starts_with("refs/") {
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
                let list = |s: &Self| Ok(s.page(&folder, after.as_ref()));
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
