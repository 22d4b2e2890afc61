//! `nacre snapshot rm`: takes names of a snapshot away.

use nacre_snapshotter::{Snapshot, SnapshotError, has_pending};

use crate::failure::Failure;
use crate::node;
use crate::output;
use crate::settings::Settings;

pub(super) async fn rm(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let fail = Failure::of("remove snapshot", name);
    let mut dropped = 0;
    if has_pending(&settings.root) {
        let client = node::client(settings).await?;
        let cancelled = client.cancel_snapshot(name).await;
        dropped = cancelled.map_err(Failure::of("remove snapshot", name))?;
    }
    match Snapshot::remove(&*store, name).await {
        Err(SnapshotError::NotFound(_)) if dropped > 0 => {}
        removed => removed.map_err(fail)?,
    }
    if settings.json {
        output::json(&serde_json::json!({ "name": name }))
    } else {
        output::line(name)
    }
}
