//! The way from this node to the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nacre_blobstore::{
    CrashPoint, Key, Lease, PackName, Record, RecordError, RecordId, RegionWriter, SecureError,
    StoreError, secure,
};

use super::super::api::Rung;
use super::super::node::NodeError;
use super::Pending;
use crate::pending::Entry;
use crate::snapshot::{SnapshotError, claim_key, name_late};

/// Entries that are uploaded at once.
const UPLOADS_MAX: usize = 8;
/// How long an upload that failed waits at first; twice as long each time, and at most for
/// [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl Pending {
    /// Uploads what is pending, for ever.
    pub(super) async fn run(&self) {
        let mut failures = 0;
        let mut changed = self.changed.subscribe();
        if let Err(error) = self.sweep().await {
            tracing::warn!(%error, "sweep what is staged");
        }
        loop {
            if self.lock().is_empty() {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.lease().await {
                Ok(lease) => {
                    failures = 0;
                    self.upload_all(&lease).await;
                    if let Err(error) = lease.release().await {
                        tracing::warn!(%error, "could not release lease");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "snapshots wait to be uploaded");
                    self.lock().explain(&error.to_string());
                    self.clock.sleep(backoff(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    async fn lease(&self) -> Result<Lease, NodeError> {
        let random = getrandom::u64().map_err(|_| NodeError::Stopped)?;
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let name = format!("pending-{random:016x}");
        let lease = Lease::acquire(store, clock, &name, "pending snapshots").await;
        Ok(lease.map_err(SnapshotError::from)?)
    }

    /// Uploads until nothing is pending or the lease is lost.
    async fn upload_all(&self, lease: &Lease) {
        let mut changed = self.changed.subscribe();
        let mut running = FuturesUnordered::new();
        loop {
            changed.mark_unchanged();
            let holds = lease.check().is_ok();
            while holds && running.len() < UPLOADS_MAX {
                let next = self.lock().take_ready(self.clock.elapsed());
                let Some((number, entry)) = next else { break };
                running.push(async move { (number, self.upload(number, &entry, lease).await) });
            }
            if running.is_empty() && (!holds || self.lock().is_empty()) {
                return;
            }
            let now = self.clock.elapsed();
            let next_time = self.lock().next_time().unwrap_or(Duration::MAX);
            let pause = next_time
                .saturating_sub(now)
                .clamp(BACKOFF_MIN, BACKOFF_MAX);
            tokio::select! {
                biased;
                Some((number, done)) = running.next() => self.ended(number, done).await,
                changed = changed.changed() => if changed.is_err() { return },
                () = self.clock.sleep(pause) => {}
            }
        }
    }

    async fn ended(&self, number: u64, done: Result<(), SnapshotError>) {
        let done = match done {
            Ok(()) => self.done(number).await.map_err(|error| error.to_string()),
            Err(error) => {
                let failed = is_final(&error);
                let again = self.clock.elapsed() + backoff(self.lock().attempts(number));
                tracing::warn!(number, %error, failed, "a snapshot is not durable yet");
                self.lock()
                    .put_back(number, error.to_string(), failed, again);
                self.changed.send_replace(());
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::error!(
                number,
                error,
                "a durable snapshot is still noted as pending"
            );
        }
    }

    /// Forgets a snapshot that is durable, and what only it needed here.
    async fn done(&self, number: u64) -> Result<(), NodeError> {
        self.forget_entry(number).await?;
        self.crash.reach(CrashPoint::PendingForgotten);
        self.sweep().await
    }

    async fn upload(&self, number: u64, entry: &Entry, lease: &Lease) -> Result<(), SnapshotError> {
        let id = entry.record()?;
        let record = Record::read(&*self.staged, id).await?;
        let (store, clock) = (&*self.store, &*self.clock);
        if let Some(region) = &self.region {
            match self.give(&**region, id, &record).await {
                Ok(()) => {
                    self.lock().reach(number, Rung::Region);
                    self.changed.send_replace(());
                }
                // A region is no part of what makes a snapshot durable.
                Err(error) => tracing::warn!(snapshot = %id, %error, "the region has not got it"),
            }
        }
        self.promote(&record.packs).await?;
        self.check_wanted(number, entry)?;
        let (_, bytes) = record.encode();
        store.put(&id.key(), bytes.into()).await?;
        self.lock().set_stored(&id.key(), true);
        self.crash.reach(CrashPoint::UploadRecordPut);
        let secured = match secure(store, clock, id, &record, None).await {
            Err(SecureError::Gone(key)) => {
                // If it is staged it is stored again.
                self.lock().set_stored(&key, false);
                self.unset_pack(&key);
                return Err(SecureError::Gone(key).into());
            }
            secured => secured?,
        };
        self.check_wanted(number, entry)?;
        lease.check()?;
        secured.check(clock)?;
        if let Some(key) = &entry.key
            && !claim_key(store, key, id, entry.created_ms).await?
        {
            tracing::warn!(snapshot = %id, "another snapshot has its key");
        }
        self.crash.reach(CrashPoint::UploadKeyClaimed);
        lease.check()?;
        secured.check(clock)?;
        name_late(store, id, entry.name.as_deref(), entry.created_ms).await?;
        self.crash.reach(CrashPoint::UploadNamed);
        Ok(())
    }

    /// Gives the region's cache what the store has not got yet.
    async fn give(
        &self,
        region: &dyn RegionWriter,
        id: RecordId,
        record: &Record,
    ) -> Result<(), StoreError> {
        let objects = self.lock().to_store(&record.packs);
        for (key, size_bytes) in objects {
            let _turn = self.bodies.acquire().await;
            let body = match self.staged.get(&key, size_bytes).await {
                // Became durable meanwhile.
                Err(StoreError::NotFound(_)) => continue,
                got => got?.0,
            };
            region.put(&key, body).await?;
        }
        let (_, bytes) = record.encode();
        region.put(&id.key(), bytes.into()).await
    }

    /// Stores those of `packs` that are staged; the caller holds a lease. Whoever relies on them in
    /// the store calls this before it stores its record.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub(in super::super) async fn promote(
        &self,
        packs: &BTreeSet<PackName>,
    ) -> Result<(), SnapshotError> {
        self.find_staged(packs).await;
        let objects = self.lock().to_store(packs);
        for (key, size_bytes) in objects {
            let _turn = self.bodies.acquire().await;
            let body = match self.staged.get(&key, size_bytes).await {
                // Became durable meanwhile.
                Err(StoreError::NotFound(_)) => continue,
                got => got?.0,
            };
            self.store.put(&key, body).await?;
            self.lock().set_stored(&key, true);
            self.crash.reach(CrashPoint::UploadObjectPut);
        }
        Ok(())
    }

    /// Of a pack that has lost one of its two objects both are stored again.
    fn unset_pack(&self, key: &Key) {
        if let Some(name) = PackName::from_key(key) {
            let mut queue = self.lock();
            for part in [name.key(), name.index_key()] {
                queue.set_stored(&part, false);
            }
        }
    }

    fn check_wanted(&self, number: u64, entry: &Entry) -> Result<(), SnapshotError> {
        if self.lock().is_cancelled(number) {
            return Err(SnapshotError::NotFound(entry.snapshot.clone()));
        }
        Ok(())
    }
}

/// Tells whether trying again is in vain as far as is known. It is tried again all the same, for
/// what a person can repair.
fn is_final(error: &SnapshotError) -> bool {
    match error {
        SnapshotError::Secure(SecureError::Gone(_)) => true,
        SnapshotError::Record(RecordError::Store(error)) => !error.is_retryable(),
        SnapshotError::Record(_) => true,
        _ => false,
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.min(16));
    doubled.min(BACKOFF_MAX)
}
