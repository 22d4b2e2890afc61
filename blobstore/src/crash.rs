//! The moments at which a test may kill a writer, to show that a store survives it.

use std::fmt;
use std::sync::Arc;

/// A named moment in a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// A pack is complete and about to be written.
    PackPutBefore,
    /// A pack is in the store, the copy of its index is not.
    PackPutAfter,
    /// A pack and the copy of its index are in the store, the local index does not know.
    IndexPutAfter,
    /// All data packs are in the store, no tree is.
    DataFinished,
    /// All trees are in the store, their metadata image is not.
    TreesFinished,
    /// The metadata image is in the store, the record is not.
    MetadataPutAfter,
    /// The record is in the store, no ref names it.
    RecordPutAfter,
    /// A volume: its head has a ref as a version, too, and has not moved on.
    VersionKept,
    /// The ref is changed; the lease is still held.
    RefChanged,
    /// A snapshot is staged and noted as pending, and nobody was told.
    PendingNoted,
    /// The upload of a pending snapshot: one more object of a pack is in the store.
    UploadObjectPut,
    /// All its packs and its record are in the store.
    UploadRecordPut,
    /// Its key names it in the store, its name does not.
    UploadKeyClaimed,
    /// Its name is in the store, and it is still noted as pending.
    UploadNamed,
    /// It is noted no more, and what was staged is still there.
    PendingForgotten,
    /// Collection: objects are on a note of what is condemned.
    GcCondemned,
    /// Collection: notes say that what is on them is about to be deleted.
    GcDoomed,
    /// Collection: what is deleted is decided, nothing is deleted.
    GcMarked,
    /// Collection: one more object, or one of its two parts, is deleted.
    GcObjectDeleted,
    /// Collection: all that was on a note is deleted, and the note.
    GcNoteDeleted,
    /// Collection: what is needed of mostly empty packs is in a new one, and nothing says so.
    RepackPut,
    /// Collection: a note says where what was needed of a pack is.
    RepackMoved,
    /// Collection: such a note has lost records that are about to be deleted.
    RepackForgotten,
    /// Collection: all that was due is deleted, nothing new is condemned.
    GcSwept,
}

impl CrashPoint {
    /// All points of an ingest, in the order in which it passes them.
    pub const ALL: [Self; 8] = [
        Self::PackPutBefore,
        Self::PackPutAfter,
        Self::IndexPutAfter,
        Self::DataFinished,
        Self::TreesFinished,
        Self::MetadataPutAfter,
        Self::RecordPutAfter,
        Self::RefChanged,
    ];

    /// All points of a snapshot that is pending, after it was staged.
    pub const PENDING: [Self; 6] = [
        Self::PendingNoted,
        Self::UploadObjectPut,
        Self::UploadRecordPut,
        Self::UploadKeyClaimed,
        Self::UploadNamed,
        Self::PendingForgotten,
    ];

    /// All points of a collection.
    pub const COLLECTION: [Self; 9] = [
        Self::GcCondemned,
        Self::GcDoomed,
        Self::GcMarked,
        Self::GcObjectDeleted,
        Self::GcNoteDeleted,
        Self::GcSwept,
        Self::RepackPut,
        Self::RepackMoved,
        Self::RepackForgotten,
    ];

    /// Returns the point's name, as a test gives it on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PackPutBefore => "pack-put-before",
            Self::PackPutAfter => "pack-put-after",
            Self::IndexPutAfter => "index-put-after",
            Self::DataFinished => "data-finished",
            Self::TreesFinished => "trees-finished",
            Self::MetadataPutAfter => "metadata-put-after",
            Self::RecordPutAfter => "record-put-after",
            Self::VersionKept => "version-kept",
            Self::RefChanged => "ref-changed",
            Self::PendingNoted => "pending-noted",
            Self::UploadObjectPut => "upload-object-put",
            Self::UploadRecordPut => "upload-record-put",
            Self::UploadKeyClaimed => "upload-key-claimed",
            Self::UploadNamed => "upload-named",
            Self::PendingForgotten => "pending-forgotten",
            Self::GcCondemned => "gc-condemned",
            Self::GcDoomed => "gc-doomed",
            Self::GcMarked => "gc-marked",
            Self::GcObjectDeleted => "gc-object-deleted",
            Self::GcNoteDeleted => "gc-note-deleted",
            Self::GcSwept => "gc-swept",
            Self::RepackPut => "repack-put",
            Self::RepackMoved => "repack-moved",
            Self::RepackForgotten => "repack-forgotten",
        }
    }
}

/// What to do at each [`CrashPoint`]: nothing, outside of tests.
#[derive(Clone, Default)]
pub struct CrashHook(Option<Arc<dyn Fn(CrashPoint) + Send + Sync>>);

impl CrashHook {
    /// Calls `hook` at every point.
    pub fn new(hook: impl Fn(CrashPoint) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Says that `point` is reached.
    pub fn reach(&self, point: CrashPoint) {
        if let Some(hook) = &self.0 {
            hook(point);
        }
    }
}

impl fmt::Debug for CrashHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashHook(set: {})", self.0.is_some())
    }
}
