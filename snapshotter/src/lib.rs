//! Images: OCI sources, layers, ingest and the node daemon.

mod chains;
mod containerd;
mod daemon;
mod export;
mod hints;
mod image;
mod ingest;
pub mod layer;
mod merge;
pub mod oci;
mod patch;
mod pending;
mod snapshot;
mod trace;
mod volume;

pub use chains::{ChainsError, relink_chains};
pub use containerd::{
    ContainerError, ContainerdError, ContainerdOptions, ContainerdStats, FoundContainer,
    LazyPolicy, RegisterError, Registration, register_image, serve_containerd,
};
pub use daemon::{
    CacheCheck, CachePrune, CacheStats, Change, Client, ClientError, CommitVolume, CommittedVolume,
    CreateSnapshot, CreatedSnapshot, DiffLine, DiffLines, DiffRequest, DiffSummary, FinishedTrace,
    KERNEL_MODE_REASON, MountMode, Node, NodeError, NodeInfo, NodeOptions, OpenedImage,
    OpenedVolume, PENDING_BYTES_MAX, PendingSnapshot, PrimedRegion, Refusal, Rung, ServeError,
    TierCount, serve,
};
pub use export::{Export, ExportError, ExportOptions, Exported};
pub use image::{IMAGES_NAMESPACE, Image, ImageError, ImageLayer, ImagePayload, image_ref};
pub use ingest::{AddSource, AddedImage, Ingest, IngestError, NoProgress, Progress};
pub use merge::MergeError;
pub use patch::quote_path;
pub use pending::{has_pending, staged_objects};
pub use snapshot::{
    SNAPSHOT_KEYS_NAMESPACE, SNAPSHOTS_NAMESPACE, Snapshot, SnapshotError, SnapshotKind,
    SnapshotPayload, VolumePayload, is_expired, snapshot_ref,
};
pub use trace::{OptimizeError, content_paths, import_trace, optimize_image};
pub use volume::{VOLUMES_NAMESPACE, Volume, volume_ref};
