//! What is said over the control API.

mod pending;

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nacre_fs::mount::Lower;
use nacre_region_cache::RegionStats;
use serde::{Deserialize, Serialize};

pub(super) use pending::{CancelRequest, WaitRequest};
pub use pending::{PendingSnapshot, Rung};

/// `POST /v1/images/open`: make an image readable below the mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenRequest {
    /// Name or id.
    pub(super) image: String,
    /// How it is to be served; without, the kernel's way where that works.
    pub(super) mode: Option<MountMode>,
}

/// Who answers for names and attributes of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    /// The kernel, from a metadata image; the daemon only for data that is missing.
    Kernel,
    /// The daemon, by FUSE.
    Fuse,
}

/// An image that is readable on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenedImage {
    /// The id of its record.
    pub image: String,
    /// Its root tree.
    pub tree: String,
    /// Its OCI config.
    pub config: String,
    /// How [`lower`](Self::lower) is served.
    pub mode: MountMode,
    /// Where its tree is served by FUSE, with all its attributes.
    pub view: PathBuf,
    /// The lower side of an overlay that shows it; the image's own overlay attributes are escaped.
    pub lower: Lower,
    /// Which version of a volume it is, when it was asked for by a volume's name.
    #[serde(default)]
    pub volume: Option<OpenedVolume>,
}

/// A version of a volume that is readable on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedVolume {
    /// The volume's id.
    pub id: String,
    /// The number of the version.
    pub version: u64,
}

/// `GET /v1/info`: what the daemon is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Version of nacre.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The store that it reads.
    pub store: String,
    /// Where the content is mounted.
    pub mount: PathBuf,
    /// How trees are served unless someone wants it otherwise.
    pub mount_mode: MountMode,
    /// Why.
    pub mount_mode_reason: String,
    /// Metadata images that are mounted.
    pub metadata_mounts: usize,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Inodes that the kernel knows of the mount.
    pub inodes: usize,
    /// Packs whose index is known.
    pub packs: usize,
    /// Packs whose index is on its way, or was not to be had when it was last asked for.
    #[serde(default)]
    pub packs_awaited: usize,
}

/// Reads and bytes from one tier.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct TierCount {
    /// Reads.
    pub reads: u64,
    /// Bytes.
    pub bytes: u64,
}

/// `GET /v1/cache/stats`: where reads were served from since the daemon started.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct CacheStats {
    /// Reads that the kernel's page cache answered: not visible from here, always 0.
    pub page_cache_unknown: TierCount,
    /// Reads answered from the node's disk.
    pub node: TierCount,
    /// Requests to the region's cache for frames; bytes as stored.
    pub region: TierCount,
    /// Requests to the object store for frames; bytes as stored.
    pub origin: TierCount,
    /// Frames that did not match their hash.
    pub corrupt: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Median wait of reads that were fetched for.
    pub waits_ms_p50: f64,
    /// 99th percentile of these.
    pub waits_ms_p99: f64,
    /// Plain bytes given to the kernel.
    pub bytes_read_by_sandbox: u64,
    /// Bytes fetched, as stored.
    pub bytes_fetched: u64,
    /// Contents on the disk, partial and unchecked ones included.
    pub contents: u64,
    /// Bytes of those, as the disk counts them.
    pub bytes: u64,
    /// Whether what was there when the daemon started is counted in these.
    pub counted: bool,
    /// Bytes that may be on the disk.
    pub quota: u64,
    /// The same at present: less than `quota` after the disk was full.
    pub quota_in_force: u64,
    /// Contents that may be on the disk.
    pub quota_files: u64,
    /// Contents that were evicted.
    pub evicted: u64,
    /// Bytes of those. Files that sandboxes have open take theirs until they are closed.
    pub evicted_bytes: u64,
    /// Contents and chunks that the disk did not take, so only served.
    pub unstored: u64,
    /// Contents that were checked for rot in the background.
    pub rechecked: u64,
    /// Contents that proved bad on the disk, and were dropped.
    pub rotten: u64,
    /// What the client of the region's cache did, on a node that has one.
    #[serde(default)]
    pub region_cache: Option<RegionStats>,
}

/// `POST /v1/cache/verify`: check a part of the cache.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct VerifyRequest {
    /// First byte of the ids to check.
    pub(super) shard: u8,
}

