//! `nacre volume create`, `rm`, `snapshot`, `fork` and `restore`: changes of names alone.

use nacre_snapshotter::Volume;

use super::show::Shown;
use crate::args::{VolumeCreate, VolumeFork, VolumeRestore, VolumeSnapshot};
use crate::failure::Failure;
use crate::node;
use crate::output;
use crate::settings::Settings;

pub(super) async fn create(settings: &Settings, arguments: &VolumeCreate) -> Result<(), Failure> {
    let name = &arguments.volume;
    let fail = Failure::of("create volume", name);
    let client = node::client(settings).await?;
    let created = client.create_volume(name, arguments.from.as_deref()).await;
    created.map_err(fail)?;
    let store = settings.open_store()?;
    let volume = Volume::find(&*store, name).await;
    show(
        settings,
        &volume.map_err(Failure::of("create volume", name))?,
    )
}

pub(super) async fn rm(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let removed = Volume::remove(&*store, name).await;
    removed.map_err(Failure::of("remove volume", name))?;
    if settings.json {
        output::json(&serde_json::json!({ "volume": name }))
    } else {
        output::line(name)
    }
}

pub(super) async fn snapshot(
    settings: &Settings,
    arguments: &VolumeSnapshot,
) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let (name, tag) = (&arguments.volume, arguments.name.as_deref());
    let made = Volume::snapshot(&store, &settings.clock, name, tag).await;
    let head = made.map_err(Failure::of("make a snapshot of volume", name))?;
    let snapshot = head.record_id.to_string();
    if settings.json {
        let tree = head.tree().map(|tree| tree.to_string());
        return output::json(&serde_json::json!({
            "volume": name, "head": snapshot, "version": head.version.number,
            "snapshot": snapshot, "name": tag, "tree": tree,
        }));
    }
    output::line(tag.unwrap_or(&snapshot))
}

pub(super) async fn fork(settings: &Settings, arguments: &VolumeFork) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let (name, new) = (&arguments.volume, &arguments.new);
    let forked = Volume::fork(&store, &settings.clock, name, new).await;
    show(settings, &forked.map_err(Failure::of("fork volume", name))?)
}

pub(super) async fn restore(settings: &Settings, arguments: &VolumeRestore) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let name = &arguments.volume;
    let restored = Volume::restore(&store, &settings.clock, name, arguments.version).await;
    show(
        settings,
        &restored.map_err(Failure::of("restore volume", name))?,
    )
}

/// Shows a new head.
fn show(settings: &Settings, volume: &Volume) -> Result<(), Failure> {
    if settings.json {
        output::json(&Shown::of(volume))
    } else {
        let (name, version) = (&volume.name, volume.version.number);
        output::line(&format!("{name}: version {version}"))
    }
}
