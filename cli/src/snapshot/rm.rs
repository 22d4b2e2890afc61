//! `nacre snapshot rm`: takes names of a snapshot away.

use nacre_snapshotter::Snapshot;

use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn rm(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    Snapshot::remove(&*store, name)
        .await
        .map_err(Failure::of("remove snapshot", name))?;
    if settings.json {
        output::json(&serde_json::json!({ "name": name }))
    } else {
        output::line(name)
    }
}
