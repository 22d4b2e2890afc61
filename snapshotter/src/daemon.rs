//! The node daemon: one process, one FUSE mount, all images of a node.
//!
//! [`Node`] holds the index of the packs that this node's images need, the reader over the tiers,
//! the node cache and the mount. It is driven through the control API: HTTP with JSON on a unix
//! socket, described by `docs/openapi.yaml`. Mounting images elsewhere and running sandboxes is up
//! to the callers, who find the trees below the mount.

mod api;
mod cache;
mod client;
mod diff;
mod kept_trees;
mod mountable;
mod named;
mod node;
mod open;
mod pending;
mod prime;
mod server;
mod snapshot;
mod stored_hints;
mod upkeep;
mod volume;

pub use api::{
    CacheCheck, CachePrune, CacheStats, Change, CommitVolume, CommittedVolume, CreateSnapshot,
    CreatedSnapshot, DiffLine, DiffRequest, DiffSummary, FinishedTrace, MountMode, NodeInfo,
    OpenedImage, OpenedVolume, PendingSnapshot, PrimedRegion, Refusal, Rung, TierCount,
};
pub use client::{Client, ClientError, DiffLines};
pub(crate) use mountable::Mountable;
pub use node::{KERNEL_MODE_REASON, Node, NodeError, NodeOptions};
pub use pending::PENDING_BYTES_MAX;
pub use server::{ServeError, serve};
