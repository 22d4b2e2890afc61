//! `nacre snapshot inspect`: one snapshot in full.

use std::collections::BTreeMap;

use nacre_snapshotter::{Snapshot, SnapshotKind};
use serde::Serialize;

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
    durability: &'static str,
}

impl Shown {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
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
            // What is found in the store is durable.
            durability: "durable",
        }
    }
}

pub(super) async fn inspect(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let snapshot = Snapshot::find(&*store, name)
        .await
        .map_err(Failure::of("inspect snapshot", name))?;
    let shown = Shown::of(&snapshot);
    if settings.json {
        return output::json(&shown);
    }
    let text = serde_json::to_string_pretty(&shown);
    output::line(&text.map_err(|error| Failure::new("inspect snapshot", name, &error))?)
}
