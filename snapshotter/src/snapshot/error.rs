//! Why a snapshot is not made or not found.

use std::path::{Path, PathBuf};

use nacre_blobstore::{
    CatalogError, ChunkListError, EditError, GcError, IndexError, LeaseError, ReadError,
    RecordError, RefError, RefNameError, SecureError, StoreError, TreeError, WriteError,
};

use crate::layer::Fault;

/// Why a snapshot is not made, found or changed. What was stored before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No snapshot has this name or id.
    #[error("no snapshot is called {0:?}")]
    NotFound(String),
    /// No volume has this name.
    #[error("no volume is called {0:?}")]
    NoVolume(String),
    /// The volume has no version of this number.
    #[error("volume {volume:?} has no version {number}")]
    NoVersion {
        /// The volume.
        volume: String,
        /// The number.
        number: u64,
    },
    /// The name of a new volume is not free.
    #[error("{0:?} is the name of an image, a snapshot or a volume")]
    Taken(String),
    /// Others moved the head of a volume each time first, or made another one under its name.
    #[error("volume {0:?} was changed by others meanwhile")]
    Moved(String),
    /// The record is not one of a snapshot, or a damaged one.
    #[error("{0:?} is not a snapshot")]
    Kind(String),
    /// The file system refused.
    #[error("{verb} {path}: {source}")]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: std::io::Error,
    },
    /// Too many snapshots wait to be uploaded.
    #[error("{0} snapshots wait to become durable already")]
    Pending(usize),
    /// It is on the node and not to become durable.
    #[error("snapshot {snapshot} cannot become durable: {reason}")]
    Stuck {
        /// Its id.
        snapshot: String,
        /// Why not.
        reason: String,
    },
    /// The file was written each time that it was read.
    #[error("{0} changes while it is read")]
    Changed(PathBuf),
    /// The upper directory holds what overlayfs does not write, or what trees cannot hold.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory snapshot of something that is none.
    #[error("{0} is not a directory of the sandbox")]
    NotDirectory(String),
    /// The caller asked for something that is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The sandbox cannot be frozen.
    #[error("freeze cgroup {cgroup}: {reason}")]
    Freeze {
        /// The cgroup.
        cgroup: String,
        /// Why it could not be.
        reason: String,
    },
    /// What the snapshot relies on has gone from the store.
    #[error("{0} has gone from the store")]
    Missing(String),
    /// A tree of the base cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A directory cannot be stored.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A content has too many chunks.
    #[error(transparent)]
    ChunkList(#[from] ChunkListError),
    /// Packs could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store's packs could not be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lease was not had or was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// What it needs was collected, or is being.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The name was not given.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] RefNameError),
    /// The state of collection cannot be read.
    #[error(transparent)]
    Gc(#[from] GcError),
    /// A worker ended without a result.
    #[error("a worker ended early")]
    Stopped,
}

impl From<EditError> for SnapshotError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Read(error) => error.into(),
            EditError::Tree(error) => error.into(),
            EditError::NoDirectory(ref path)
            | EditError::NoName(ref path)
            | EditError::Contradiction { ref path, .. } => Self::Unsupported {
                path: path.to_string().into(),
                reason: error.to_string(),
            },
        }
    }
}

impl SnapshotError {
    /// Says at which entry of an upper directory something went wrong.
    pub(super) fn at(path: &Path) -> impl FnOnce(Fault) -> Self + '_ {
        move |fault| {
            let path = path.to_owned();
            match fault {
                Fault::Io(source) => Self::Io {
                    verb: "read",
                    path,
                    source,
                },
                Fault::Changed => Self::Changed(path),
                other => Self::Unsupported {
                    path,
                    reason: other.to_string(),
                },
            }
        }
    }
}
