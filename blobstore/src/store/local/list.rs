//! Listing the objects of a local store, a folder at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};

use super::{Key, ObjectInfo, StoreError};
use crate::publish::{is_staging, reap_staging};

/// Lists the objects below the folder `prefix` of the store in `root`.
///
/// Holds the entries of one folder and the names of the folders still to be read, never all
/// objects.
pub(super) fn list(
    root: &Path,
    prefix: &str,
) -> impl Stream<Item = Result<ObjectInfo, StoreError>> + Send + use<> {
    let folders = vec![prefix.to_owned()];
    stream::try_unfold(
        (root.to_owned(), folders),
        |(root, mut folders)| async move {
            let Some(folder) = folders.pop() else {
                return Ok(None);
            };
            let target = folder.clone();
            let read = tokio::task::spawn_blocking(move || {
                let objects = read_folder(&root, &folder, &mut folders)?;
                Ok::<_, io::Error>((objects, (root, folders)))
            });
            match read.await.map_err(io::Error::other).flatten() {
                Ok((objects, state)) => Ok(Some((stream::iter(objects).map(Ok), state))),
                Err(error) => Err(StoreError::unavailable("list", target, error)),
            }
        },
    )
    .try_flatten()
}

/// Returns the objects of one folder and adds its sub-folders to `folders`.
fn read_folder(
    root: &Path,
    folder: &str,
    folders: &mut Vec<String>,
) -> io::Result<Vec<ObjectInfo>> {
    let directory: PathBuf = root.join(folder);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if super::is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut objects = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if is_staging(&name) {
            sweep(&entry.path());
            continue;
        }
        let key = match name.to_str() {
            Some(name) if folder.is_empty() => Key::new(name),
            Some(name) => Key::new(format!("{folder}/{name}")),
            None => continue,
        };
        let Ok(key) = key else { continue };
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            folders.push(key.to_string());
        } else if metadata.is_file() {
            let since = metadata
                .modified()?
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let modified_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            objects.push(ObjectInfo {
                key,
                size_bytes: metadata.len(),
                modified_ms,
            });
        }
    }
    Ok(objects)
}

/// Removes a staging file whose writer is dead. Listing does not depend on it.
fn sweep(path: &Path) {
    if let Err(error) = reap_staging(path) {
        tracing::debug!(path = %path.display(), %error, "staging file stays behind");
    }
}
