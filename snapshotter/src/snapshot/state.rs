//! What the last commit of a sandbox learned of its files.
//!
//! ```text
//! BLAKE3 of the rest, hexadecimal | newline | JSON
//! ```
//! A cache in the sandbox's directory: without it, or when it is damaged, the next commit reads all
//! files again. A file is known again by inode, size and ctime, which no sandbox can set back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use nacre_blobstore::{ChunkId, Chunked, ContentId, Timestamp};
use serde::{Deserialize, Serialize};

use super::sealed;

/// Largest state that is read, in bytes: some millions of files.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// Names a version of a file's bytes in one upper directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    pub(crate) ctime: Timestamp,
}

/// What a commit remembers for the next.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last snapshot of each path that snapshots were made of; `/` is the whole.
    pub(super) parents: BTreeMap<String, String>,
    /// Contents of files.
    pub(super) files: HashMap<Fingerprint, Chunked>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// The root tree below the upper directory.
    base: String,
    parents: BTreeMap<String, String>,
    files: Vec<StoredFile>,
}

/// Inode, size, seconds and nanoseconds of the ctime, content, chunks.
type StoredFile = (u64, u64, i64, u32, String, Vec<(String, u32)>);

impl State {
    /// Reads the state at `path`; an empty one when there is none that is right and of `base`.
    pub(super) fn read(path: &Path, base: &str) -> Self {
        let bounded = std::fs::metadata(path).is_ok_and(|m| m.len() <= STATE_BYTES_MAX);
        let Some(bytes) = bounded.then(|| std::fs::read(path).ok()).flatten() else {
            return Self::default();
        };
        Self::decode(&bytes, base).unwrap_or_else(|| {
            tracing::info!(path = %path.display(), "read all files again");
            Self::default()
        })
    }

    fn decode(bytes: &[u8], base: &str) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(sealed::open(bytes)?).ok()?;
        if stored.base != base {
            return None;
        }
        let file = |(inode, size_bytes, seconds, nanoseconds, content, chunks): StoredFile| {
            let fingerprint = Fingerprint {
                inode,
                size_bytes,
                ctime: Timestamp {
                    seconds,
                    nanoseconds,
                },
            };
            let content: ContentId = content.parse().ok()?;
            let chunks = if chunks.is_empty() && size_bytes > 0 {
                let len = u32::try_from(size_bytes).ok()?;
                vec![(ChunkId::new(*content.digest()), len)]
            } else {
                let chunk = |(id, len): (String, u32)| Some((id.parse().ok()?, len));
                chunks.into_iter().map(chunk).collect::<Option<_>>()?
            };
            let chunked = Chunked {
                content,
                size_bytes,
                chunks,
            };
            Some((fingerprint, chunked))
        };
        Some(Self {
            parents: stored.parents,
            files: stored.files.into_iter().map(file).collect::<Option<_>>()?,
        })
    }

    fn encode(&self, base: &str) -> Vec<u8> {
        let file = |(fingerprint, chunked): (&Fingerprint, &Chunked)| {
            let several = chunked.chunks.len() > 1;
            let chunks = chunked.chunks.iter().filter(|_| several);
            (
                fingerprint.inode,
                fingerprint.size_bytes,
                fingerprint.ctime.seconds,
                fingerprint.ctime.nanoseconds,
                chunked.content.to_string(),
                chunks.map(|(id, len)| (id.to_string(), *len)).collect(),
            )
        };
        let stored = Stored {
            base: base.to_owned(),
            parents: self.parents.clone(),
            files: self.files.iter().map(file).collect(),
        };
        sealed::seal(&serde_json::to_vec(&stored).unwrap_or_default())
    }

    /// Writes the state to `path`. One that is not written only costs the next commit time.
    pub(super) fn write(&self, path: &Path, base: &str) {
        if let Err(error) = std::fs::write(path, self.encode(base)) {
            tracing::warn!(path = %path.display(), %error, "forget what a commit learned");
        }
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Digest;

    use super::*;

    fn state() -> State {
        let content = ContentId::new(Digest::of(b"whole"));
        let fingerprint = |inode, size_bytes| Fingerprint {
            inode,
            size_bytes,
            ctime: Timestamp {
                seconds: -3,
                nanoseconds: 7,
            },
        };
        let chunked = |size_bytes, chunks| Chunked {
            content,
            size_bytes,
            chunks,
        };
        let id = |name: &[u8]| ChunkId::new(Digest::of(name));
        State {
            parents: [("/".to_owned(), "p".to_owned())].into(),
            files: [
                (fingerprint(1, 0), chunked(0, Vec::new())),
                (fingerprint(2, 5), chunked(5, vec![(id(b"whole"), 5)])),
                (
                    fingerprint(3, 9),
                    chunked(9, vec![(id(b"a"), 4), (id(b"b"), 5)]),
                ),
            ]
            .into(),
        }
    }

    #[test]
    fn round_trips_and_believes_nothing_that_is_damaged_or_of_another_base() {
        let bytes = state().encode("base");
        let read = State::decode(&bytes, "base").unwrap();
        assert_eq!(read.parents, state().parents);
        assert_eq!(read.files, state().files);
        assert!(State::decode(&bytes, "other").is_none());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(State::decode(&bad, "base").is_none(), "{at}");
            assert!(State::decode(&bytes[..at], "base").is_none(), "{at}");
        }
    }

    #[test]
    fn a_state_that_is_not_there_is_empty() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        assert!(State::read(&path, "base").files.is_empty());
        state().write(&path, "base");
        assert_eq!(State::read(&path, "base").files, state().files);
    }
}
