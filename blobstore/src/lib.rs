//! Content-addressed storage over an object store: chunks, packs, trees, refs and leases.
//!
//! Knows no kernel and no OCI. `docs/FORMAT.md` describes every byte that is written here.

mod chunk;
mod clock;
mod digest;
mod pack;
mod reader;
mod source;
mod store;
mod tree;
mod wire;

pub use chunk::{
    CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk, ChunkExtent, ChunkList,
    ChunkMismatch,
};
pub use clock::{Clock, SystemClock};
pub use digest::{ChunkId, ContentId, Digest, DigestError, PackId, RecordId, TreeId};
pub use pack::{PackKind, PackName};
pub use reader::{ReadError, Reader};
pub use source::{ChunkSource, Origin, Tier, UnverifiedBytes};
pub use store::{BlobStore, Key, ObjectInfo, StoreError, Version};
pub use tree::{
    Attributes, Device, Entry, HardLink, NAME_BYTES_MAX, Node, TARGET_BYTES_MAX, TREE_BYTES_MAX,
    Timestamp, Tree, TreeError, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
    Xattr,
};
