//! `nacre snapshot ls`: all snapshots.

use nacre_snapshotter::Snapshot;

use super::inspect::Shown;
use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn ls(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let snapshots = Snapshot::list(&*store)
        .await
        .map_err(Failure::of("list", "snapshots"))?;
    if settings.json {
        return snapshots
            .iter()
            .try_for_each(|snapshot| output::json(&Shown::of(snapshot)));
    }
    output::line(&format!(
        "{:<40} {:<14} {:<20} {:>12}",
        "NAME", "SNAPSHOT", "SANDBOX", "CHANGED"
    ))?;
    snapshots.iter().try_for_each(|snapshot| {
        let shown = Shown::of(snapshot);
        let changed = human_bytes(shown.bytes_changed);
        // A snapshot without a name is called by its id, which the next column shows.
        let name = if shown.name == shown.snapshot {
            "-"
        } else {
            &shown.name
        };
        output::line(&format!(
            "{name:<40} {:<14} {:<20} {changed:>12}",
            &shown.snapshot[..12],
            shown.sandbox
        ))
    })
}
