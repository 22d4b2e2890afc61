//! The OCI runtime configuration (`config.json`) of a sandbox.
//!
//! Follows what docker gives an unprivileged container (moby `oci/defaults.go`, `oci/caps`), with
//! one exception: no seccomp filter is set, so the capability list and the masked paths are what
//! keeps a process from the kernel's administrative calls.

pub(crate) mod mounts;
mod process;

use std::path::Path;

use serde_json::{Value, json};

use crate::error::LaunchError;
use crate::spec::{ExtraMount, Network};
pub(crate) use process::{OPEN_FILES_MAX, Process, build_environment, exec_process, resolve_args};

/// Length of the CPU accounting period, in microseconds (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;
/// Least CPU quota the kernel takes, in microseconds.
const CPU_QUOTA_US_MIN: f64 = 1_000.0;
/// Most CPUs that may be asked for.
const CPUS_MAX: f64 = 65_536.0;
/// Least memory limit: below it the runtimes cannot start the process (docker's bound).
const MEMORY_BYTES_MIN: u64 = 6 << 20;

/// All that decides a `config.json`.
#[derive(Debug)]
pub(crate) struct BundleSpec<'a> {
    /// Names the cgroup.
    pub(crate) container_id: &'a str,
    pub(crate) rootfs: &'a Path,
    pub(crate) process: &'a Process,
    pub(crate) hostname: &'a str,
    pub(crate) network: Network,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cpus: Option<f64>,
    /// Directory with the files to show as `/etc/{hostname,hosts,resolv.conf}`.
    pub(crate) etc: &'a Path,
    pub(crate) extra_mounts: &'a [ExtraMount],
}

/// Returns the cgroup of a container, below the root of each hierarchy.
pub(crate) fn cgroups_path(container_id: &str) -> String {
    format!("/nacre/{container_id}")
}

/// Makes the runtime configuration.
pub(crate) fn config(spec: &BundleSpec<'_>) -> Result<Value, LaunchError> {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if spec.network == Network::None {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": spec.process.to_json(),
        "root": { "path": utf8(spec.rootfs)?, "readonly": false },
        "hostname": spec.hostname,
        "mounts": mounts::mounts(spec)?,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": cgroups_path(spec.container_id),
            "resources": resources(spec.memory_bytes, spec.cpus)?,
            "maskedPaths": mounts::MASKED_PATHS,
            "readonlyPaths": mounts::READONLY_PATHS,
        },
    }))
}

fn resources(memory_bytes: Option<u64>, cpus: Option<f64>) -> Result<Value, LaunchError> {
    // The runtimes add the standard device nodes (OCI runtime-spec, "Default Devices").
    let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    if let Some(limit) = memory_bytes {
        if limit < MEMORY_BYTES_MIN || i64::try_from(limit).is_err() {
            return Err(LaunchError::Invalid(format!(
                "memory limit of {limit} bytes is out of range (least: {MEMORY_BYTES_MIN})"
            )));
        }
        resources["memory"] = json!({ "limit": limit, "swap": limit });
    }
    if let Some(cpus) = cpus {
        resources["cpu"] = json!({ "quota": cpu_quota_us(cpus)?, "period": CPU_PERIOD_US });
    }
    Ok(resources)
}

fn cpu_quota_us(cpus: f64) -> Result<u64, LaunchError> {
    if !(0.01..=CPUS_MAX).contains(&cpus) {
        return Err(LaunchError::Invalid(format!(
            "{cpus} is not a number of CPUs from 0.01 up"
        )));
    }
    let quota = (cpus * 100_000.0).round().max(CPU_QUOTA_US_MIN);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1,000 and 65,536 * 100,000"
    )]
    Ok(quota as u64)
}

/// Returns a path as the text that JSON can hold.
fn utf8(path: &Path) -> Result<&str, LaunchError> {
    path.to_str()
        .ok_or_else(|| LaunchError::Invalid(format!("path {path:?} is not UTF-8")))
}

#[cfg(test)]
mod tests;
