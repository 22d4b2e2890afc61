//! Content-addressed storage over an object store: chunks, packs, trees, refs and leases.
//!
//! Knows no kernel and no OCI. `docs/FORMAT.md` describes every byte that is written here.

mod catalog;
mod chunk;
mod chunk_list;
mod chunker;
mod clock;
mod content_named;
mod crash;
mod digest;
mod envelope;
mod frame;
mod fsck;
mod gc;
mod hints;
mod index;
mod kept;
mod lease;
mod metadata_image;
mod pack;
mod pack_loader;
mod publish;
mod reader;
mod record;
mod refs;
mod source;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod tree;
mod wire;
mod writer;

pub use catalog::{CatalogError, load_packs, rebuild_index, sync_index};
pub use chunk::{CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, Chunk, ChunkMismatch};
pub use chunk_list::{CHUNK_LIST_BYTES_MAX, ChunkExtent, ChunkList, ChunkListError};
pub use chunker::{Chunked, Chunker};
pub use clock::{Clock, SystemClock};
pub use content_named::{is_content_named, never_changes, verify_content_named};
pub use crash::{CrashHook, CrashPoint};
pub use digest::{
    ChunkId, ContentId, Digest, DigestError, MetadataImageId, PackId, RecordId, TreeId,
};
pub use envelope::EnvelopeError;
pub use frame::{
    FRAME_BYTES_MAX, FRAME_BYTES_TARGET, Frame, FrameEntry, FrameError, FrameItem, decompress,
};
pub use fsck::{FsckError, FsckOptions, FsckReport, fsck};
pub use gc::{
    Collected, CollectedKind, Condemned, Epoch, Expiry, GC_HOLD, GcError, GcOptions, GcProgress,
    GcReport, Moved, REPACK_BYTES_MAX, REPACK_SHARE_PERCENT, RootUsage, SECURED_FOR, SecureError,
    Secured, Usage, gc, read_epoch, resolve_packs, secure, usage,
};
pub use hints::{
    ContentHint, HINTED_CONTENTS_MAX, HINTS_BYTES_MAX, Hinted, Hints, HintsError, HintsWalk,
};
pub use index::{ChunkIndex, IndexError, Location};
pub use kept::{KeptError, KeptItems};
pub use lease::{LEASE_TTL, Lease, LeaseError, LeaseRecord, list_leases};
pub use metadata_image::{
    METADATA_IMAGE_BYTES_MAX, MetadataImage, MetadataImageError, encode_metadata_image,
    fetch_metadata_image,
};
pub use pack::{Item, ItemKind, PackIndex, PackIndexError, PackKind, PackName};
pub use pack_loader::{AWAITED_PACKS_MAX, MoreUrgent, PackLoader};
pub use publish::{is_staging, publish, publish_file, publish_new, reap_staging, sync_directory};
pub use reader::{
    Prefetched, READ_WAIT_MAX, ReadError, Reader, ReaderOptions, ReaderStats, Suspended, TierStats,
};
pub use record::{Record, RecordError, RecordKind};
pub use refs::{
    CHAINS_NAMESPACE, Ref, RefError, RefName, RefNameError, delete_ref, list_refs, read_ref,
    write_ref,
};
pub use source::{ChunkSource, Origin, RegionWriter, Tier, UnverifiedBytes};
pub use store::{
    BlobStore, CONCURRENT_REQUESTS_MAX, DelayStore, HomeStore, JournalStore, Key, LimitStore,
    LocalStore, ObjectBackend, ObjectInfo, RetryPolicy, RetryStore, SpanStore, StagedStore,
    StoreError, StoreOptions, StoreUrl, StoreUrlError, Version, check as check_store, in_span,
    open as open_store, origin_get, range_text, span_number,
};
pub use trace::{
    StoredTrace, TRACE_ENTRIES_MAX, Trace, TraceEntry, TraceError, Traced, read_trace, trace_ref,
};
pub use tree::{
    Attributes, Device, Diff, Difference, Edit, EditError, EditedTree, Entry, GraftLinks, HardLink,
    Merge, Modified, NAME_BYTES_MAX, Node, Operation, TARGET_BYTES_MAX, TREE_BYTES_MAX,
    TREE_PATH_BYTES_MAX, Timestamp, Tree, TreeError, TreePath, TreePathError, TreeReader,
    XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, Xattr, apply_differences,
    edit_tree, merge_trees, read_entry, read_root, tree_at,
};
pub use writer::{Affinity, ItemStream, PackWriter, WriteError, WriteStats, WriterOptions};
