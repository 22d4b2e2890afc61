//! A region's own store, with the one of another region behind it.
//!
//! ```text
//! get of what never changes  --> own --not there--> home, and a copy to own behind it
//! size of what never changes --> own --not there--> a copy from home to own, then its size
//! refs, leases, notes; writes; lists --> own
//! ```
//! What never changes is the same wherever it is, so it may come from either. What changes is one
//! region's alone: a name means what this region's refs say. So a snapshot of another region can be
//! used here by its id, which needs no ref.
//!
//! Who asks for the size of an object is about to rely on it: a writer, before it names what needs
//! it. The home region's names do not keep it alive for this region's, so it is copied first.
//!
//! Copies are made of whole objects, a few at a time; one that is not made costs the next read a
//! way to the home region. When that cannot be reached, what is here works, and the rest fails with
//! an error that says so.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};
use crate::never_changes;

/// Copies that are under way at once.
const COPIES_MAX: usize = 2;
/// Copies that wait for that; beyond them none is begun.
const COPIES_WAITING_MAX: usize = 256;
/// Largest object whose copy is made of what was read, and so in memory until its turn comes.
const KEPT_BYTES_MAX: u64 = 256 << 10;
/// Largest object that is copied: a pack with its index.
const COPY_BYTES_MAX: u64 = 128 << 20;

/// Reads through to another region's store, and keeps what comes from there.
#[derive(Debug)]
pub struct HomeStore {
    own: Arc<dyn BlobStore>,
    home: Arc<dyn BlobStore>,
    /// Folders whose objects stay in their region: never asked of the home store.
    resident: Vec<String>,
    copies: Arc<Copies>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Copies {
    turns: Semaphore,
    /// Those that wait or are under way.
    keys: Mutex<BTreeSet<Key>>,
}

impl Copies {
    fn keys(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HomeStore {
    /// Puts `own` before `home`. What is below the folders `resident` is never asked of `home`.
    pub fn new(
        own: Arc<dyn BlobStore>,
        home: Arc<dyn BlobStore>,
        resident: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            own,
            home,
            resident: resident.into_iter().collect(),
            copies: Arc::new(Copies {
                turns: Semaphore::new(COPIES_MAX),
                keys: Mutex::default(),
            }),
            tasks: Mutex::default(),
        }
    }

    /// Tells whether an object may come from the home store.
    fn may_travel(&self, key: &Key) -> bool {
        let stays = |folder: &String| {
            let rest = key.as_str().strip_prefix(folder.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        never_changes(key) && !self.resident.iter().any(stays)
    }

    /// Says which store failed, where it is not the own one that lacks the object.
    fn of_home(key: &Key, error: StoreError) -> StoreError {
        match error {
            StoreError::Unavailable { message, .. } => StoreError::Unavailable {
                operation: "get from the home region",
                target: key.to_string(),
                message,
            },
            error => error,
        }
    }

    /// Begins to copy an object to the own store, from the home store if it is not all `here`. Must be
    /// called in a runtime.
    fn begin_copy(&self, key: &Key, here: Option<Bytes>) {
        let mut keys = self.copies.keys();
        if keys.len() >= COPIES_WAITING_MAX || !keys.insert(key.clone()) {
            return;
        }
        drop(keys);
        let (own, home) = (Arc::clone(&self.own), Arc::clone(&self.home));
        let (copies, key) = (Arc::clone(&self.copies), key.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            if let Err(error) = copy(&own, &home, &copies, &key, here).await {
                tracing::warn!(%key, %error, "copy from the home region");
            }
            copies.keys().remove(&key);
        });
    }

    /// Waits until no copy is under way.
    pub async fn settle(&self) {
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        while tasks.join_next().await.is_some() {}
    }
}

/// Copies an object when it is its turn, and returns its length.
async fn copy(
    own: &Arc<dyn BlobStore>,
    home: &Arc<dyn BlobStore>,
    copies: &Copies,
    key: &Key,
    here: Option<Bytes>,
) -> Result<u64, StoreError> {
    let _turn = copies.turns.acquire().await;
    let body = match here {
        Some(body) => body,
        None => home.get(key, COPY_BYTES_MAX).await?.0,
    };
    let len = body.len() as u64;
    own.put(key, body).await?;
    Ok(len)
}

#[async_trait::async_trait]
impl BlobStore for HomeStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        match self.own.get(key, limit_bytes).await {
            Err(StoreError::NotFound(_)) if self.may_travel(key) => {
                let got = self.home.get(key, limit_bytes).await;
                let got = got.map_err(|error| Self::of_home(key, error))?;
                let small = got.0.len() as u64 <= KEPT_BYTES_MAX;
                self.begin_copy(key, small.then(|| got.0.clone()));
                Ok(got)
            }
            got => got,
        }
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.own.get_range(key, range.clone()).await {
            Err(StoreError::NotFound(_)) if self.may_travel(key) => {
                let got = self.home.get_range(key, range).await;
                let got = got.map_err(|error| Self::of_home(key, error))?;
                self.begin_copy(key, None);
                Ok(got)
            }
            got => got,
        }
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        match self.own.get_part(key, range.clone()).await {
            Err(StoreError::NotFound(_)) if self.may_travel(key) => {
                let got = self.home.get_part(key, range).await;
                let got = got.map_err(|error| Self::of_home(key, error))?;
                self.begin_copy(key, None);
                Ok(got)
            }
            got => got,
        }
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        match self.own.size(key).await {
            Err(StoreError::NotFound(_)) if self.may_travel(key) => {
                let copied = copy(&self.own, &self.home, &self.copies, key, None).await;
                copied.map_err(|error| Self::of_home(key, error))
            }
            size => size,
        }
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.own.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.own.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.own.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.own.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        self.own.list(prefix)
    }
}

#[cfg(test)]
mod tests;
