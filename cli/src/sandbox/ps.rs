//! `nacre ps`: the sandboxes of this root.

use nacre_launcher::{MountInfo, Status};

use super::launcher;
use crate::args::Ps;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(crate) fn ps(settings: &Settings, arguments: &Ps) -> Result<(), Failure> {
    let sandboxes = launcher(settings)?
        .list()
        .map_err(Failure::of("list", "sandboxes"))?;
    if !settings.json {
        output::line(&format!(
            "{:<24} {:<32} {:<12} {:>8}",
            "SANDBOX", "IMAGE", "STATUS", "PID"
        ))?;
    }
    for sandbox in sandboxes {
        let (status, exit_code) = match sandbox.status {
            Status::Created => ("created", None),
            Status::Running => ("running", None),
            Status::Stopped { exit_code } => ("stopped", exit_code),
        };
        if !arguments.all && sandbox.status != Status::Running {
            continue;
        }
        let mounts: Vec<_> = sandbox.mounts.iter().map(shown).collect();
        if settings.json {
            output::json(&serde_json::json!({
                "sandbox": sandbox.name,
                "image": sandbox.image,
                "status": status,
                "pid": sandbox.pid,
                "exit_code": exit_code,
                "created": sandbox.created_ms,
                "mounts": mounts,
            }))?;
        } else {
            let pid = sandbox.pid.map(|pid| pid.to_string()).unwrap_or_default();
            let (name, image) = (sandbox.name, sandbox.image);
            output::line(&format!("{name:<24} {image:<32} {status:<12} {pid:>8}"))?;
        }
    }
    Ok(())
}

/// Shows a mount as JSON.
fn shown(mount: &MountInfo) -> serde_json::Value {
    let tree = &mount.tree;
    serde_json::json!({
        "path": tree.target,
        "name": tree.name,
        "read_only": tree.read_only,
        "version": tree.volume.as_ref().map(|volume| volume.version),
    })
}
