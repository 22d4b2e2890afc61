//! A snapshot as it is kept in memory and in the index.
//!
//! ```text
//! "NSN1" | JSON | BLAKE3 of all before
//! ```

use std::collections::BTreeMap;

use nacre_blobstore::{Digest, RecordId, TreeId};
use serde::{Deserialize, Serialize};

use super::labels::Labels;
use super::shown::Shown;

const MAGIC: &[u8; 4] = b"NSN1";

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Shows its parent, and takes no writes.
    View,
    /// Takes writes over its parent.
    Active,
    /// A parent of others; nobody writes to it any more.
    Committed,
}

impl Kind {
    /// Returns the name that filters know.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// The file system up to and with a layer that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RemoteLayer {
    /// The image that has it.
    pub(super) image: RecordId,
    /// The root tree.
    pub(super) tree: TreeId,
}

/// Space that a snapshot takes, its parents not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Its key while it is a view or active, its name once it is committed: one key space.
    pub(super) name: String,
    /// The number of its directory; never given to another one.
    pub(super) number: u64,
    /// The name of its parent; empty without one.
    pub(super) parent: String,
    pub(super) kind: Kind,
    /// In nanoseconds since 1970.
    pub(super) created_ns: u64,
    pub(super) updated_ns: u64,
    pub(super) labels: Labels,
    /// Of one that is committed, once it was measured.
    pub(super) usage: Option<Usage>,
    /// Of one that is served from the store: it has no directory.
    pub(super) remote: Option<RemoteLayer>,
    /// What is shown in the container that an active one is of.
    pub(super) shown: Vec<Shown>,
}

/// The JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    number: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    parent: String,
    kind: Kind,
    created_ns: u64,
    updated_ns: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shown: Vec<StoredShown>,
}

/// A tree that is shown, in the JSON.
#[derive(Debug, Serialize, Deserialize)]
struct StoredShown {
    path: String,
    image: String,
    tree: String,
}

impl Snapshot {
    /// Encodes all but the name, which is the key in the index.
    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            number: self.number,
            parent: self.parent.clone(),
            kind: self.kind,
            created_ns: self.created_ns,
            updated_ns: self.updated_ns,
            labels: self.labels.clone(),
            usage: self.usage,
            image: self.remote.map(|remote| remote.image.to_string()),
            tree: self.remote.map(|remote| remote.tree.to_string()),
            shown: self.shown.iter().map(StoredShown::of).collect(),
        };
        let mut bytes = MAGIC.to_vec();
        let json = serde_json::to_vec(&stored).expect("strings and numbers become JSON");
        bytes.extend(json);
        let digest = Digest::of(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// Decodes the snapshot called `name`; `None` for what [`encode`](Self::encode) did not write.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<{ Digest::LEN }>()?;
        if Digest::of(body).as_bytes() != digest {
            return None;
        }
        let stored: Stored = serde_json::from_slice(body.strip_prefix(MAGIC)?).ok()?;
        let remote = match (stored.image, stored.tree) {
            (None, None) => None,
            (Some(image), Some(tree)) => Some(RemoteLayer {
                image: image.parse().ok()?,
                tree: tree.parse().ok()?,
            }),
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            number: stored.number,
            parent: stored.parent,
            kind: stored.kind,
            created_ns: stored.created_ns,
            updated_ns: stored.updated_ns,
            labels: stored.labels,
            usage: stored.usage,
            remote,
            shown: stored
                .shown
                .into_iter()
                .map(StoredShown::shown)
                .collect::<Option<_>>()?,
        })
    }
}

impl StoredShown {
    fn of(shown: &Shown) -> Self {
        Self {
            path: shown.path.clone(),
            image: shown.layer.image.to_string(),
            tree: shown.layer.tree.to_string(),
        }
    }

    fn shown(self) -> Option<Shown> {
        let layer = RemoteLayer {
            image: self.image.parse().ok()?,
            tree: self.tree.parse().ok()?,
        };
        let path = self.path;
        Some(Shown { path, layer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_every_damage() {
        let digest = Digest::of(b"x");
        let snapshot = Snapshot {
            name: "default/1/extract-1 sha256:f304".to_owned(),
            number: u64::MAX,
            parent: "p".to_owned(),
            kind: Kind::Active,
            created_ns: 1_700_000_000_123_456_789,
            updated_ns: 2,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            usage: Some(Usage {
                bytes: 1,
                inodes: 2,
            }),
            remote: Some(RemoteLayer {
                image: RecordId::new(digest),
                tree: TreeId::new(digest),
            }),
            shown: vec![Shown {
                path: "/data".to_owned(),
                layer: RemoteLayer {
                    image: RecordId::new(Digest::of(b"y")),
                    tree: TreeId::new(digest),
                },
            }],
        };
        let bytes = snapshot.encode();
        assert_eq!(
            Snapshot::decode(&snapshot.name, &bytes),
            Some(snapshot.clone())
        );
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Snapshot::decode(&snapshot.name, &bad), None);
            assert_eq!(Snapshot::decode(&snapshot.name, &bytes[..at]), None);
        }
        let plain = Snapshot {
            remote: None,
            shown: Vec::new(),
            usage: None,
            parent: String::new(),
            ..snapshot
        };
        assert_eq!(Snapshot::decode(&plain.name, &plain.encode()), Some(plain));
    }
}
