//! Making packs known to an index while it is being read.
//!
//! ```text
//! expect(packs) --> noted on the disk --> answered
//!                     `--> fetch of each index --> decoded, inserted on a thread --> readers look again
//! ```
//! A pack that is expected is *awaited* until the index knows it. Who looks for an item that the
//! index does not know [waits](PackLoader::until) for the awaited packs that may hold it: those of
//! its kind, for the item says no more. A pack is loaded once, however many expect it or wait.
//!
//! A load that failed is started again by the next who waits, and a waiter gets an error only from
//! a load that began after it came: each has the store's whole time. The notes survive the
//! process; the loader of the next one goes on with them.
//!
//! Decoding and inserting take a processor for some milliseconds a pack. Work that somebody waits for
//! now can have them [put off](PackLoader::put_off_inserts).
//!
//! Limits: [`AWAITED_PACKS_MAX`] packs, of which [`FETCHES_MAX`] are fetched or held in memory at
//! once, and one is inserted.

mod awaited;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::catalog::{FETCHES_MAX, fetch_indexes, fetch_moved, insert_for};
use crate::pack::{PackKind, PackName};
use crate::{BlobStore, CatalogError, ChunkIndex, IndexError, StoreError};
use awaited::{Awaited, Outlook};

/// Packs that may be awaited at once, failed ones included.
pub const AWAITED_PACKS_MAX: usize = 16_384;

/// Longest that an index that came is put off.
const PUT_OFF_MAX: Duration = Duration::from_millis(100);

/// Loads the indexes of packs behind the readers of an index. Dropping it ends the loads, which
/// whoever opens the index next takes up again.
#[derive(Debug)]
pub struct PackLoader {
    shared: Arc<Shared>,
    loads: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn BlobStore>,
    index: Arc<ChunkIndex>,
    awaited: Mutex<Awaited>,
    /// Told of each load's end.
    landed: watch::Sender<()>,
    fetches: Semaphore,
    /// One at a time: the disk gains nothing by more, and readers need the other processors.
    inserts: Arc<Semaphore>,
    /// How many want decoding and inserts put off.
    more_urgent: watch::Sender<usize>,
    wait_max: Duration,
}

/// Puts off what a [`PackLoader`] decodes and inserts until it is dropped.
#[derive(Debug)]
pub struct MoreUrgent(Arc<Shared>);

impl Drop for MoreUrgent {
    fn drop(&mut self) {
        self.0.more_urgent.send_modify(|count| *count -= 1);
    }
}

