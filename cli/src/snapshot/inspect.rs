//! `nacre snapshot inspect`: one snapshot in full.

use std::collections::BTreeMap;

use nacre_blobstore::BlobStore;
use nacre_snapshotter::{PendingSnapshot, Rung, Snapshot, SnapshotError, SnapshotKind};
use serde::Serialize;

use super::pending;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

/// A snapshot as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) snapshot: String,
    tree: String,
    parent: String,
    base: String,
    pub(super) kind: SnapshotKind,
    path: String,
    pub(super) sandbox: String,
    created_ms: u64,
    expires_ms: Option<u64>,
    key: Option<String>,
    labels: BTreeMap<String, String>,
    pub(super) bytes_changed: u64,
    packs: usize,
    pub(super) durability: Rung,
    /// Bytes that are still to be uploaded.
    bytes_pending: u64,
    /// Why it is not durable yet, if anything is in the way.
    error: Option<String>,
}

impl Shown {
    /// Shows one that is in the store, or on its way there.
    pub(super) fn of(snapshot: &Snapshot, pending: Option<&PendingSnapshot>) -> Self {
        let payload = snapshot.payload.clone();
        Self {
            name: snapshot.name.clone(),
            snapshot: snapshot.id.to_string(),
            tree: snapshot
                .tree()
                .map(|tree| tree.to_string())
                .unwrap_or_default(),
            parent: payload.parent,
            base: payload.base,
            kind: payload.kind,
            path: payload.path,
            sandbox: payload.sandbox,
            created_ms: payload.created_ms,
            expires_ms: payload.expires_ms,
            key: payload.key,
            labels: payload.labels,
            bytes_changed: payload.bytes_changed,
            packs: snapshot.record.packs.len(),
            durability: pending.map_or(Rung::Durable, |pending| pending.durability),
            bytes_pending: pending.map_or(0, |pending| pending.bytes),
            error: pending.and_then(|pending| pending.error.clone()),
        }
    }
}

impl Shown {
    /// Shows one that is on its way.
    pub(super) async fn pending(
        store: &dyn BlobStore,
        pending: &PendingSnapshot,
    ) -> Result<Self, SnapshotError> {
        let mut snapshot = Snapshot::find(store, &pending.snapshot).await?;
        if let Some(name) = &pending.name {
            snapshot.name.clone_from(name);
        }
        Ok(Self::of(&snapshot, Some(pending)))
    }
}

pub(super) async fn inspect(settings: &Settings, name: &str) -> Result<(), Failure> {
    let all = pending::list(settings).await?;
    let fail = Failure::of("inspect snapshot", name);
    let shown = match pending::find(&all, name) {
        Some(found) => {
            let store = pending::store(settings)?;
            Shown::pending(&*store, found).await.map_err(fail)?
        }
        None => {
            let store = settings.open_store_with_home()?;
            let snapshot = Snapshot::find(&*store, name).await.map_err(fail)?;
            Shown::of(&snapshot, None)
        }
    };
    if settings.json {
        return output::json(&shown);
    }
    let text = serde_json::to_string_pretty(&shown);
    output::line(&text.map_err(|error| Failure::new("inspect snapshot", name, &error))?)
}
