//! Layers that are not unpacked because the store has them.
//!
//! containerd asks for an active snapshot and says by a label which layer it is to become. When the
//! store has that layer it is committed at once, with the label by which containerd looks for it,
//! and the answer is that it exists; the key that was asked for never does. However many ask at the
//! same time, one of them commits it and nothing else is left.

use std::sync::Arc;

use nacre_blobstore::Digest;

use super::super::counters::count;
use super::super::error::SnapshotsError;
use super::super::labels::{self, Labels};
use super::super::lazy::Wanted;
use super::super::record::{Kind, RemoteLayer, Snapshot, Usage};
use super::super::table::Table;
use super::Snapshots;

/// Characters of a parent's hash in the name of a layer that is also there over another parent.
const PARENT_DIGITS: usize = 16;

impl Snapshots {
    /// Attaches the layer that `labels` name, if that can be had.
    ///
    /// # Errors
    /// [`SnapshotsError::Exists`] when it is attached: nothing is left to do. Nothing is wrong when
    /// this returns `Ok`: containerd then unpacks the layer, and `labels` say so.
    pub(super) async fn attach(
        &self,
        key: &str,
        parent: &str,
        labels: &mut Labels,
    ) -> Result<(), SnapshotsError> {
        let chain_id = labels.get(labels::SNAPSHOT_REF).cloned();
        let chain_id = chain_id.unwrap_or_default();
        let wanted = Wanted {
            reference: labels.get(labels::IMAGE_REF).map(String::as_str),
            manifest: labels.get(labels::MANIFEST_DIGEST).map(String::as_str),
        };
        match self.lazy.find(&chain_id, &wanted).await {
            Ok(Some(layer)) => {
                let mode = labels::mode_of(self.lazy.mode()).to_owned();
                labels.insert(labels::MODE.to_owned(), mode);
                let name = self
                    .commit_attached(&chain_id, key, parent, labels, layer)
                    .await?;
                count(&self.counters.attached);
                if labels::is_topmost(labels) {
                    self.lazy.open_ahead(layer);
                }
                return Err(SnapshotsError::Exists(name));
            }
            Ok(None) => {
                count(&self.counters.unknown);
                tracing::info!(layer = chain_id, "a layer is not in the store: unpack it");
            }
            Err(error) => {
                count(&self.counters.failed);
                tracing::warn!(layer = chain_id, %error, "a layer cannot be attached: unpack it");
            }
        }
        labels.insert(labels::MODE.to_owned(), labels::MODE_ORDINARY.to_owned());
        Ok(())
    }

    /// Makes the committed snapshot, unless it is there, and returns its name.
    async fn commit_attached(
        &self,
        chain_id: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
        layer: RemoteLayer,
    ) -> Result<String, SnapshotsError> {
        let (name, written) = {
            let mut state = self.lock();
            state.table.check_new(key, parent)?;
            let (name, is_there) = attached_name(&state.table, chain_id, parent)?;
            if is_there {
                return Ok(name);
            }
            let now_ns = self.clock.now_ns();
            let snapshot = Snapshot {
                name: name.clone(),
                number: self.disk.number(),
                parent: parent.to_owned(),
                kind: Kind::Committed,
                created_ns: now_ns,
                updated_ns: now_ns,
                labels: labels.clone(),
                // It has nothing on this disk but what the node's cache has.
                usage: Some(Usage::default()),
                remote: Some(layer),
                shown: Vec::new(),
            };
            let written = self.put(&mut state.table, snapshot)?;
            (name, written)
        };
        self.written(written).await?;
        tracing::info!(layer = chain_id, image = %layer.image, "attached a layer");
        Ok(name)
    }
}

/// Returns the name for an attached layer, and whether it is there over this parent. containerd
/// looks for one with the very parent, and the same layers may be there by other names.
fn attached_name(
    table: &Table,
    chain_id: &str,
    parent: &str,
) -> Result<(String, bool), SnapshotsError> {
    let digest = Digest::of(parent.as_bytes()).to_string();
    let digits = digest.get(..PARENT_DIGITS).unwrap_or(&digest);
    for name in [chain_id.to_owned(), format!("{chain_id}@{digits}")] {
        match table.get(&name) {
            Err(SnapshotsError::NotFound(_)) => return Ok((name, false)),
            Ok(found) if is_attached(found, chain_id, parent) => return Ok((name, true)),
            Ok(_) | Err(_) => {}
        }
    }
    Err(SnapshotsError::Internal(format!(
        "the names for layer {chain_id:?} are taken by others"
    )))
}

fn is_attached(found: &Arc<Snapshot>, chain_id: &str, parent: &str) -> bool {
    let layer = found.labels.get(labels::SNAPSHOT_REF);
    found.kind == Kind::Committed
        && found.parent == parent
        && layer.is_some_and(|layer| layer == chain_id)
}
