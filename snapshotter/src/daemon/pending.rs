//! Snapshots on their way up the ladder: usable on this node, and not in the store yet.
//!
//! ```text
//! create --stages packs, trees, record; notes an entry--> answered
//!               entry --packs, trees, record, secured, key, name--> in the store; entry and what
//!                                                                   only it needed go
//! ```
//! One task uploads, several entries at once, under a lease that it holds for as long as anything
//! is pending: collection elsewhere then keeps what those rely on. An upload may end anywhere and
//! is begun again: each of its steps changes nothing when done twice. Entries of one name keep
//! their order.

mod queue;
mod upload;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, CatalogError, ChunkIndex, Clock, CrashHook, CrashPoint, PackName, Record, RecordId,
    RegionWriter, StoreError, load_packs,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::api::{PendingSnapshot, Rung};
use super::node::{NodeError, NodeOptions};
use crate::pending::{Entry, PendingFolder};
use crate::snapshot::SnapshotError;
use queue::{Cancelled, Queue, Reserved};

/// Bytes of what is not durable yet at which creations wait.
pub const PENDING_BYTES_MAX: u64 = 8 << 30;
/// Objects that an upload holds in memory at once, of all entries together.
const BODIES_MAX: usize = 2;
/// How long what was cancelled, or never finished, stays on this node: forks may read it.
const CANCELLED_KEEP: Duration = Duration::from_secs(24 * 3600);

/// The pending snapshots of a node.
#[derive(Debug)]
pub(super) struct Pending {
    /// What is staged; it is read as a part of the store.
    pub(super) staged: Arc<dyn BlobStore>,
    store: Arc<dyn BlobStore>,
    folder: PendingFolder,
    index: Arc<ChunkIndex>,
    region: Option<Arc<dyn RegionWriter>>,
    clock: Arc<dyn Clock>,
    crash: CrashHook,
    queue: Mutex<Queue>,
    /// Is told of each change of the queue.
    changed: watch::Sender<()>,
    bodies: Semaphore,
}

/// The task that uploads; it ends with this.
#[derive(Debug)]
pub(super) struct Uploads(JoinHandle<()>);

