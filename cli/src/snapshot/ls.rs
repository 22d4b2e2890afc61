//! `nacre snapshot ls`: all snapshots.

use nacre_snapshotter::Snapshot;

use super::inspect::Shown;
use super::pending;
use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn ls(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let fail = Failure::of("list", "snapshots");
    // First: what becomes durable meanwhile is not missed.
    let all = pending::list(settings).await?;
    let mut shown = Vec::new();
    if !all.is_empty() {
        let store = pending::store(settings)?;
        for found in &all {
            shown.push(Shown::pending(&*store, found).await.map_err(&fail)?);
        }
    }
    let stored = Snapshot::list(&*store).await.map_err(fail)?;
    shown.extend(stored.iter().map(|snapshot| Shown::of(snapshot, None)));
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    // One that became durable meanwhile.
    shown.dedup_by(|b, a| (&a.name, &a.snapshot) == (&b.name, &b.snapshot));
    if settings.json {
        return shown.iter().try_for_each(output::json);
    }
    output::line(&format!(
        "{:<40} {:<14} {:<20} {:>12} {}",
        "NAME", "SNAPSHOT", "SANDBOX", "CHANGED", "SAFE"
    ))?;
    shown.iter().try_for_each(|shown| {
        let changed = human_bytes(shown.bytes_changed);
        // A snapshot without a name is called by its id, which the next column shows.
        let name = if shown.name == shown.snapshot {
            "-"
        } else {
            &shown.name
        };
        output::line(&format!(
            "{name:<40} {:<14} {:<20} {changed:>12} {}",
            &shown.snapshot[..12],
            shown.sandbox,
            shown.durability
        ))
    })
}
