//! `nacre info` and `nacre version`.

use nacre_fs::probe_kernel_mode;
use nacre_snapshotter::{Client, ClientError, KERNEL_MODE_REASON, MountMode, NodeInfo};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Serialize)]
struct Info {
    version: &'static str,
    root: String,
    store: String,
    kernel: String,
    fuse: bool,
    erofs: bool,
    overlay: bool,
    mount_mode: MountMode,
    mount_mode_reason: String,
    daemon: Option<NodeInfo>,
}

pub(crate) async fn info(settings: &Settings) -> Result<(), Failure> {
    let daemon = match Client::new(settings.socket()).info().await {
        Ok(info) => Some(info),
        Err(ClientError::NotRunning(_)) => None,
        Err(error) => return Err(Failure::of("reach", "the daemon")(error)),
    };
    let (mount_mode, mount_mode_reason) = match &daemon {
        Some(daemon) => (daemon.mount_mode, daemon.mount_mode_reason.clone()),
        None => trial(settings),
    };
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| {
        known
            .lines()
            .any(|line| line.split_whitespace().last() == Some(name))
    };
    let info = Info {
        version: VERSION,
        root: settings.root.display().to_string(),
        store: settings.store.to_string(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        fuse: std::path::Path::new("/dev/fuse").exists(),
        erofs: has("erofs"),
        overlay: has("overlay"),
        mount_mode,
        mount_mode_reason,
        daemon,
    };
    if settings.json {
        return output::json(&info);
    }
    output::line(&format!("nacre {VERSION}, kernel {}", info.kernel))?;
    output::line(&format!("root    {}", info.root))?;
    output::line(&format!("store   {}", info.store))?;
    let mode = mode_name(info.mount_mode);
    output::line(&format!("mounts  {mode}: {}", info.mount_mode_reason))?;
    match &info.daemon {
        None => output::line("daemon  not running; it starts when it is needed"),
        Some(daemon) => output::line(&format!(
            "daemon  process {}, {} resident, {} inodes, {} packs known, {} awaited",
            daemon.pid,
            human_bytes(daemon.rss_bytes),
            daemon.inodes,
            daemon.packs,
            daemon.packs_awaited
        )),
    }
}

/// Returns the word for a mode.
pub(crate) const fn mode_name(mode: MountMode) -> &'static str {
    match mode {
        MountMode::Kernel => "kernel",
        MountMode::Fuse => "fuse",
    }
}

/// Finds out how a daemon of this root would serve trees.
pub(crate) fn trial(settings: &Settings) -> (MountMode, String) {
    let scratch = settings.root.join(format!("trial-{}", std::process::id()));
    let tried = probe_kernel_mode(&scratch);
    drop(std::fs::remove_dir(&scratch));
    match tried {
        Ok(()) => (MountMode::Kernel, KERNEL_MODE_REASON.to_owned()),
        Err(reason) => (MountMode::Fuse, reason),
    }
}

pub(crate) fn version(settings: &Settings) -> Result<(), Failure> {
    if settings.json {
        return output::json(&serde_json::json!({ "version": VERSION }));
    }
    output::line(&format!("nacre {VERSION}"))
}
