//! Snapshots of this node that are not in the store yet.

use std::sync::Arc;

use nacre_blobstore::{BlobStore, StagedStore};
use nacre_snapshotter::{
    ClientError, PendingSnapshot, Rung, SnapshotError, has_pending, staged_objects,
};

use crate::failure::{BUSY, Failure};
use crate::node;
use crate::settings::Settings;

/// Returns them, in the order in which they were made. Starts the daemon if there are any: it goes
/// on to upload them.
pub(super) async fn list(settings: &Settings) -> Result<Vec<PendingSnapshot>, Failure> {
    if !has_pending(&settings.root) {
        return Ok(Vec::new());
    }
    let client = node::client(settings).await?;
    let listed = client.pending_snapshots().await;
    listed.map_err(Failure::of("list", "pending snapshots"))
}

/// Finds the one that a name or an id stands for.
pub(super) fn find<'a>(pending: &'a [PendingSnapshot], name: &str) -> Option<&'a PendingSnapshot> {
    let named =
        |found: &&PendingSnapshot| found.name.as_deref() == Some(name) || found.snapshot == name;
    pending.iter().rev().find(named)
}

/// Opens the store with what this node has staged in front of it.
pub(super) fn store(settings: &Settings) -> Result<Arc<dyn BlobStore>, Failure> {
    let object = settings.root.display().to_string();
    let staged = staged_objects(&settings.root).map_err(SnapshotError::from);
    let staged = staged.map_err(Failure::of("use root", &object))?;
    let store = settings.open_store()?;
    Ok(Arc::new(StagedStore::new(Arc::new(staged), store)))
}

/// Waits until a snapshot, if it is pending, is as safe as `rung`, whatever becomes of the daemon
/// meanwhile. Returns how safe it is; `None` when it is not pending.
pub(super) async fn wait(
    settings: &Settings,
    name: &str,
    rung: Rung,
) -> Result<Option<Rung>, Failure> {
    let fail = Failure::of("wait for snapshot", name);
    while has_pending(&settings.root) {
        let client = node::client(settings).await?;
        match client.wait_snapshot(name, rung).await {
            Ok(None) => return Ok(None),
            Ok(Some(stands)) if stands.durability >= rung => return Ok(Some(stands.durability)),
            Ok(Some(stands)) if stands.failed => {
                let cause = stands.error.unwrap_or_default();
                return Err(Failure::new("make durable snapshot", name, &cause).with_code(BUSY));
            }
            Ok(Some(_)) => {}
            Err(ClientError::NotRunning(_) | ClientError::Connection(_)) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(None)
}
