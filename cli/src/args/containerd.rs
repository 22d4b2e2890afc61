//! `nacre containerd`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerdVerb {
    /// Print the settings that containerd needs to use this node, or write them
    Setup(ContainerdSetup),
    /// Show what became of the layers that containerd asked for
    Stats,
}

#[derive(Debug, Args)]
pub(crate) struct ContainerdSetup {
    /// Change this file instead of printing; what it had stays in FILE.before-nacre
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "/etc/containerd/config.toml")]
    pub(crate) write: Option<PathBuf>,
    /// Version of containerd [default: what `containerd --version` says]
    #[arg(long, value_name = "VERSION")]
    pub(crate) containerd_version: Option<String>,
    /// How containerd calls the snapshotter
    #[arg(long, value_name = "NAME", default_value = "nacre")]
    pub(crate) name: String,
}
