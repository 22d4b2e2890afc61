//! `nacre volume commit`: what a sandbox wrote becomes the next version.

use nacre_launcher::{Launcher, LockedMounts, MountInfo, SandboxInfo, Status, VolumeVersion};
use nacre_snapshotter::{ClientError, CommitVolume, CommittedVolume};

use crate::args::VolumeCommit;
use crate::failure::{BUSY, Failure, NOT_FOUND, USAGE};
use crate::node;
use crate::output::{self, human_bytes};
use crate::sandbox::{launcher, mounts};
use crate::settings::Settings;

/// Paths of a conflict that people are shown.
const SHOWN_MAX: usize = 20;

pub(super) async fn commit(settings: &Settings, arguments: &VolumeCommit) -> Result<(), Failure> {
    let volume = &arguments.volume;
    let launcher = launcher(settings)?;
    // Two commits of one mount would both be based on the same version.
    let locked = launcher
        .lock_mounts(&arguments.from)
        .map_err(Failure::of("commit", volume))?;
    let sandbox = inspect(&launcher, &arguments.from)?;
    let mount = the_mount(&sandbox, volume, arguments.path.as_deref())?;
    let request = CommitVolume {
        merge: arguments.merge,
        ..request_of(&sandbox, mount, volume)?
    };
    let committed = send(settings, &request).await?;
    if committed.committed {
        note(&locked, mount, &committed)?;
    }
    if settings.json {
        output::json(&committed)?;
    }
    if !committed.committed {
        return Err(refused(&committed));
    }
    if settings.json {
        return Ok(());
    }
    for path in &committed.skipped {
        output::note(&format!("left out {path}: a socket cannot be kept"));
    }
    let what = match (committed.unchanged, committed.merged) {
        (true, _) => "nothing was written since",
        (_, true) => "merged; `nacre volume reload` shows it in the sandbox",
        _ => "committed",
    };
    let stored = human_bytes(committed.bytes_uploaded);
    output::note(&format!("{what}; {stored} stored"));
    output::line(&format!("{volume}: version {}", committed.version))
}

pub(super) fn inspect(launcher: &Launcher, sandbox: &str) -> Result<SandboxInfo, Failure> {
    launcher
        .inspect(sandbox)
        .map_err(Failure::of("use sandbox", sandbox))
}

/// Finds where a sandbox has a volume mounted.
fn the_mount<'a>(
    sandbox: &'a SandboxInfo,
    volume: &str,
    path: Option<&str>,
) -> Result<&'a MountInfo, Failure> {
    let usage = |cause: &str| Failure::new("commit", volume, &cause).with_code(USAGE);
    let path = path.map(mounts::normal).transpose().map_err(usage)?;
    let mut found = sandbox.mounts.iter().filter(|mount| {
        mount.tree.volume.is_some()
            && mount.tree.name == volume
            && path.as_ref().is_none_or(|path| *path == mount.tree.target)
    });
    match (found.next(), found.next()) {
        (Some(mount), None) => Ok(mount),
        (Some(_), Some(_)) => Err(usage("it is mounted at several places").with_hint("use --path")),
        (None, _) => {
            let cause = format!("it is not mounted in {}", sandbox.name);
            Err(Failure::new("commit", volume, &cause).with_code(NOT_FOUND))
        }
    }
}

/// Returns the request for a commit of a mount, without a merge.
pub(super) fn request_of(
    sandbox: &SandboxInfo,
    mount: &MountInfo,
    name: &str,
) -> Result<CommitVolume, Failure> {
    let tree = &mount.tree;
    let version = tree.volume.clone();
    let version = version.ok_or_else(|| Failure::new("commit", name, &"it is no volume"))?;
    Ok(CommitVolume {
        volume: name.to_owned(),
        id: version.id,
        version: version.version,
        record: version.record,
        tree: version.tree,
        mount: mount.id.clone(),
        sandbox: sandbox.name.clone(),
        upper: mount.upper.clone(),
        state: mount.snapshot_state.clone(),
        lower: tree.opened_from.clone(),
        cgroup: (sandbox.status == Status::Running).then(|| sandbox.cgroup.clone()),
        merge: false,
        dry_run: false,
    })
}

/// Asks the daemon for a commit. One that is killed meanwhile is replaced, which thaws what it left
/// frozen; the commit may then have been made or not.
pub(super) async fn send(
    settings: &Settings,
    request: &CommitVolume,
) -> Result<CommittedVolume, Failure> {
    let client = node::client(settings).await?;
    let fail = Failure::of("commit", &request.volume);
    match client.commit_volume(request).await {
        Err(error @ (ClientError::NotRunning(_) | ClientError::Connection(_))) => {
            node::client(settings).await?;
            Err(fail(error).with_hint("run the command again; it commits nothing twice"))
        }
        committed => committed.map_err(fail),
    }
}

/// Notes in the sandbox what its mount shows now.
fn note(
    locked: &LockedMounts,
    mount: &MountInfo,
    committed: &CommittedVolume,
) -> Result<(), Failure> {
    let Some(before) = &mount.tree.volume else {
        return Ok(());
    };
    let version = VolumeVersion {
        id: before.id.clone(),
        version: committed.version,
        record: committed.record.clone(),
        tree: committed.mounted_tree.clone(),
    };
    if version == *before {
        return Ok(());
    }
    let noted = locked.set_version(&mount.tree.target, version);
    noted.map_err(Failure::of("note the commit of", &committed.volume))
}

fn refused(committed: &CommittedVolume) -> Failure {
    let (mine, head) = (committed.version, committed.head_version);
    let mut shown = committed.conflict.clone();
    let hidden = shown.split_off(shown.len().min(SHOWN_MAX)).len();
    let mut cause = format!("its version is {head}, and {mine} is mounted");
    if !shown.is_empty() {
        cause = format!("{cause}; both changed {}", shown.join(", "));
    }
    if hidden > 0 {
        cause = format!("{cause} and {hidden} more");
    }
    let hint = if committed.conflict.is_empty() {
        "no path was changed by both: --merge takes in what others did"
    } else {
        "take your changes elsewhere, and `nacre volume reload --discard`"
    };
    Failure::new("commit", &committed.volume, &cause)
        .with_code(BUSY)
        .with_hint(hint)
}
