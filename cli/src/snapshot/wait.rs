//! `nacre snapshot wait`: waits until a snapshot is safe.

use nacre_snapshotter::{Rung, Snapshot};

use super::pending;
use crate::args::SnapshotWait;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn wait(settings: &Settings, arguments: &SnapshotWait) -> Result<(), Failure> {
    let name = &arguments.name;
    let reached = match pending::wait(settings, name, arguments.rung.into()).await? {
        Some(reached) => reached,
        // It is durable if the store knows it, and only then.
        None => {
            let store = settings.open_store()?;
            let found = Snapshot::find(&*store, name).await;
            found.map_err(Failure::of("wait for snapshot", name))?;
            Rung::Durable
        }
    };
    if settings.json {
        output::json(&serde_json::json!({ "name": name, "durability": reached }))
    } else {
        output::line(name)
    }
}