/// What was checked of the cache.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CacheCheck {
    /// Complete contents that were checked.
    pub checked: u64,
    /// Those that were bad, and are dropped; and the trees of metadata images that were.
    pub corrupt: Vec<String>,
}

/// `POST /v1/cache/prune`: evict a part of what is above a size.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct PruneRequest {
    /// Bytes that may stay.
    pub(super) to_bytes: u64,
}

/// What was evicted from the cache.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct CachePrune {
    /// Contents.
    pub contents: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Whether asking again would evict nothing more.
    pub done: bool,
}

/// `POST /v1/region/prime`: fill the region's cache with what starts of an image read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PrimeRequest {
    /// Name or id.
    pub(super) image: String,
    /// Whether all of the image is wanted.
    pub(super) all: bool,
}

/// What the region has now, as far as it was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrimedRegion {
    /// The id of the image's record.
    pub image: String,
    /// Requests to members.
    pub requests: u64,
    /// Bytes that they answered with.
    pub bytes: u64,
    /// Requests that no member answered.
    pub failed: u64,
    /// Whether a start of the image was recorded: without, none of its files' contents were asked
    /// for, unless all was.
    pub traced: bool,
    /// How long it took.
    pub seconds: f64,
}

/// The body of every answer that is not 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// What went wrong.
    pub error: String,
    /// The exit code that a command should end with because of it.
    pub code: u8,
}

/// `POST /v1/traces/finish`: end the recording of a start and store it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FinishTraceRequest {
    /// The root tree.
    pub(super) tree: String,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FinishedTrace {
    /// Whether the start read anything that the trace did not have.
    pub news: bool,
}

/// `POST /v1/containerd/find`: find what a container wrote.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FindContainerRequest {
    /// `NAMESPACE/ID`.
    pub(super) container: String,
}

/// `POST /v1/snapshots/create`: make a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateSnapshot {
    /// The sandbox, for people.
    pub sandbox: String,
    /// Its upper directory.
    pub upper: PathBuf,
    /// The file in which what was learned of it is kept for the next snapshot.
    pub state: PathBuf,
    /// The id of the record that it was started from.
    pub started_from: String,
    /// The root tree below it, where that is another one than that record's.
    #[serde(default)]
    pub tree: Option<String>,
    /// The cgroup of its processes, if any live.
    pub cgroup: Option<String>,
    /// The directory to make a snapshot of: `/` for all.
    pub path: String,
    /// The name of the snapshot.
    pub name: Option<String>,
    /// After how many milliseconds it may be collected; never without.
    pub ttl_ms: Option<u64>,
    /// The result of the first creation with this key is that of all.
    pub key: Option<String>,
    /// Patterns of changed paths to leave out.
    pub excludes: Vec<String>,
    /// Labels of the snapshot.
    pub labels: BTreeMap<String, String>,
    /// How safe it must be when this is answered.
    #[serde(default)]
    pub wait: Rung,
}

/// A snapshot that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedSnapshot {
    /// The id of its record.
    pub snapshot: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its root tree.
    pub tree: String,
    /// The snapshot, or image, that it was made after.
    pub parent: String,
    /// The image at the start of the line.
    pub base: String,
    /// Whether its tree is that of its parent.
    pub unchanged: bool,
    /// Names that the sandbox's start did not have.
    pub added: u64,
    /// Names that stand for something else, or have other attributes.
    pub modified: u64,
    /// Names that are gone.
    pub removed: u64,
    /// Bytes of files among those.
    pub bytes_changed: u64,
    /// Bytes written to the store, or staged for it.
    pub bytes_uploaded: u64,
    /// How long the sandbox stood still.
    pub frozen_ms: f64,
    /// Large files that were cloned while it did, for they had changed just before.
    #[serde(default)]
    pub cloned: u64,
    /// How long it took.
    pub total_ms: f64,
    /// How safe it is by now.
    pub durability: Rung,
    /// Paths that were left out because they cannot be kept: sockets.
    pub skipped: Vec<String>,
}

/// `POST /v1/trees/diff`: compare two trees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffRequest {
    /// A name, with `:/PATH` for what is at a path.
    pub before: String,
    /// The same.
    pub after: String,
    /// Whether only the summary is wanted.
    pub stat: bool,
    /// Whether files are to be compared as text.
    pub patch: bool,
}

