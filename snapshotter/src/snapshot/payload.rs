//! What the record of a snapshot says of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::SnapshotError;

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// A whole file system.
    Filesystem,
    /// The directory at a path.
    Directory,
    /// A version of a volume.
    Volume,
}

/// Which version of which volume a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePayload {
    /// The volume's id: 16 random hexadecimal digits.
    pub id: String,
    /// The number of the version, from 1 up.
    pub number: u64,
    /// The mount that it was committed from, if it was.
    pub mount: Option<String>,
}

/// What a snapshot's record holds beside its tree and packs, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPayload {
    /// What it is of.
    pub kind: SnapshotKind,
    /// The path that is its root: `/` of a whole file system.
    pub path: String,
    /// The record that it was made after: the sandbox's last snapshot of this path, else what the
    /// sandbox was started from. It may be gone by now.
    pub parent: String,
    /// The record of the image at the start of the line. It may be gone by now.
    pub base: String,
    /// The sandbox that it was made of, for people.
    pub sandbox: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it may be collected, in milliseconds since 1970; never without.
    pub expires_ms: Option<u64>,
    /// The idempotency key that it was made with.
    pub key: Option<String>,
    /// What its maker says of it.
    pub labels: BTreeMap<String, String>,
    /// The OCI config of the image, byte for byte.
    pub config: String,
    /// Bytes of files that differ from the base.
    pub bytes_changed: u64,
    /// Of a version of a volume, which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumePayload>,
}

impl SnapshotPayload {
    /// Encodes the payload.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// Decodes the payload of the snapshot called `name`.
    ///
    /// # Errors
    /// [`SnapshotError::Kind`] for what is none.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, SnapshotError> {
        serde_json::from_slice(bytes).map_err(|_| SnapshotError::Kind(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_every_cut() {
        let payload = SnapshotPayload {
            kind: SnapshotKind::Directory,
            path: "/a".to_owned(),
            parent: "p".to_owned(),
            base: "b".to_owned(),
            sandbox: "s".to_owned(),
            created_ms: 1,
            expires_ms: None,
            key: Some("k".to_owned()),
            labels: [("l".to_owned(), "v".to_owned())].into(),
            config: "{}".to_owned(),
            bytes_changed: 7,
            volume: Some(VolumePayload {
                id: "i".to_owned(),
                number: 3,
                mount: None,
            }),
        };
        let bytes = payload.encode();
        assert_eq!(SnapshotPayload::decode("x", &bytes).unwrap(), payload);
        for end in 0..bytes.len() {
            let cut = SnapshotPayload::decode("x", &bytes[..end]);
            assert!(matches!(cut, Err(SnapshotError::Kind(_))));
        }
    }
}
