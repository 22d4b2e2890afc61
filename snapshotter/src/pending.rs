//! Snapshots that are answered for and not in the store yet, as they are kept on this node.
//!
//! ```text
//! ROOT/pending/objects/    a store of its own: the packs, copies of indexes and records on their way
//! ROOT/pending/snapshots/NUMBER    what is to become durable; numbers only grow
//!     BLAKE3 of the rest, hexadecimal | newline | JSON
//! ```
//! Order of writes: data packs, tree packs, record, entry, the answer. An entry is published, so it
//! is there wholly or not at all, and it survives a power loss, as do the objects, which were
//! before it. What no entry needs is on its way out.

use std::io;
use std::path::{Path, PathBuf};

use nacre_blobstore::{LocalStore, RecordId, StoreError, is_staging, publish_new, sync_directory};
use serde::{Deserialize, Serialize};

use crate::snapshot::{SnapshotError, sealed};

/// Entries that a node keeps at most.
pub(crate) const ENTRIES_MAX: usize = 1 << 16;
/// Largest entry that is read, in bytes.
const ENTRY_BYTES_MAX: u64 = 64 << 10;

/// A snapshot that is to become durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The id of its record.
    pub(crate) snapshot: String,
    /// The name that it is to have, its id without.
    pub(crate) name: Option<String>,
    /// The idempotency key that it was made with.
    pub(crate) key: Option<String>,
    /// When it was made, in milliseconds since 1970. Its name and key are its since then.
    pub(crate) created_ms: u64,
}

impl Entry {
    pub(crate) fn record(&self) -> Result<RecordId, SnapshotError> {
        let id = self.snapshot.parse();
        id.map_err(|_| SnapshotError::NotFound(self.snapshot.clone()))
    }
}

/// The folder of a node's pending snapshots.
#[derive(Debug, Clone)]
pub(crate) struct PendingFolder {
    entries: PathBuf,
}

impl PendingFolder {
    /// Opens the folder below the root of a node, and the store of what is staged there.
    pub(crate) fn open(root: &Path) -> Result<(Self, LocalStore), StoreError> {
        let folder = root.join("pending");
        let staged = staged_objects(root)?;
        let entries = folder.join("snapshots");
        // Makes the folder durable, as for any other store.
        LocalStore::open(&entries)?;
        Ok((Self { entries }, staged))
    }

    /// Returns all entries by their numbers. One that is damaged is told and passed over: the
    /// others must not wait for a person.
    pub(crate) fn read(&self) -> io::Result<Vec<(u64, Entry)>> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.entries)? {
            let file = file?;
            let name = file.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let (Some(number), false) = (number, is_staging(&name)) else {
                continue;
            };
            match read_entry(&file.path()) {
                Some(entry) => found.push((number, entry)),
                None => tracing::error!(number, "a pending snapshot cannot be read"),
            }
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found)
    }

    /// Writes an entry durably.
    pub(crate) fn write(&self, number: u64, entry: &Entry) -> io::Result<()> {
        let json = serde_json::to_vec(entry)?;
        publish_new(&self.path(number), &sealed::seal(&json))
    }

    /// Takes an entry away durably.
    pub(crate) fn remove(&self, number: u64) -> io::Result<()> {
        match std::fs::remove_file(self.path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.entries),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.entries.join(number.to_string())
    }
}

/// Tells whether any snapshot of a node waits to become durable.
pub fn has_pending(root: &Path) -> bool {
    let entries = std::fs::read_dir(root.join("pending/snapshots"));
    entries.is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| !is_staging(&e.file_name()))))
}

/// Opens the store of what a node has staged.
///
/// # Errors
/// [`StoreError`] when its directory can neither be found nor made.
pub fn staged_objects(root: &Path) -> Result<LocalStore, StoreError> {
    LocalStore::open(root.join("pending/objects"))
}

fn read_entry(path: &Path) -> Option<Entry> {
    let bounded = std::fs::metadata(path).is_ok_and(|found| found.len() <= ENTRY_BYTES_MAX);
    let bytes = bounded.then(|| std::fs::read(path).ok()).flatten()?;
    serde_json::from_slice(sealed::open(&bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            snapshot: nacre_blobstore::Digest::of(name.as_bytes()).to_string(),
            name: Some(name.to_owned()),
            key: None,
            created_ms: 7,
        }
    }

    #[test]
    fn entries_come_back_in_order_and_a_damaged_one_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_pending(root.path()));
        let (folder, _) = PendingFolder::open(root.path()).unwrap();
        assert!(!has_pending(root.path()));
        for number in [10, 9, 11] {
            folder.write(number, &entry(&number.to_string())).unwrap();
        }
        assert!(has_pending(root.path()));
        assert!(
            folder.write(9, &entry("other")).is_err(),
            "a number is used once"
        );
        let path = folder.path(10);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            for bytes in [&bad[..], &whole[..at]] {
                std::fs::write(&path, bytes).unwrap();
                let read = folder.read().unwrap();
                let numbers: Vec<_> = read.iter().map(|(number, _)| *number).collect();
                assert_eq!(numbers, [9, 11], "{at}");
            }
        }
        let first = folder.read().unwrap().remove(0);
        assert_eq!(first, (9, entry("9")));
        folder.remove(9).unwrap();
        folder.remove(9).unwrap();
        assert_eq!(folder.read().unwrap().len(), 1);
    }
}
