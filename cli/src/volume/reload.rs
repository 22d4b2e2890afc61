//! `nacre volume reload`: the newest version in sandboxes that run.

use nacre_launcher::{Launcher, MountInfo, SandboxInfo, Status};
use nacre_snapshotter::Volume;
use serde::Serialize;

use super::commit::{inspect, request_of, send};
use crate::args::{MountMode, VolumeReload};
use crate::failure::{BUSY, Failure, NOT_FOUND};
use crate::output;
use crate::sandbox::launcher;
use crate::sandbox::mounts::{Asked, open_tree};
use crate::settings::Settings;

/// What became of one mount.
#[derive(Debug, Serialize)]
struct Reloaded {
    sandbox: String,
    path: String,
    /// The version that was there.
    from: u64,
    /// The version that is there.
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn reload(settings: &Settings, arguments: &VolumeReload) -> Result<(), Failure> {
    let name = &arguments.volume;
    let store = settings.open_store()?;
    let head = Volume::find(&*store, name).await;
    let head = head.map_err(Failure::of("reload volume", name))?;
    let launcher = launcher(settings)?;
    let sandboxes = match &arguments.sandbox {
        Some(sandbox) => vec![inspect(&launcher, sandbox)?],
        None => launcher
            .list()
            .map_err(Failure::of("list", "the sandboxes"))?,
    };
    let mut found = false;
    let mut reloaded = Vec::new();
    let mut code = BUSY;
    for sandbox in sandboxes {
        if sandbox.status != Status::Running {
            continue;
        }
        for mount in &sandbox.mounts {
            let version = mount.tree.volume.as_ref();
            let Some(version) = version.filter(|version| version.id == head.version.id) else {
                continue;
            };
            found = true;
            let mut done = Reloaded {
                sandbox: sandbox.name.clone(),
                path: mount.tree.target.clone(),
                from: version.version,
                version: version.version,
                error: None,
            };
            match reload_one(settings, &launcher, &head, (&sandbox, mount), arguments).await {
                Ok(None) => {}
                Ok(Some(version)) => done.version = version,
                Err(failure) => {
                    done.error = Some(failure.text());
                    code = failure.code();
                }
            }
            reloaded.push(done);
        }
    }
    if let (false, Some(sandbox)) = (found, &arguments.sandbox) {
        let cause = format!("it is not mounted in {sandbox}, or that does not run");
        return Err(Failure::new("reload volume", name, &cause).with_code(NOT_FOUND));
    }
    report(settings, &head, &reloaded, code)
}

/// Shows the head in place of a mount. Returns its version, or nothing where it is there already.
async fn reload_one(
    settings: &Settings,
    launcher: &Launcher,
    head: &Volume,
    (sandbox, mount): (&SandboxInfo, &MountInfo),
    arguments: &VolumeReload,
) -> Result<Option<u64>, Failure> {
    let name = &arguments.volume;
    let object = format!("{name} in {}", sandbox.name);
    let locked = launcher
        .lock_mounts(&sandbox.name)
        .map_err(Failure::of("reload", &object))?;
    // Before the lock it may have been another one.
    let sandbox = inspect(launcher, &sandbox.name)?;
    let mount = sandbox.mounts.iter().find(|found| found.id == mount.id);
    let Some(mount) = mount else {
        return Ok(None);
    };
    let written = if arguments.discard || mount.tree.read_only {
        None
    } else {
        let mut request = request_of(&sandbox, mount, name)?;
        request.dry_run = true;
        Some(send(settings, &request).await?)
    };
    if written.as_ref().is_some_and(|written| !written.unchanged) {
        let cause = "what was written there is not committed";
        return Err(Failure::new("reload", &object, &cause)
            .with_code(BUSY)
            .with_hint("commit it, or give it up with --discard"));
    }
    let newest = head.tree().map(|tree| tree.to_string());
    let shown = mount.tree.volume.as_ref().map(|version| &version.tree);
    let is_there = mount.tree.opened_from == head.record_id.to_string()
        || (written.is_some() && shown == newest.as_ref());
    if is_there && !arguments.discard {
        return Ok(None);
    }
    let asked = Asked {
        source: name.clone(),
        target: mount.tree.target.clone(),
        read_only: mount.tree.read_only,
    };
    let tree = open_tree(settings, asked, MountMode::Auto).await?;
    let Some(version) = tree.volume.as_ref().map(|volume| volume.version) else {
        let cause = "an image or a snapshot has its name now";
        return Err(Failure::new("reload", &object, &cause).with_code(BUSY));
    };
    let mounted = locked.mount(tree).await;
    mounted.map_err(Failure::of("reload", &object))?;
    Ok(Some(version))
}

fn report(
    settings: &Settings,
    head: &Volume,
    reloaded: &[Reloaded],
    code: u8,
) -> Result<(), Failure> {
    if settings.json {
        let (done, refused): (Vec<_>, Vec<_>) =
            reloaded.iter().partition(|done| done.error.is_none());
        output::json(&serde_json::json!({
            "volume": head.name,
            "head": head.record_id.to_string(),
            "version": head.version.number,
            "reloaded": done,
            "refused": refused,
            "conflict": [],
        }))?;
    }
    let refused = reloaded.iter().filter_map(|done| done.error.as_ref());
    let refused: Vec<_> = refused.collect();
    if !settings.json {
        for done in reloaded.iter().filter(|done| done.error.is_none()) {
            let Reloaded {
                sandbox,
                path,
                from,
                version,
                ..
            } = done;
            output::line(&format!("{sandbox} {path}: version {from} -> {version}"))?;
        }
        for error in refused.iter().skip(1) {
            output::note(error);
        }
    }
    match refused.first() {
        None => Ok(()),
        Some(error) => Err(Failure::new("reload volume", &head.name, error)
            .with_code(code)
            .with_hint("commit what was written there, or give it up with --discard")),
    }
}
