//! `nacre snapshot tag`: gives a snapshot a name.

use nacre_snapshotter::Snapshot;

use super::inspect::Shown;
use crate::args::SnapshotTag;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn tag(settings: &Settings, arguments: &SnapshotTag) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let holder = format!("tag, process {}", std::process::id());
    let (name, tag) = (&arguments.name, &arguments.tag);
    let tagged = Snapshot::tag(&store, &settings.clock, name, tag, &holder)
        .await
        .map_err(Failure::of("tag snapshot", &arguments.name))?;
    if settings.json {
        output::json(&Shown::of(&tagged))
    } else {
        output::line(&tagged.name)
    }
}
