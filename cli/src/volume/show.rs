//! `nacre volume ls`, `inspect` and `log`.

use nacre_snapshotter::Volume;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

/// A version of a volume as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    volume: String,
    head: String,
    version: u64,
    id: String,
    tree: String,
    parent: String,
    base: String,
    sandbox: String,
    created_ms: u64,
    bytes_changed: u64,
    packs: usize,
}

impl Shown {
    pub(super) fn of(volume: &Volume) -> Self {
        let payload = volume.payload.clone();
        Self {
            volume: volume.name.clone(),
            head: volume.record_id.to_string(),
            version: volume.version.number,
            id: volume.version.id.clone(),
            tree: volume.tree().map(|t| t.to_string()).unwrap_or_default(),
            parent: payload.parent,
            base: payload.base,
            sandbox: payload.sandbox,
            created_ms: payload.created_ms,
            bytes_changed: payload.bytes_changed,
            packs: volume.record.packs.len(),
        }
    }
}

pub(super) async fn ls(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let volumes = Volume::list(&*store).await;
    let volumes = volumes.map_err(Failure::of("list", "volumes"))?;
    if !settings.json {
        output::line(&format!("{:<40} {:>8} {:<14}", "VOLUME", "VERSION", "HEAD"))?;
    }
    volumes.iter().map(Shown::of).try_for_each(|shown| {
        if settings.json {
            return output::json(&shown);
        }
        let (name, head) = (&shown.volume, &shown.head[..12]);
        output::line(&format!("{name:<40} {:>8} {head:<14}", shown.version))
    })
}

pub(super) async fn inspect(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let volume = Volume::find(&*store, name).await;
    let shown = Shown::of(&volume.map_err(Failure::of("inspect volume", name))?);
    if settings.json {
        return output::json(&shown);
    }
    let text = serde_json::to_string_pretty(&shown);
    output::line(&text.map_err(|error| Failure::new("inspect volume", name, &error))?)
}

/// In JSON, `head` is the record of each version.
pub(super) async fn log(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let versions = Volume::log(&*store, name).await;
    let versions = versions.map_err(Failure::of("list the versions of", name))?;
    if !settings.json {
        output::line(&format!(
            "{:>8} {:<14} {:<24} {:>12}",
            "VERSION", "RECORD", "SANDBOX", "CHANGED"
        ))?;
    }
    versions.iter().map(Shown::of).try_for_each(|shown| {
        if settings.json {
            return output::json(&shown);
        }
        let changed = human_bytes(shown.bytes_changed);
        let (record, sandbox) = (&shown.head[..12], &shown.sandbox);
        output::line(&format!(
            "{:>8} {record:<14} {sandbox:<24} {changed:>12}",
            shown.version
        ))
    })
}