impl PackLoader {
    /// Loads from `store` into `index`, first of all what an earlier loader of this index left
    /// undone. One load may take `wait_max`, however many requests it needs; it has failed then, and
    /// the next who waits begins another. Must be called in a runtime.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn new(
        store: Arc<dyn BlobStore>,
        index: Arc<ChunkIndex>,
        wait_max: Duration,
    ) -> Result<Self, IndexError> {
        let left = index.awaited_packs()?;
        let loader = Self {
            shared: Arc::new(Shared {
                store,
                index,
                awaited: Mutex::default(),
                landed: watch::Sender::new(()),
                fetches: Semaphore::new(FETCHES_MAX),
                inserts: Arc::new(Semaphore::new(1)),
                more_urgent: watch::Sender::new(0),
                wait_max,
            }),
            loads: Mutex::default(),
        };
        loader.begin(left);
        Ok(loader)
    }

    /// Returns the index that packs are loaded into.
    pub fn index(&self) -> &Arc<ChunkIndex> {
        &self.shared.index
    }

    /// Returns how many packs are awaited.
    pub fn awaited(&self) -> usize {
        self.shared.lock().len()
    }

    /// Makes those of `packs` awaited that the index does not know, and begins to load them. Costs
    /// no request; when it returns, a crash does not lose them any more.
    ///
    /// # Errors
    /// [`CatalogError::Full`], [`CatalogError::Index`].
    pub async fn expect(&self, packs: &BTreeSet<PackName>) -> Result<(), CatalogError> {
        let unknown = {
            let (shared, packs) = (Arc::clone(&self.shared), packs.clone());
            tokio::task::spawn_blocking(move || {
                if shared.lock().len() + packs.len() > AWAITED_PACKS_MAX {
                    return Err(CatalogError::Full);
                }
                Ok(shared.index.await_packs(&packs)?)
            })
        };
        self.begin(unknown.await.map_err(|_| CatalogError::Stopped)??);
        Ok(())
    }

    /// Waits until no load of `packs` is under way: the index then knows them, as far as they can be
    /// had.
    pub async fn settled(&self, packs: &BTreeSet<PackName>) {
        let mut landed = self.shared.landed.subscribe();
        while self.shared.lock().is_loading(packs) && landed.changed().await.is_ok() {}
    }

    /// Waits until `look` finds something, or until no pack of `kinds` is awaited any more: then
    /// there is nothing to be found. Loads that failed are tried again. May be cancelled.
    ///
    /// # Errors
    /// What `look` returns, and why a pack that may hold it is not to be had.
    pub(crate) async fn until<T>(
        &self,
        kinds: &[PackKind],
        mut look: impl FnMut() -> Result<Option<T>, IndexError>,
    ) -> Result<Option<T>, Arc<CatalogError>> {
        let came = self.shared.lock().tick();
        let mut landed = self.shared.landed.subscribe();
        loop {
            landed.mark_unchanged();
            // In this order: what is not awaited any more is in the index by now.
            let outlook = self.outlook(kinds, came);
            if let Some(found) = look().map_err(CatalogError::from)? {
                return Ok(Some(found));
            }
            match outlook {
                Outlook::Loading => {
                    let changed = landed.changed().await;
                    changed.map_err(|_| CatalogError::Stopped)?;
                }
                Outlook::Failed(error) => return Err(error),
                Outlook::Known => return Ok(None),
            }
        }
    }

    /// Makes known the packs that hold what was needed of one that is gone; tells whether there are
    /// any.
    pub(crate) async fn relocate(&self, name: PackName) -> Result<bool, CatalogError> {
        let shared = &self.shared;
        let turn = shared.fetches.acquire().await;
        let Some(found) = fetch_moved(&shared.store, name).await? else {
            return Ok(false);
        };
        let insert = Arc::clone(&shared.inserts).acquire_owned().await;
        let index = Arc::clone(&shared.index);
        let inserted = tokio::task::spawn_blocking(move || {
            for (found, packed) in &found {
                index.insert(*found, packed)?;
            }
            drop(insert);
            Ok::<_, IndexError>(!found.is_empty())
        });
        let inserted = inserted.await.map_err(|_| CatalogError::Stopped)??;
        drop(turn);
        Ok(inserted)
    }

    /// Puts off decoding and inserting indexes until what is returned is dropped, each for 100 ms at
    /// most; one that began is not interrupted. For what keeps the processors busy and is waited for, such as
    /// making a mount: whoever reads after it waits for the indexes as long as before.
    pub fn put_off_inserts(&self) -> MoreUrgent {
        self.shared.more_urgent.send_modify(|count| *count += 1);
        MoreUrgent(Arc::clone(&self.shared))
    }

    /// Ends all loads, and all waits with [`CatalogError::Stopped`]. The index is not written to
    /// afterwards.
    pub async fn stop(&self) {
        self.shared.lock().stop();
        let mut loads = std::mem::take(&mut *self.lock_loads());
        loads.shutdown().await;
        self.shared.landed.send_replace(());
        // Threads cannot be stopped, but waited for.
        drop(self.shared.inserts.acquire().await);
    }

    fn outlook(&self, kinds: &[PackKind], came: u64) -> Outlook {
        let (outlook, again) = self.shared.lock().outlook(kinds, came);
        self.load(again);
        outlook
    }

    fn begin(&self, packs: impl IntoIterator<Item = PackName>) {
        let begun = self.shared.lock().begin(packs);
        self.load(begun);
    }

    /// Starts a task for each load that was begun.
    fn load(&self, begun: Vec<(PackName, u64)>) {
        if begun.is_empty() {
            return;
        }
        let mut loads = self.lock_loads();
        while loads.try_join_next().is_some() {}
        for (name, began) in begun {
            // Made here: it lands even if the task never runs.
            let mut load = Load {
                shared: Arc::clone(&self.shared),
                name,
                began,
                outcome: Err(CatalogError::Stopped),
            };
            loads.spawn(async move { load.run().await });
        }
    }

    fn lock_loads(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(&self, name: PackName) -> Result<(), CatalogError> {
        let turn = self.fetches.acquire().await;
        let mut more_urgent = self.more_urgent.subscribe();
        let calm = async move {
            let calm = more_urgent.wait_for(|count| *count == 0);
            drop(tokio::time::timeout(PUT_OFF_MAX, calm).await);
        };
        let fetch = fetch_indexes(&self.store, name, calm);
        let seconds = self.wait_max.as_secs();
        let fetched = tokio::time::timeout(self.wait_max, fetch).await;
        let fetched = fetched.unwrap_or(Err(CatalogError::Waited { seconds }));
        let insert = Arc::clone(&self.inserts).acquire_owned().await;
        let index = Arc::clone(&self.index);
        let done = tokio::task::spawn_blocking(move || {
            let done = match fetched {
                Ok(packed) => insert_for(&index, name, &packed).map_err(CatalogError::from),
                Err(error @ CatalogError::Store(StoreError::NotFound(_))) => {
                    // Nothing that another process could load. In this one its readers learn why.
                    index.forget_awaited(name)?;
                    Err(error)
                }
                Err(error) => Err(error),
            };
            drop(index);
            drop(insert);
            done
        });
        let done = done.await.map_err(|_| CatalogError::Stopped)?;
        drop(turn);
        done
    }
}

/// A load under way. It lands when it is dropped: also when its task panics or is ended.
struct Load {
    shared: Arc<Shared>,
    name: PackName,
    began: u64,
    outcome: Result<(), CatalogError>,
}

impl Load {
    async fn run(&mut self) {
        self.outcome = self.shared.load(self.name).await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        if let Err(error) = &outcome {
            tracing::warn!(pack = ?self.name, %error, "load the index of a pack");
        }
        self.shared.lock().land(self.name, self.began, outcome);
        self.shared.landed.send_replace(());
    }
}

#[cfg(test)]
mod tests;
