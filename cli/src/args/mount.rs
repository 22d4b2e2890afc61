//! The command line of mounts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// Name or id of the image
    pub(crate) name: String,
    /// Where to mount it
    pub(crate) directory: PathBuf,
    /// Accept writes, and discard them at `umount`
    #[arg(long)]
    pub(crate) rw: bool,
    /// How to mount it
    #[arg(long, value_enum, default_value_t = MountMode::Auto)]
    pub(crate) mode: MountMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MountMode {
    /// The fastest that this node can do
    Auto,
    /// Names, attributes and what is on the node by the kernel itself
    Kernel,
    /// All through FUSE
    Fuse,
}

impl MountMode {
    /// Returns the mode to ask the daemon for.
    pub(crate) const fn wanted(self) -> Option<nacre_snapshotter::MountMode> {
        match self {
            Self::Auto => None,
            Self::Kernel => Some(nacre_snapshotter::MountMode::Kernel),
            Self::Fuse => Some(nacre_snapshotter::MountMode::Fuse),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// Where it is mounted
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MountInto {
    /// Name of the sandbox
    pub(crate) sandbox: String,
    /// Name or id of the image, snapshot or volume
    pub(crate) name: String,
    /// Where to mount it; what is mounted there takes its leave, but for what is open in it
    pub(crate) path: String,
    /// Refuse writes
    #[arg(long)]
    pub(crate) ro: bool,
    /// How it is served
    #[arg(long, value_enum, default_value_t = MountMode::Auto)]
    pub(crate) mode: MountMode,
}

#[derive(Debug, Args)]
pub(crate) struct UmountFrom {
    /// Name of the sandbox
    pub(crate) sandbox: String,
    /// Where it is mounted
    pub(crate) path: String,
}
