//! `nacre info` and `nacre version`.

use nacre_snapshotter::{Client, ClientError, NodeInfo};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MODE_REASON: &str = "the portable view is the only mode of this version";

#[derive(Debug, Serialize)]
struct Info {
    version: &'static str,
    root: String,
    store: String,
    kernel: String,
    fuse: bool,
    erofs: bool,
    overlay: bool,
    mount_mode: &'static str,
    mount_mode_reason: &'static str,
    daemon: Option<NodeInfo>,
}

pub(crate) async fn info(settings: &Settings) -> Result<(), Failure> {
    let daemon = match Client::new(settings.socket()).info().await {
        Ok(info) => Some(info),
        Err(ClientError::NotRunning(_)) => None,
        Err(error) => return Err(Failure::of("reach", "the daemon")(error)),
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
        mount_mode: "fuse",
        mount_mode_reason: MODE_REASON,
        daemon,
    };
    if settings.json {
        return output::json(&info);
    }
    output::line(&format!("nacre {VERSION}, kernel {}", info.kernel))?;
    output::line(&format!("root    {}", info.root))?;
    output::line(&format!("store   {}", info.store))?;
    output::line(&format!("mounts  {}: {MODE_REASON}", info.mount_mode))?;
    match &info.daemon {
        None => output::line("daemon  not running; it starts when it is needed"),
        Some(daemon) => output::line(&format!(
            "daemon  process {}, {} resident, {} inodes, {} packs known",
            daemon.pid,
            human_bytes(daemon.rss_bytes),
            daemon.inodes,
            daemon.packs
        )),
    }
}

pub(crate) fn version(settings: &Settings) -> Result<(), Failure> {
    if settings.json {
        return output::json(&serde_json::json!({ "version": VERSION }));
    }
    output::line(&format!("nacre {VERSION}"))
}
