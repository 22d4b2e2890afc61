//! The command line of traces.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TraceVerb {
    /// Run a command in a new sandbox and record what its start reads
    Record(TraceRecord),
    /// Show what starts of an image read, and what they waited for
    Show(TraceShow),
    /// Write an image's trace to a file
    Export(TraceFile),
    /// Add a file's trace to that of an image
    Import(TraceFile),
}

#[derive(Debug, Args)]
pub(crate) struct TraceRecord {
    /// Name or id of the image
    pub(crate) image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TraceShow {
    /// Name or id of the image
    pub(crate) name: String,
    /// Write a page with a time line to this file instead
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TraceFile {
    /// Name or id of the image
    pub(crate) name: String,
    /// The file
    pub(crate) file: PathBuf,
}
