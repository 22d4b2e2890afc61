//! Lazily served file systems: the FUSE mount, the node cache, overlay mounts.
//!
//! [`View`] is the file system as plain values, [`ContentMount`] its FUSE mount, [`NodeCache`]
//! the node's disk tier between them and the [`ContentReader`].

mod access;
mod content_reader;
pub mod erofs;
mod error;
mod fuse;
mod kernel_mode;
mod look_again;
mod metadata_mounts;
pub mod mount;
mod node_cache;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod view;

pub use access::{Access, AccessObserver, Accessed};
pub use content_reader::ContentReader;
pub use error::FsError;
pub use fuse::{ContentMount, ContentSession, KeeperError, KeeperOptions, SessionError, keep};
pub use kernel_mode::probe_kernel_mode;
pub use look_again::LookAgain;
pub use metadata_mounts::{MetadataMountError, MetadataMounts};
pub use node_cache::{
    NodeCache, NodeCacheCheck, NodeCacheError, NodeCacheOptions, NodeCachePrune, NodeCacheStats,
    NodeCacheUsage, Placed,
};
pub use view::{
    Attr, DirectoryEntry, Flavor, IMMUTABLE_VALID, InodeLogError, Kind, Lookup, ROOT_INO, Statfs,
    Taken, View,
};
