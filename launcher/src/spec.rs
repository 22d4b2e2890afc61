//! What a caller says about a sandbox or a command in one.

use std::path::PathBuf;

use nacre_fs::mount::Lower;
use serde::{Deserialize, Serialize};

/// The network a sandbox sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A loopback device and nothing else.
    None,
    /// The host's.
    Host,
}

/// The program that runs the OCI bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// The reference runtime.
    Runc,
    /// The one in C.
    Crun,
    /// gVisor, on its ptrace platform.
    Runsc,
}

/// A host directory or file shown in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraMount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the sandbox; created when missing.
    pub target: PathBuf,
    /// Refuses writes.
    pub read_only: bool,
}

/// An image, a snapshot or a volume to show in a sandbox, which sees its own writes to it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMount {
    /// Where: an absolute path without `.`, `..`, doubled or trailing slashes; created when missing.
    pub target: String,
    /// What it is called.
    pub name: String,
    /// The id of the record that it was opened from.
    pub opened_from: String,
    /// Refuses writes.
    pub read_only: bool,
    /// Its layers, which stay mounted while it is.
    pub lower: Lower,
    /// The version of the volume that it shows, if it is one.
    pub volume: Option<VolumeVersion>,
}

/// The version of a volume that a mount shows, apart from what was written since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeVersion {
    /// The volume's id.
    pub id: String,
    /// The number of the version that was mounted, or committed last.
    pub version: u64,
    /// The id of that version's record.
    pub record: String,
    /// The root tree that was mounted, or was there when it was committed last.
    pub tree: String,
}

/// What the image's configuration says about the process; every field may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Its `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// Its `Cmd`.
    pub command: Vec<String>,
    /// Its `Env`, each `KEY=value`.
    pub env: Vec<String>,
    /// Its `WorkingDir`.
    pub cwd: String,
    /// Its `User`.
    pub user: String,
    /// Its `StopSignal`: a name with or without `SIG`, or a number.
    pub stop_signal: String,
}

/// What the caller wants otherwise than the image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessOverrides {
    /// Replaces the image's command (not its entrypoint) unless empty.
    pub command: Vec<String>,
    /// Added to the environment, each `KEY=value`; wins over the image's.
    pub env: Vec<String>,
    /// Replaces the working directory.
    pub cwd: Option<String>,
    /// Replaces the user: `user`, `user:group`, by name or number.
    pub user: Option<String>,
}

/// A sandbox to be.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Its name; a random one when absent.
    pub name: Option<String>,
    /// The name of its image, for [`SandboxInfo`](crate::SandboxInfo) only.
    pub image: String,
    /// The id of what the root file system was opened from, for [`SandboxInfo`](crate::SandboxInfo)
    /// only.
    pub started_from: String,
    /// The root file system: layers that stay mounted, and whose names nobody changes, while the
    /// sandbox exists.
    pub lower: Lower,
    /// The image's process.
    pub defaults: ImageDefaults,
    /// The caller's wishes.
    pub overrides: ProcessOverrides,
    /// Gives the process a terminal.
    pub terminal: bool,
    /// Gives the process the caller's stdin; without, it reads end-of-file.
    pub interactive: bool,
    /// Host directories and files to show.
    pub mounts: Vec<ExtraMount>,
    /// Images, snapshots and volumes to show.
    pub trees: Vec<TreeMount>,
    /// The network.
    pub network: Network,
    /// Memory limit in bytes, swap included.
    pub memory_bytes: Option<u64>,
    /// CPU time limit in CPUs (0.5 is half of one).
    pub cpus: Option<f64>,
    /// Host name; the sandbox's name (the host's own with [`Network::Host`]) when absent.
    pub hostname: Option<String>,
    /// The runtime.
    pub runtime: RuntimeKind,
    /// Removes the sandbox when its process ends; for [`run`](crate::Launcher::run) only. What it
    /// writes is not synced then, whatever it asks for, and does not outlive a power loss.
    pub remove_on_exit: bool,
}

/// A command to run in a sandbox that runs already.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Added to the sandbox's environment, each `KEY=value`.
    pub env: Vec<String>,
    /// Replaces the sandbox's working directory.
    pub cwd: Option<String>,
    /// Replaces the sandbox's user.
    pub user: Option<String>,
    /// Gives the command a terminal.
    pub terminal: bool,
    /// Gives the command the caller's stdin.
    pub interactive: bool,
}