impl Uploads {
    /// Ends it: nothing is held when this returns.
    pub(super) async fn end(mut self) {
        self.0.abort();
        // That it was aborted is no news.
        drop((&mut self.0).await);
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pending {
    /// Takes up what the node's last process left, from the disk alone, and makes its packs known
    /// to the index. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`NodeError`] when the folder or the index cannot be used.
    pub(super) fn open(
        options: &NodeOptions,
        index: &Arc<ChunkIndex>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, NodeError> {
        let (folder, staged) = PendingFolder::open(&options.root).map_err(SnapshotError::from)?;
        let pending = Self {
            staged: Arc::new(staged),
            store: Arc::clone(&options.store),
            folder,
            index: Arc::clone(index),
            region: options.writes_through.clone(),
            clock: Arc::clone(&options.clock),
            crash: options.crash.clone(),
            queue: Mutex::new(Queue::new(options.pending_bytes_max)),
            changed: watch::Sender::new(()),
            bodies: Semaphore::new(BODIES_MAX),
        };
        // On a thread of its own: who starts a node may be a task of the runtime.
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(|| runtime.block_on(pending.take_up()));
            taking.join().unwrap_or(Err(NodeError::Stopped))
        });
        taken?;
        Ok(Arc::new(pending))
    }

    async fn take_up(&self) -> Result<(), NodeError> {
        for object in queue::staged_objects(&*self.staged).await? {
            self.lock().add_object(object);
        }
        let entries = self.folder.read().map_err(folder_error)?;
        for (number, entry) in entries {
            // Without its record it can only be told of.
            let record = match entry.record() {
                Ok(id) => Record::read(&*self.staged, id).await.ok(),
                Err(_) => None,
            };
            self.lock().add(number, entry, record.map(|r| r.packs));
        }
        let packs = self.lock().staged_packs();
        for name in packs {
            let known = load_packs(&self.staged, &self.index, &[name].into()).await;
            match known {
                Err(CatalogError::Index(error)) => return Err(error.into()),
                Err(error) => tracing::error!(pack = ?name, %error, "a staged pack cannot be read"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Starts to upload.
    pub(super) fn upload_in(self: &Arc<Self>, runtime: &Handle) -> Uploads {
        let pending = Arc::clone(self);
        Uploads(runtime.spawn(async move { pending.run().await }))
    }

    /// Waits until less than the limit is pending: before anything is staged.
    pub(super) async fn room(&self) {
        self.lock().expect_objects();
        let mut changed = self.changed.subscribe();
        while !self.lock().has_room() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Notes a snapshot whose record is staged with all that it needs beside `known`. It is pending
    /// when this returns, whatever becomes of this machine. With a key that a pending one was made
    /// with, `false`, and nothing is noted.
    ///
    /// # Errors
    /// [`NodeError`] when it cannot be written.
    pub(super) async fn note(
        self: &Arc<Self>,
        entry: Entry,
        record: &Record,
        known: &BTreeSet<PackName>,
    ) -> Result<bool, NodeError> {
        let new = record.packs.difference(known).copied().collect();
        self.find_staged(&new).await;
        let id = entry.record()?;
        let size_bytes = self.staged.size(&id.key()).await;
        let size_bytes = size_bytes.map_err(SnapshotError::from)?;
        self.lock().add_object((id.key(), size_bytes, 0));
        let mut changed = self.changed.subscribe();
        let number = loop {
            let reserved = self.lock().reserve(&entry)?;
            match reserved {
                Reserved::Number(number) => break number,
                Reserved::Taken => return Ok(false),
                Reserved::Busy => changed.changed().await.map_err(|_| NodeError::Stopped)?,
            }
        };
        let (folder, written) = (self.folder.clone(), entry.clone());
        let written = tokio::task::spawn_blocking(move || folder.write(number, &written)).await;
        let written = written.map_err(|_| NodeError::Stopped);
        let noted = {
            let mut queue = self.lock();
            queue.unreserve(number);
            let noted = written.and_then(|written| written.map_err(folder_error));
            if noted.is_ok() {
                queue.add(number, entry, Some(record.packs.clone()));
            }
            noted
        };
        // Also who waits for the key.
        self.changed.send_replace(());
        noted?;
        self.crash.reach(CrashPoint::PendingNoted);
        Ok(true)
    }

    /// Finds which of `packs` are staged; the others are in the store.
    async fn find_staged(&self, packs: &BTreeSet<PackName>) {
        let unknown = self.lock().unknown(packs);
        for key in unknown {
            if let Ok(size_bytes) = self.staged.size(&key).await {
                self.lock().add_object((key, size_bytes, 0));
            }
        }
    }

    /// Returns the record of the last pending snapshot with a name or an id.
    pub(super) fn find(&self, name: &str) -> Option<RecordId> {
        let queue = self.lock();
        let (_, held) = queue.find(name)?;
        held.entry.record().ok()
    }

    /// Returns the pending snapshot that was made with a key.
    pub(super) fn find_key(&self, key: &str) -> Option<Entry> {
        self.lock().find_key(key)
    }

    /// Returns all, in the order in which they were made.
    pub(super) fn list(&self) -> Vec<PendingSnapshot> {
        self.lock().list()
    }

    /// Waits until the pending snapshot with a name or an id has reached `rung`, until it is known
    /// that it never will, or for `patience`. Returns how it stands, `None` when it is not pending.
    pub(super) async fn wait(
        &self,
        name: &str,
        rung: Rung,
        patience: Duration,
    ) -> Option<PendingSnapshot> {
        let mut changed = self.changed.subscribe();
        let end = self.clock.elapsed() + patience;
        // The one that has the name now, not one that gets it meanwhile.
        let number = self.lock().find(name)?.0;
        loop {
            let stands = self.lock().get(number)?;
            let left = end.saturating_sub(self.clock.elapsed());
            if stands.durability >= rung || stands.failed || left.is_zero() {
                return Some(stands);
            }
            tokio::select! {
                biased;
                changed = changed.changed() => changed.ok()?,
                () = self.clock.sleep(left) => {}
            }
        }
    }

    /// Cancels the pending snapshots of a name, or of an id; tells how many. One that is just
    /// becoming durable is waited for; it is then to be removed from the store. What forks of them
    /// read stays on this node for a day.
    ///
    /// # Errors
    /// [`NodeError`] when the entry cannot be removed.
    pub(super) async fn cancel(&self, name: &str) -> Result<u64, NodeError> {
        let mut changed = self.changed.subscribe();
        let mut cancelled = 0;
        loop {
            let next = self.lock().cancel(name);
            match next {
                Cancelled::None => break,
                Cancelled::Busy => changed.changed().await.map_err(|_| NodeError::Stopped)?,
                Cancelled::Entry(number) => {
                    self.forget_entry(number).await?;
                    cancelled += 1;
                }
            }
        }
        Ok(cancelled)
    }

    async fn forget_entry(&self, number: u64) -> Result<(), NodeError> {
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || folder.remove(number)).await;
        let removed = removed
            .map_err(|_| NodeError::Stopped)?
            .map_err(folder_error);
        self.lock().drop_entry(number);
        self.changed.send_replace(());
        removed
    }

    /// Deletes what no entry needs: at once if the store has it, else when it is old.
    async fn sweep(&self) -> Result<(), NodeError> {
        let keep_ms = u64::try_from(CANCELLED_KEEP.as_millis()).unwrap_or(u64::MAX);
        let before_ms = self.clock.now_ms().saturating_sub(keep_ms);
        let (mut unneeded, old) = self.lock().unneeded(before_ms);
        for key in old {
            match (self.store.size(&key).await, PackName::from_key(&key)) {
                (Ok(_), _) | (Err(StoreError::NotFound(_)), None) => unneeded.push(key),
                (Err(StoreError::NotFound(_)), Some(name)) => {
                    // No later snapshot may rely on it.
                    self.index.forget(name)?;
                    unneeded.push(key);
                }
                (Err(error), _) => tracing::debug!(%key, %error, "a staged object stays"),
            }
        }
        for key in &unneeded {
            match self.staged.delete(key).await {
                Ok(()) => self.lock().drop_object(key),
                Err(error) => tracing::warn!(%key, %error, "a staged object stays"),
            }
        }
        if !unneeded.is_empty() {
            self.changed.send_replace(());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder_error(source: std::io::Error) -> NodeError {
    SnapshotError::Io {
        verb: "use",
        path: "pending/snapshots".into(),
        source,
    }
    .into()
}
