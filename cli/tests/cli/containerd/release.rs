//! The containerds that the tests run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which containerd it is.
#[derive(Debug, Clone)]
pub(super) enum Release {
    /// Debian's 1.6.
    Debian,
    /// 2.4: `scripts/containerd2.sh` built its programs into this folder.
    Latest(PathBuf),
}

impl Release {
    /// Returns containerd 2.4, if `NACRE_TEST_CONTAINERD2` names the folder where it is.
    pub(super) fn latest() -> Option<Self> {
        let folder = std::env::var_os("NACRE_TEST_CONTAINERD2");
        if folder.is_none() {
            println!("SKIPPED: NACRE_TEST_CONTAINERD2 is not set");
        }
        folder.map(|folder| Self::Latest(folder.into()))
    }

    /// Returns how one of its programs is run. They find each other.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = match self {
            Self::Debian => Command::new(program),
            Self::Latest(folder) => Command::new(folder.join(program)),
        };
        command.env("PATH", self.path());
        command
    }

    /// Returns where programs are looked for.
    pub(super) fn path(&self) -> OsString {
        let mut path = OsString::new();
        if let Self::Latest(folder) = self {
            path.push(folder);
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// Returns a config with everything below `folder`, as an operator might have it before nacre
    /// is set up.
    pub(super) fn config(&self, folder: &Path, pause: &str) -> String {
        let (version, cri) = match self {
            Self::Debian => (2, debian_cri(pause)),
            Self::Latest(_) => (3, latest_cri(pause)),
        };
        let path = |name: &str| folder.join(name).display().to_string();
        format!(
            r#"version = {version}
root = "{}"
state = "{}"
[grpc]
address = "{}"
[plugins."io.containerd.internal.v1.opt"]
path = "{}"
{cri}"#,
            path("root"),
            path("state"),
            path("c.sock"),
            path("opt"),
        )
    }
}

fn debian_cri(pause: &str) -> String {
    format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn latest_cri(pause: &str) -> String {
    format!(
        r#"[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}
