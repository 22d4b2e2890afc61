//! The command line as its users write it. Verbs, flags and their names are a contract.

mod containerd;
mod mount;
mod quantities;
mod region;
mod snapshot;
mod trace;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nacre_snapshotter::LazyPolicy;

pub(crate) use containerd::{ContainerdSetup, ContainerdVerb};
pub(crate) use mount::{Mount, MountInto, MountMode, Umount, UmountFrom};
pub(crate) use quantities::{parse_bytes, parse_duration};
pub(crate) use region::{RegionFlags, RegionPrime, RegionServe, RegionVerb};
pub(crate) use snapshot::{
    Fork, LayerCompression, SnapshotCreate, SnapshotDiff, SnapshotExport, SnapshotTag,
    SnapshotVerb, SnapshotWait,
};
pub(crate) use trace::{TraceFile, TraceRecord, TraceShow, TraceVerb};
pub(crate) use volume::{
    VolumeCommit, VolumeCreate, VolumeFork, VolumeReload, VolumeRestore, VolumeSnapshot, VolumeVerb,
};

/// Store OCI images once and start them before they are downloaded
#[derive(Debug, Parser)]
#[command(name = "nacre", version, disable_help_subcommand = false)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of caches, upper directories, state and sockets [default: /var/lib/nacre]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_ROOT",
        value_name = "DIR"
    )]
    pub(crate) root: Option<PathBuf>,
    /// Object store: file:///DIR, s3://BUCKET/PREFIX, gs://, az:// [default: file://ROOT/store]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_STORE",
        value_name = "URL"
    )]
    pub(crate) store: Option<String>,
    /// How long a request to the store may take with all its retries [default: 120]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_STORE_TIMEOUT",
        value_name = "SECONDS"
    )]
    pub(crate) store_timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) region: RegionFlags,
    /// Size of the node's cache on the disk, such as 200G [default: 80 % of its file system]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_CACHE_SIZE",
        value_name = "BYTES",
        value_parser = parse_bytes
    )]
    pub(crate) cache_size: Option<u64>,
    /// Files in the node's cache; each costs 64 bytes of memory [default: 2097152]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_CACHE_FILES",
        value_name = "FILES"
    )]
    pub(crate) cache_files: Option<u64>,
    /// One start in so many is checked for what of its image's trace it reads, and waits a little more for
    /// it; 0: none [default: 8]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_CHECK_ONE_IN",
        value_name = "STARTS"
    )]
    pub(crate) check_one_in: Option<u32>,
    /// Which layers containerd need not unpack: always (any image's: what is not in the store is added
    /// first), background (added later), if-stored, never [default: if-stored]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_LAZY",
        value_name = "POLICY"
    )]
    pub(crate) lazy: Option<LazyPolicy>,
    /// Socket of containerd, to which layers and images are given [default:
    /// /run/containerd/containerd.sock]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_CONTAINERD_ADDRESS",
        value_name = "SOCKET"
    )]
    pub(crate) containerd_address: Option<PathBuf>,
    /// Settings as TOML, with the names of these flags
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_CONFIG",
        value_name = "FILE"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON object (or one a line) instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Show progress of long work
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value_t = ProgressKind::Auto)]
    pub(crate) progress: ProgressKind,
    /// Log more; repeat for still more
    #[arg(short, long, global = true, help_heading = "Global options", action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log errors only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressKind {
    /// Bars on a terminal, else nothing
    Auto,
    /// A line from time to time
    Plain,
    /// Nothing
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command in a new sandbox
    Run(Run),
    /// Run a command in a running sandbox
    Exec(Exec),
    /// List sandboxes
    Ps(Ps),
    /// Stop a sandbox
    Stop(Stop),
    /// Remove a sandbox that has ended
    Rm(Rm),
    /// Make, list and remove snapshots of sandboxes
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Make volumes, commit to them and reload them
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Start sandboxes from the state of one, or from a snapshot or image
    Fork(Fork),
    /// Add, list and remove images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Mount an image or a snapshot on a directory
    Mount(Mount),
    /// Unmount what `mount` mounted
    Umount(Umount),
    /// Mount an image, a snapshot or a volume in a running sandbox
    MountInto(MountInto),
    /// Take away what is mounted in a running sandbox
    UmountFrom(UmountFrom),
    /// Inspect and check the object store
    #[command(subcommand)]
    Store(StoreVerb),
    /// Inspect, check and shrink the node's cache
    #[command(subcommand)]
    Cache(CacheVerb),
    /// Run the cache of a region
    #[command(subcommand)]
    Region(RegionVerb),
    /// Record, show and share what starts of images read
    #[command(subcommand)]
    Trace(TraceVerb),
    /// Serve this node in the foreground; other verbs start it when it is needed
    Daemon(Daemon),
    /// Hold the mounts of this root while no daemon does; the daemon starts it
    #[command(hide = true)]
    Keeper,
    /// Use this node as containerd's snapshotter
    #[command(subcommand)]
    Containerd(ContainerdVerb),
    /// Show what this node can do and how it is set up
    Info,
    /// Show the version
    Version,
}

