//! What may be asked for.

use nacre_blobstore::RecordId;

use super::super::api::CreateSnapshot;
use crate::snapshot::{SnapshotError, snapshot_ref};

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Most bytes of labels.
const LABELS_BYTES_MAX: usize = 64 << 10;
/// Longest path of a directory snapshot, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// Refuses what no snapshot can be made of.
pub(super) fn check(request: &CreateSnapshot) -> Result<(), SnapshotError> {
    let invalid = |reason: &str| Err(SnapshotError::Invalid(reason.to_owned()));
    let path_ok = request.path.len() <= PATH_BYTES_MAX
        && request.path.starts_with('/')
        && !request
            .path
            .split('/')
            .any(|part| matches!(part, "." | ".."));
    if !path_ok {
        return invalid("the path is not absolute, or has `.` or `..` in it");
    }
    if request
        .key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX)
    {
        return invalid("the key is empty or longer than 1024 bytes");
    }
    let label_bytes = |(key, value): (&String, &String)| key.len() + value.len();
    if request.labels.iter().map(label_bytes).sum::<usize>() > LABELS_BYTES_MAX {
        return invalid("the labels are longer than 64 KiB");
    }
    if request
        .name
        .as_ref()
        .is_some_and(|name| name.parse::<RecordId>().is_ok())
    {
        return invalid("the name looks like an id");
    }
    if let Some(name) = &request.name {
        snapshot_ref(name)?;
    }
    Ok(())
}
