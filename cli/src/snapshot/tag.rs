//! `nacre snapshot tag`: gives a snapshot a name.

use nacre_snapshotter::{Rung, Snapshot};

use super::inspect::Shown;
use super::pending;
use crate::args::SnapshotTag;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn tag(settings: &Settings, arguments: &SnapshotTag) -> Result<(), Failure> {
    // Names are in the store.
    pending::wait(settings, &arguments.name, Rung::Durable).await?;
    let store = settings.open_store()?;
    let holder = format!("tag, process {}", std::process::id());
    let (name, tag) = (&arguments.name, &arguments.tag);
    let tagged = Snapshot::tag(&store, &settings.clock, name, tag, &holder)
        .await
        .map_err(Failure::of("tag snapshot", &arguments.name))?;
    if settings.json {
        output::json(&Shown::of(&tagged, None))
    } else {
        output::line(&tagged.name)
    }
}
