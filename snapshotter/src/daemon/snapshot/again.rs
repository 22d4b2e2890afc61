//! Snapshots that were made before: by their keys, and on their way to the store.

use std::time::Duration;

use nacre_blobstore::read_ref;

use super::super::api::{CreatedSnapshot, PendingSnapshot, Rung};
use super::super::node::{Node, NodeError};
use super::Creation;
use crate::snapshot::{Snapshot, SnapshotError, key_ref, name_snapshot, snapshot_ref};

/// How long one look at a pending snapshot waits for a change.
const WAIT_STEP: Duration = Duration::from_secs(30);

impl Node {
    /// Returns the result of the first creation with the key of this one, when it is as safe as
    /// this one is to be, under the name that this one asks for: the first may have ended before it
    /// gave that.
    pub(super) async fn created_before(
        &self,
        creation: &Creation,
    ) -> Result<Option<CreatedSnapshot>, NodeError> {
        let request = &creation.request;
        let Some(key) = &request.key else {
            return Ok(None);
        };
        if let Some(pending) = self.pending.find_key(key)
            && let Some(durability) = self.wait_for(&pending.snapshot, request.wait).await?
        {
            let first = Snapshot::find(&*self.store, &pending.snapshot).await?;
            let again = self.created_again(creation, first, durability).await;
            return Ok(Some(again));
        }
        let store = &*self.options.store;
        let reference = key_ref(key).map_err(SnapshotError::from)?;
        let found = read_ref(store, &reference)
            .await
            .map_err(SnapshotError::from)?;
        let Some((target, _)) = found else {
            return Ok(None);
        };
        let id = target.record.to_string();
        let first = Snapshot::find(store, &id).await?;
        let name = request.name.as_ref().unwrap_or(&id);
        let reference = snapshot_ref(name).map_err(SnapshotError::from)?;
        let named = read_ref(store, &reference).await;
        if named.map_err(SnapshotError::from)?.is_none() {
            name_snapshot(store, target.record, name, self.options.clock.now_ms()).await?;
        }
        let again = self.created_again(creation, first, Rung::Durable).await;
        Ok(Some(again))
    }

    /// Says of a snapshot that was made before what its creation said.
    async fn created_again(
        &self,
        creation: &Creation,
        first: Snapshot,
        durability: Rung,
    ) -> CreatedSnapshot {
        let tree = first.tree();
        let parent = self.find_image(&first.payload.parent).await.ok();
        CreatedSnapshot {
            unchanged: parent.is_some_and(|parent| parent.tree() == tree),
            tree: tree.map(|tree| tree.to_string()).unwrap_or_default(),
            name: creation.request.name.clone(),
            snapshot: first.id.to_string(),
            parent: first.payload.parent,
            base: first.payload.base,
            added: 0,
            modified: 0,
            removed: 0,
            bytes_changed: first.payload.bytes_changed,
            bytes_uploaded: 0,
            frozen_ms: 0.0,
            cloned: 0,
            total_ms: self.milliseconds_since(creation.began),
            durability,
            skipped: Vec::new(),
        }
    }

    /// Waits until a snapshot of this node is as safe as `rung`; returns how safe it is, `None`
    /// when it is not pending any more: it is durable, or was cancelled.
    ///
    /// # Errors
    /// [`SnapshotError::Stuck`] when it cannot be, as far as is known.
    async fn wait_for(&self, snapshot: &str, rung: Rung) -> Result<Option<Rung>, NodeError> {
        loop {
            match self.pending.wait(snapshot, rung, WAIT_STEP).await {
                None => return Ok(None),
                Some(stands) if stands.durability >= rung => return Ok(Some(stands.durability)),
                Some(stands) if stands.failed => {
                    let (snapshot, reason) = (stands.snapshot, stands.error.unwrap_or_default());
                    return Err(SnapshotError::Stuck { snapshot, reason }.into());
                }
                Some(_) => {}
            }
        }
    }

    /// Tells how a pending snapshot stands once it is as safe as `rung`, or cannot be, or some time
    /// has passed; `None` when none of that name or id is pending.
    pub async fn wait_snapshot(&self, name: &str, rung: Rung) -> Option<PendingSnapshot> {
        self.pending.wait(name, rung, WAIT_STEP).await
    }

    /// Drops the pending snapshots of a name or an id; tells how many there were.
    ///
    /// # Errors
    /// [`NodeError::Snapshot`] when they cannot be dropped.
    pub async fn cancel_snapshot(&self, name: &str) -> Result<u64, NodeError> {
        self.pending.cancel(name).await
    }

    /// Returns the snapshots that are not durable yet, in the order in which they were made.
    pub fn pending_snapshots(&self) -> Vec<PendingSnapshot> {
        self.pending.list()
    }
}
