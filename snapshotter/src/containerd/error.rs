//! What is answered instead of a result. The code is the whole contract: containerd maps it to its
//! own error and decides by that alone.

use tonic::{Code, Status};

/// Why a request is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum SnapshotsError {
    /// No snapshot has the key or name.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// The key or name is taken.
    #[error("snapshot {0:?} already exists")]
    Exists(String),
    /// The request can never be right.
    #[error("{0}")]
    Invalid(String),
    /// The request is not right for the state that the snapshot is in.
    #[error("{0}")]
    Precondition(String),
    /// A limit is reached, or the disk is full.
    #[error("{0}")]
    Exhausted(String),
    /// What is needed is not to be had now.
    #[error("{0}")]
    Unavailable(String),
    /// The snapshot's own record is damaged.
    #[error("the record of snapshot {0:?} is damaged; it can only be removed")]
    Damaged(String),
    /// The disk, the kernel or the metadata refused.
    #[error("{0}")]
    Internal(String),
}

impl SnapshotsError {
    /// Makes an error of one that the disk had.
    pub(super) fn disk(what: &str, error: &std::io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Exhausted(text)
            }
            _ => Self::Internal(text),
        }
    }
}

impl From<SnapshotsError> for Status {
    fn from(error: SnapshotsError) -> Self {
        let code = match &error {
            SnapshotsError::NotFound(_) => Code::NotFound,
            SnapshotsError::Exists(_) => Code::AlreadyExists,
            SnapshotsError::Invalid(_) => Code::InvalidArgument,
            SnapshotsError::Precondition(_) => Code::FailedPrecondition,
            SnapshotsError::Unavailable(_) => Code::Unavailable,
            // containerd knows no more codes; what follows is for people.
            SnapshotsError::Exhausted(_) => Code::ResourceExhausted,
            SnapshotsError::Damaged(_) => Code::DataLoss,
            SnapshotsError::Internal(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
