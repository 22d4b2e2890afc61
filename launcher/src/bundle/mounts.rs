//! What a sandbox sees besides its root file system.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::{BundleSpec, utf8};
use crate::error::LaunchError;
use crate::spec::ExtraMount;

/// Paths that show nothing (moby `oci/defaults.go`).
pub(super) const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

/// Paths that refuse writes (moby `oci/defaults.go`).
pub(super) const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The kernel file systems of every sandbox: target, type, source, options.
const STANDARD: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
    (
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["ro", "nosuid", "noexec", "nodev"],
    ),
    (
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
    ),
];

/// The files of `/etc` that the host provides.
pub(crate) const ETC_FILES: [&str; 3] = ["resolv.conf", "hostname", "hosts"];

pub(super) fn mounts(spec: &BundleSpec<'_>) -> Result<Vec<Value>, LaunchError> {
    let mut mounts: Vec<Value> = STANDARD
        .iter()
        .map(|(target, kind, source, options)| {
            json!({ "destination": target, "type": kind, "source": source, "options": options })
        })
        .collect();
    for name in ETC_FILES {
        let source = spec.etc.join(name);
        mounts.push(bind(utf8(&source)?, &format!("/etc/{name}"), false));
    }
    for extra in spec.extra_mounts {
        mounts.push(extra_mount(extra)?);
    }
    Ok(mounts)
}

fn extra_mount(extra: &ExtraMount) -> Result<Value, LaunchError> {
    let plain = |path: &Path| {
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
    };
    if !plain(&extra.source) || !plain(&extra.target) || extra.target == Path::new("/") {
        return Err(LaunchError::Invalid(format!(
            "mount {:?} at {:?}: both must be absolute, without .., and not the root",
            extra.source, extra.target
        )));
    }
    Ok(bind(
        utf8(&extra.source)?,
        utf8(&extra.target)?,
        extra.read_only,
    ))
}

fn bind(source: &str, target: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({
        "destination": target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", access],
    })
}