impl Verb {
    /// Tells whether the verb forwards interrupts, or ends in its own way.
    pub(crate) const fn sees_to_signals(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Exec(_)
                | Self::Daemon(_)
                | Self::Region(RegionVerb::Serve(_))
                | Self::Trace(TraceVerb::Record(_))
        )
    }
}

#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// Take the place of the daemon that runs, without a read that fails
    #[arg(long)]
    pub(crate) takeover: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Add an image to the store
    Add(ImageAdd),
    /// List images
    Ls,
    /// Show an image
    Inspect(Named),
    /// Remove an image's name
    Rm(Named),
    /// Copy what starts of an image read into packs of their own, in that order
    Optimize(Named),
    /// Make an image or a snapshot known to containerd, to be run there; no layer is copied
    Register(ImageRegister),
}

#[derive(Debug, Args)]
pub(crate) struct ImageRegister {
    /// Name or id of an image or a snapshot
    pub(crate) name: String,
    /// Make it known to containerd
    #[arg(long, required = true)]
    pub(crate) containerd: bool,
    /// Name there; of a snapshot the image's in the store, too [default: the name]
    #[arg(long = "as", value_name = "IMAGE")]
    pub(crate) as_name: Option<String>,
    /// Namespace of containerd
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// How containerd calls the snapshotter of this node
    #[arg(long, value_name = "NAME", default_value = "nacre")]
    pub(crate) snapshotter: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImageAdd {
    // Not a comment for rustdoc, which takes the brackets for a link.
    #[arg(
        help = "docker://HOST/REPO:TAG, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE \
                or dir:DIR"
    )]
    pub(crate) source: String,
    /// Name of the image [default: the source's last part and tag]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Platform to choose from an image of several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Plain bytes of a frame, for measurements
    #[arg(long, hide = true)]
    pub(crate) frame_bytes: Option<usize>,
    /// Average bytes of a chunk of a large file, for measurements
    #[arg(long, hide = true)]
    pub(crate) chunk_bytes: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name or id of the image
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkKind {
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeName {
    Runc,
    Crun,
    Runsc,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Run {
    /// Name of the sandbox [default: a random one]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Leave it running and print its name
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove it when its command ends; nobody waits for that with -d
    #[arg(long, conflicts_with = "detach")]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) process: Process,
    /// Show an image, a snapshot or a volume at PATH, or with /DIR a directory of the host; repeat
    /// for several
    #[arg(long, value_name = "N:PATH[:ro]")]
    pub(crate) mount: Vec<String>,
    /// Program that runs the sandbox
    #[arg(long, value_enum, default_value_t = RuntimeName::Runc)]
    pub(crate) runtime: RuntimeName,
    /// Network that the sandbox sees
    #[arg(long, value_enum, default_value_t = NetworkKind::None)]
    pub(crate) network: NetworkKind,
    /// How the root file system is served
    #[arg(long, value_enum, default_value_t = MountMode::Auto)]
    pub(crate) mode: MountMode,
    /// Memory limit, such as 512M or 2G
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// CPU limit, such as 1.5
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpus: Option<f64>,
    /// Name or id of the image or snapshot
    pub(crate) image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// What `run` and `exec` say of a process alike.
#[derive(Debug, Clone, Args)]
pub(crate) struct Process {
    /// Pass stdin on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable; without a value, pass on the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, or user:group, by name or number
    #[arg(short, long)]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) process: Process,
    /// Name of the sandbox
    pub(crate) sandbox: String,
    /// Command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Show those that have ended too
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Name of the sandbox
    pub(crate) sandbox: String,
    /// Seconds until it is killed
    #[arg(short, long, default_value_t = 10)]
    pub(crate) time: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Name of the sandbox
    pub(crate) sandbox: String,
    /// Kill it if it is running
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Check that every image reaches only what is there and right
    Fsck(Fsck),
    /// Show how much is stored
    Stats,
    /// Delete what no image or snapshot needs
    Gc(Gc),
    /// Check that the store does what nacre relies on
    Check,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only tell what would be deleted
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete what was not needed for so long (s, m, h or d)
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub(crate) hold: Duration,
    /// Copy at most so many bytes out of packs that are mostly garbage; 0 saves the reading of
    /// trees
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    pub(crate) repack: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Read and check every byte
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Fill the index anew from the packs themselves
    #[arg(long)]
    pub(crate) rebuild_index: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheVerb {
    /// Show what is on this node and what was read from where
    Stats,
    /// Evict what is least likely to be used again
    Prune(Prune),
    /// Check every content on this node and drop the bad ones
    Verify,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Prune {
    /// Evict all that is not in use
    #[arg(long)]
    pub(crate) all: bool,
    /// Evict until this much is left, such as 10G
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) to: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
