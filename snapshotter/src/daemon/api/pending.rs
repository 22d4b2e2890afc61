//! What is said of snapshots on their way to the store.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How safe a snapshot is; each rung is above the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// On the disk of the node that made it, and usable there.
    Local,
    /// With two members of the region's cache.
    Region,
    /// In the object store, with its name: any node can use it.
    #[default]
    Durable,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Region => "region",
            Self::Durable => "durable",
        })
    }
}

/// A snapshot that is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSnapshot {
    /// The id of its record.
    pub snapshot: String,
    /// The name that it is to have.
    pub name: Option<String>,
    /// How safe it is now.
    pub durability: Rung,
    /// Bytes of its packs that are still to be uploaded.
    pub bytes: u64,
    /// Uploads that failed.
    pub attempts: u32,
    /// Why it is not durable, if anything is in the way.
    pub error: Option<String>,
    /// Whether it cannot become durable unless a person repairs the store.
    pub failed: bool,
}

/// `POST /v1/snapshots/wait`: wait until a pending snapshot is safe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct WaitRequest {
    /// Name or id.
    pub(in super::super) snapshot: String,
    /// How safe.
    pub(in super::super) rung: Rung,
}

/// `POST /v1/snapshots/cancel`: drop pending snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct CancelRequest {
    /// Name or id.
    pub(in super::super) snapshot: String,
}
