//! `nacre snapshot tag`: gives a snapshot a name.

use nacre_snapshotter::Snapshot;

use super::inspect::Shown;
use crate::args::SnapshotTag;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn tag(settings: &Settings, arguments: &SnapshotTag) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let now_ms = settings.clock.now_ms();
    let tagged = Snapshot::tag(&*store, &arguments.name, &arguments.tag, now_ms)
        .await
        .map_err(Failure::of("tag snapshot", &arguments.name))?;
    if settings.json {
        output::json(&Shown::of(&tagged))
    } else {
        output::line(&tagged.name)
    }
}
