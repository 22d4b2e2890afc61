//! The command line of volumes.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume
    Create(VolumeCreate),
    /// List volumes
    Ls,
    /// Show a volume
    Inspect(VolumeNamed),
    /// Remove a volume with all its versions
    Rm(VolumeNamed),
    /// Make what a sandbox wrote to a volume its next version
    Commit(VolumeCommit),
    /// Show the newest version in sandboxes that run
    Reload(VolumeReload),
    /// Make a snapshot of the newest version
    Snapshot(VolumeSnapshot),
    /// Make a volume that starts with the newest version of another
    Fork(VolumeFork),
    /// List the versions, newest first
    Log(VolumeNamed),
    /// Make an earlier version the newest again
    Restore(VolumeRestore),
}

#[derive(Debug, Args)]
pub(crate) struct VolumeNamed {
    /// Name of the volume
    pub(crate) volume: String,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreate {
    /// Name of the volume
    pub(crate) volume: String,
    /// Start with the files of this image, snapshot or volume [default: none]
    #[arg(long, value_name = "N")]
    pub(crate) from: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCommit {
    /// Name of the volume
    pub(crate) volume: String,
    /// Name of the sandbox, running or not
    #[arg(long, value_name = "SANDBOX")]
    pub(crate) from: String,
    /// Where it is mounted there, if it is at several places
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Take in what others committed since, if no path was changed by both
    #[arg(long)]
    pub(crate) merge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeReload {
    /// Name of the volume
    pub(crate) volume: String,
    /// Only in this sandbox [default: in all that run and mount it]
    #[arg(long = "in", value_name = "SANDBOX")]
    pub(crate) sandbox: Option<String>,
    /// Give up what was written there and not committed
    #[arg(long)]
    pub(crate) discard: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeSnapshot {
    /// Name of the volume
    pub(crate) volume: String,
    /// Name of the snapshot [default: its id]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeFork {
    /// Name of the volume
    pub(crate) volume: String,
    /// Name of the new one
    pub(crate) new: String,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeRestore {
    /// Name of the volume
    pub(crate) volume: String,
    /// Number of the version, as `volume log` shows it
    pub(crate) version: u64,
}
