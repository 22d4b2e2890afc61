//! The command line of snapshots and forks.

use clap::{Args, Subcommand, ValueEnum};
use nacre_snapshotter::Rung;

use super::{Run, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Make a snapshot of what a sandbox wrote
    Create(SnapshotCreate),
    /// List snapshots
    Ls,
    /// Show a snapshot
    Inspect(SnapshotNamed),
    /// Remove a snapshot's name, or by its id all its names; one that is not durable yet is dropped
    Rm(SnapshotNamed),
    /// Wait until a snapshot is safe
    Wait(SnapshotWait),
    /// Give a snapshot a name, taking it from whatever has it
    Tag(SnapshotTag),
    /// List what differs between two images or snapshots, or directories of them
    Diff(SnapshotDiff),
    /// Write an OCI image: the layers of the base image and one with the changes
    Export(SnapshotExport),
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotCreate {
    /// Name of the sandbox, running or not; containerd:NAMESPACE/ID for a container of containerd
    pub(crate) sandbox: String,
    /// Directory to make a snapshot of, instead of the whole file system
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) path: String,
    /// Name of the snapshot [default: its id]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long to keep it, such as 12h or 30d, or never to drop it
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_ttl)]
    pub(crate) ttl: Ttl,
    /// How safe it must be before the command ends: usable on this node, or in the store. What is
    /// only local is uploaded in the background
    #[arg(long, value_enum, default_value_t = Durability::Durable)]
    pub(crate) wait: Durability,
    /// Return what the first command with this key made
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Leave out changes to what matches, such as *.log or /tmp/**; repeat for several
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Note a label; repeat for several
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotNamed {
    /// Name or id of the snapshot
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotWait {
    /// Name or id of the snapshot
    pub(crate) name: String,
    /// How safe it must be
    #[arg(long = "for", value_name = "RUNG", value_enum, default_value_t = Durability::Durable)]
    pub(crate) rung: Durability,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotTag {
    /// Name or id of the snapshot
    pub(crate) name: String,
    /// The name to give
    pub(crate) tag: String,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotDiff {
    /// Name or id of an image or a snapshot; with :/PATH what it has there
    pub(crate) before: String,
    /// The same, to compare it with
    pub(crate) after: String,
    /// Print only how much differs
    #[arg(long, conflicts_with = "patch")]
    pub(crate) stat: bool,
    /// Print a patch of the text files and symlinks that differ, in git's format
    #[arg(long, short)]
    pub(crate) patch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotExport {
    /// Name or id of the snapshot; an image is exported as it is
    pub(crate) name: String,
    /// Where to
    #[arg(help = "Where to: oci:DIR[:TAG] or docker://HOST/REPO:TAG")]
    pub(crate) destination: String,
    /// What has the layers of the base image, as for `image add`; needed where they are not there yet
    #[arg(long, value_name = "SOURCE", conflicts_with = "flat")]
    pub(crate) from: Option<String>,
    /// Make one layer of everything
    #[arg(long)]
    pub(crate) flat: bool,
    /// Compression of the new layer
    #[arg(long, value_enum, default_value_t = LayerCompression::Gzip)]
    pub(crate) compression: LayerCompression,
}

/// How a new layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayerCompression {
    /// Read by everything
    Gzip,
    /// Faster; read by containerd 1.5, docker 23 and later
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct Fork {
    /// Sandboxes to start
    #[arg(short = 'n', long = "count", default_value_t = 1)]
    pub(crate) count: u32,
    /// As for `run`; the image may be a sandbox, too, and --name is what the names begin with.
    #[command(flatten)]
    pub(crate) run: Run,
}

/// Where a snapshot is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// On this node
    Local,
    /// In the region
    Region,
    /// In the object store
    Durable,
}

impl From<Durability> for Rung {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Local => Self::Local,
            Durability::Region => Self::Region,
            Durability::Durable => Self::Durable,
        }
    }
}

/// How long a snapshot is kept; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Option<u64>);

fn parse_ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl(None));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("needs a unit: s, m, h or d".to_owned());
    }
    let ttl_ms = u64::try_from(parse_duration(text)?.as_millis());
    ttl_ms
        .map(|ms| Ttl(Some(ms)))
        .map_err(|_| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_ttl("never"), Ok(Ttl(None)));
        assert_eq!(parse_ttl("90s"), Ok(Ttl(Some(90_000))));
        assert_eq!(parse_ttl("30d"), Ok(Ttl(Some(2_592_000_000))));
        for bad in ["", "1", "d", "-1d", "1w", "999999999999999999d"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
