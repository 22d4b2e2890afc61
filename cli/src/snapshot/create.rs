//! `nacre snapshot create`: a snapshot of a sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nacre_launcher::{Launcher, Status};
use nacre_snapshotter::{ClientError, CreateSnapshot, CreatedSnapshot, Rung};

use crate::args::SnapshotCreate;
use crate::failure::{Failure, USAGE};
use crate::node;
use crate::output::{self, human_bytes};
use crate::sandbox::launcher;
use crate::settings::Settings;

pub(super) async fn create(settings: &Settings, arguments: SnapshotCreate) -> Result<(), Failure> {
    let sandbox = arguments.sandbox.clone();
    let label = |text: &String| {
        let pair = text
            .split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Failure::new("use label", text, &"it is not KEY=VALUE").with_code(USAGE))
    };
    let labels = arguments
        .label
        .iter()
        .map(label)
        .collect::<Result<_, _>>()?;
    let rung = Rung::from(arguments.wait);
    let request = |mut request: CreateSnapshot| {
        request.path = normal(&arguments.path);
        request.name = arguments.name;
        request.ttl_ms = arguments.ttl.0;
        request.key = arguments.key;
        request.excludes = arguments.exclude;
        request.labels = labels;
        request.wait = rung;
        request
    };
    let written = match sandbox.strip_prefix(CONTAINER_PREFIX) {
        Some(container) => request_of_container(settings, container).await?,
        None => request_of(&launcher(settings)?, &sandbox)?,
    };
    let request = request(written);
    let created = send(settings, &request).await?;
    if rung == Rung::Region && created.durability == Rung::Durable {
        output::note("no region cache takes writes: it is in the store");
    }
    if settings.json {
        return output::json(&created);
    }
    for path in &created.skipped {
        output::note(&format!("left out {path}: a socket cannot be kept"));
    }
    output::note(&format!(
        "{} added, {} modified, {} removed; {} {} in {:.0} ms",
        created.added,
        created.modified,
        created.removed,
        human_bytes(created.bytes_uploaded),
        if created.durability == Rung::Durable {
            "stored"
        } else {
            "to be uploaded"
        },
        created.total_ms,
    ));
    output::line(created.name.as_ref().unwrap_or(&created.snapshot))
}

/// Returns the same for a container of containerd, or a snapshot of its.
async fn request_of_container(
    settings: &Settings,
    container: &str,
) -> Result<CreateSnapshot, Failure> {
    let sandbox = format!("{CONTAINER_PREFIX}{container}");
    let client = node::client(settings).await?;
    let found = client.find_container(container).await;
    let found = found.map_err(Failure::of("make a snapshot of", &sandbox))?;
    Ok(CreateSnapshot {
        sandbox,
        upper: found.upper,
        state: found.state,
        started_from: found.started_from,
        tree: Some(found.tree),
        cgroup: found.cgroup,
        ..nothing()
    })
}

/// Returns the request for a snapshot of all that a sandbox wrote, to be collected in a day, and to
/// be used on this node before it is uploaded.
pub(crate) fn request_of(launcher: &Launcher, sandbox: &str) -> Result<CreateSnapshot, Failure> {
    let info = launcher
        .inspect(sandbox)
        .map_err(Failure::of("make a snapshot of", sandbox))?;
    if info.started_from.is_empty() {
        let cause = "an earlier version of nacre made it";
        return Err(Failure::new("make a snapshot of", sandbox, &cause));
    }
    Ok(CreateSnapshot {
        sandbox: info.name,
        upper: info.upper,
        state: info.snapshot_state,
        started_from: info.started_from,
        cgroup: (info.status == Status::Running).then_some(info.cgroup),
        ..nothing()
    })
}

/// Returns a request with nothing to make a snapshot of.
fn nothing() -> CreateSnapshot {
    CreateSnapshot {
        sandbox: String::new(),
        upper: PathBuf::new(),
        state: PathBuf::new(),
        started_from: String::new(),
        tree: None,
        cgroup: None,
        path: "/".to_owned(),
        name: None,
        ttl_ms: Some(DAY_MS),
        key: None,
        excludes: Vec::new(),
        labels: BTreeMap::new(),
        wait: Rung::Local,
    }
}

/// What the name of a container of containerd begins with.
const CONTAINER_PREFIX: &str = "containerd:";

/// A day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// Asks the daemon for a snapshot. One that is killed meanwhile is replaced, which thaws what it
/// left frozen; the snapshot may then have been made or not.
pub(crate) async fn send(
    settings: &Settings,
    request: &CreateSnapshot,
) -> Result<CreatedSnapshot, Failure> {
    let client = node::client(settings).await?;
    let fail = Failure::of("make a snapshot of", &request.sandbox);
    match client.create_snapshot(request).await {
        Err(error @ (ClientError::NotRunning(_) | ClientError::Connection(_))) => {
            node::client(settings).await?;
            Err(fail(error).with_hint("run the command again, with --key if one must be enough"))
        }
        created => created.map_err(fail),
    }
}

/// Takes doubled and trailing slashes away.
fn normal(path: &str) -> String {
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", names.join("/"))
}