/// One line of what comes of it. The last one is a summary or an error; none comes after.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum DiffLine {
    /// Only the second tree has it.
    Added(Change),
    /// Both have it, and not the same.
    Modified(Change),
    /// Only the first tree has it.
    Removed(Change),
    /// That was all.
    Summary(DiffSummary),
    /// It could not be finished.
    Error(Refusal),
}

/// A path at which two trees differ.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// The path, absolute. Bytes that are no UTF-8 are shown as U+FFFD.
    pub path: String,
    /// The bytes of the path in base64, where `path` cannot show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What is there in the second tree, or else was in the first.
    pub kind: String,
    /// Bytes of the file that is new or gone; 0 when only attributes changed.
    pub bytes: u64,
    /// What is not the same, where both have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// The change as git shows it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
}

impl Change {
    /// Returns the bytes of the path.
    pub fn path_bytes(&self) -> Vec<u8> {
        let bytes = self.path_base64.as_ref();
        let bytes = bytes.and_then(|text| STANDARD.decode(text).ok());
        bytes.unwrap_or_else(|| self.path.clone().into_bytes())
    }
}

/// How much differs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct DiffSummary {
    /// Paths that only the second tree has.
    pub added: u64,
    /// Paths that both have, and not the same.
    pub modified: u64,
    /// Paths that only the first tree has.
    pub removed: u64,
    /// Bytes of files among those that were added.
    pub bytes_added: u64,
    /// Bytes of files whose content changed, as they are in the second tree.
    pub bytes_modified: u64,
    /// Bytes of files among those that were removed.
    pub bytes_removed: u64,
    /// How long it took.
    pub total_ms: f64,
}

/// `POST /v1/volumes/create`: make a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CreateVolumeRequest {
    /// Its name.
    pub(super) volume: String,
    /// The image, snapshot or volume whose file system it starts with; nothing without.
    pub(super) from: Option<String>,
}

/// `POST /v1/volumes/commit`: make what was written to a mount of a volume its next version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitVolume {
    /// The name of the volume.
    pub volume: String,
    /// The id of the volume that is mounted.
    pub id: String,
    /// The number of the version that is mounted, or was committed last.
    pub version: u64,
    /// The id of its record.
    pub record: String,
    /// The root tree that was mounted, or was there when it was committed last.
    pub tree: String,
    /// Tells the mount from all others, on any node.
    pub mount: String,
    /// The sandbox, for people.
    pub sandbox: String,
    /// Its overlay upper directory.
    pub upper: PathBuf,
    /// The file in which what is learned of `upper` is kept.
    pub state: PathBuf,
    /// The record that is mounted below `upper`.
    pub lower: String,
    /// The cgroup of the sandbox's processes, if any live.
    pub cgroup: Option<String>,
    /// Merges with what others committed since, if no path was changed by both.
    pub merge: bool,
    /// Only tells whether anything was written.
    pub dry_run: bool,
}

/// What came of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommittedVolume {
    /// The name of the volume.
    pub volume: String,
    /// The id of the head's record.
    pub head: String,
    /// The number of the head's version.
    pub head_version: u64,
    /// The number of the version that has what is mounted: the new one, or the one before when
    /// nothing was committed.
    pub version: u64,
    /// The id of that version's record.
    pub record: String,
    /// The root tree of what is mounted, as of that version.
    pub mounted_tree: String,
    /// Whether it is committed, or was before.
    pub committed: bool,
    /// Whether nothing was written since the last commit.
    pub unchanged: bool,
    /// Whether what others committed was merged in.
    pub merged: bool,
    /// The paths that both sides changed, not to the same, and nothing below these; 10,000 at most.
    pub conflict: Vec<String>,
    /// Names that the version which was mounted did not have.
    pub added: u64,
    /// Names that stand for something else there, or have other attributes.
    pub modified: u64,
    /// Names of it that are gone.
    pub removed: u64,
    /// Bytes of files among those.
    pub bytes_changed: u64,
    /// Bytes written to the store.
    pub bytes_uploaded: u64,
    /// How long the sandbox stood still.
    pub frozen_ms: f64,
    /// How long it took.
    pub total_ms: f64,
    /// Paths that were left out because they cannot be kept: sockets.
    pub skipped: Vec<String>,
}
