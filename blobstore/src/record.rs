//! Records: the immutable roots of what is stored, which refs name.
//!
//! A record says which trees it keeps alive and which packs hold them with all their chunks, so
//! that collection and checking need not understand its payload (an image's manifest, say).
//!
//! ```text
//! envelope "RECD": kind u8 | tree count uvarint, tree id* | pack count uvarint, (kind u8, id)*
//!                  metadata image count uvarint, (tree id, id)* | payload bytes
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::envelope::{self, EnvelopeError};
use crate::pack::{PackKind, PackName};
use crate::wire::{Put, Truncated, Wire};
use crate::{BlobStore, Digest, Key, MetadataImageId, PackId, RecordId, StoreError, TreeId};

/// Largest record, in bytes.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;

/// What a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An OCI image.
    Image,
    /// A snapshot of a file system, directory or volume.
    Snapshot,
    /// What starts of a file system read: see [`Trace`](crate::Trace).
    Trace,
}

/// An immutable root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it describes.
    pub kind: RecordKind,
    /// The root trees that it keeps alive; the last one is the thing itself.
    pub trees: Vec<TreeId>,
    /// The packs that hold these trees and everything below them.
    pub packs: BTreeSet<PackName>,
    /// The metadata images of some of the trees.
    pub metadata_images: BTreeMap<TreeId, MetadataImageId>,
    /// What only the maker of the record understands.
    pub payload: Vec<u8>,
}

/// Why a record is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The envelope is damaged or of a later version.
    #[error("record {id}: {source}")]
    Envelope {
        /// The record.
        id: RecordId,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The bytes are those of another record.
    #[error("record {expected} holds another record")]
    Mismatch {
        /// The record asked for.
        expected: RecordId,
    },
    /// The body is not in the format.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// The store failed.
    #[error("read record: {0}")]
    Store(#[from] StoreError),
}

impl From<Truncated> for RecordError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

/// The folder of all records in a store.
pub(crate) const RECORDS_FOLDER: &str = "records";

impl RecordId {
    /// Returns the key of the record.
    pub fn key(&self) -> Key {
        Key::new(format!("{RECORDS_FOLDER}/{self}")).expect("hexadecimal digits make a key")
    }
}

impl Record {
    /// Encodes the record; its checksum is its id.
    pub fn encode(&self) -> (RecordId, Vec<u8>) {
        let mut body = Vec::with_capacity(self.payload.len() + 64);
        body.put_u8(match self.kind {
            RecordKind::Image => 1,
            RecordKind::Snapshot => 2,
            RecordKind::Trace => 3,
        });
        body.put_uvarint(self.trees.len() as u64);
        for tree in &self.trees {
            body.put(tree.as_bytes());
        }
        body.put_uvarint(self.packs.len() as u64);
        for pack in &self.packs {
            body.put_u8(match pack.kind {
                PackKind::Data => 1,
                PackKind::Tree => 2,
            });
            body.put(pack.id.as_bytes());
        }
        body.put_uvarint(self.metadata_images.len() as u64);
        for (tree, image) in &self.metadata_images {
            body.put(tree.as_bytes());
            body.put(image.as_bytes());
        }
        body.put_bytes(&self.payload);
        let (id, bytes) = envelope::seal(*b"RECD", &body);
        (RecordId::new(id), bytes)
    }

    /// Decodes the record that was read for `id`.
    ///
    /// # Errors
    /// [`RecordError`] for damage, another record or a broken limit.
    pub fn decode(id: RecordId, bytes: &[u8]) -> Result<Self, RecordError> {
        let opened = envelope::open(*b"RECD", bytes);
        let (found, body) = opened.map_err(|source| RecordError::Envelope { id, source })?;
        if !cfg!(fuzzing) && found != *id.digest() {
            return Err(RecordError::Mismatch { expected: id });
        }
        let mut wire = Wire::new(body);
        let kind = match wire.u8()? {
            1 => RecordKind::Image,
            2 => RecordKind::Snapshot,
            3 => RecordKind::Trace,
            _ => return Err(RecordError::Malformed("unknown kind of record")),
        };
        let mut trees = Vec::new();
        for _ in 0..wire.count(Digest::LEN)? {
            trees.push(TreeId::new(Digest::from_bytes(wire.array()?)));
        }
        let mut packs = BTreeSet::<PackName>::new();
        for _ in 0..wire.count(Digest::LEN + 1)? {
            let kind = match wire.u8()? {
                1 => PackKind::Data,
                2 => PackKind::Tree,
                _ => return Err(RecordError::Malformed("unknown kind of pack")),
            };
            let pack = PackName {
                kind,
                id: PackId::new(Digest::from_bytes(wire.array()?)),
            };
            if packs.last().is_some_and(|last| *last >= pack) {
                return Err(RecordError::Malformed("packs are not unique and sorted"));
            }
            packs.insert(pack);
        }
        let mut metadata_images = BTreeMap::<TreeId, MetadataImageId>::new();
        for _ in 0..wire.count(2 * Digest::LEN)? {
            let tree = TreeId::new(Digest::from_bytes(wire.array()?));
            let image = MetadataImageId::new(Digest::from_bytes(wire.array()?));
            let last = metadata_images.last_key_value();
            if last.is_some_and(|(last, _)| *last >= tree) {
                return Err(RecordError::Malformed(
                    "metadata images are not unique and sorted",
                ));
            }
            metadata_images.insert(tree, image);
        }
        let payload = wire.bytes(RECORD_BYTES_MAX)?.to_vec();
        wire.finish()?;
        Ok(Self {
            kind,
            trees,
            packs,
            metadata_images,
            payload,
        })
    }

    /// Reads a record from a store.
    ///
    /// # Errors
    /// [`RecordError`]; [`StoreError::NotFound`] inside when it is not there.
    pub async fn read(store: &dyn BlobStore, id: RecordId) -> Result<Self, RecordError> {
        let (bytes, _) = store.get(&id.key(), RECORD_BYTES_MAX as u64).await?;
        Self::decode(id, &bytes)
    }

    /// Writes the record. All its packs must be durable.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&self, store: &dyn BlobStore) -> Result<RecordId, StoreError> {
        let (id, bytes) = self.encode();
        store.put(&id.key(), bytes.into()).await?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_every_cut_and_another_id() {
        let digest = |byte| Digest::of(&[byte]);
        let record = Record {
            kind: RecordKind::Image,
            trees: vec![TreeId::new(digest(1)), TreeId::new(digest(2))],
            packs: PackKind::ALL
                .map(|kind| PackName {
                    kind,
                    id: PackId::new(digest(3)),
                })
                .into(),
            metadata_images: [(TreeId::new(digest(2)), MetadataImageId::new(digest(4)))].into(),
            payload: b"payload".to_vec(),
        };
        let (id, bytes) = record.encode();
        assert_eq!(Record::decode(id, &bytes).unwrap(), record);
        for end in 0..bytes.len() {
            assert!(Record::decode(id, &bytes[..end]).is_err());
        }
        let other = RecordId::new(digest(9));
        let error = Record::decode(other, &bytes).unwrap_err();
        assert!(matches!(error, RecordError::Mismatch { .. }));
    }

    #[test]
    fn packs_in_another_order_or_twice_are_refused() {
        let decode = |packs: [u8; 2]| {
            let mut body = vec![1, 0, 2];
            for pack in packs {
                body.put_u8(1);
                body.put(&[pack; Digest::LEN]);
            }
            body.put(&[0]);
            body.put_bytes(b"");
            let (id, bytes) = envelope::seal(*b"RECD", &body);
            Record::decode(RecordId::new(id), &bytes)
        };
        assert_eq!(decode([1, 2]).unwrap().packs.len(), 2);
        for packs in [[2, 1], [1, 1]] {
            assert!(
                matches!(decode(packs), Err(RecordError::Malformed(_))),
                "{packs:?}"
            );
        }
    }
}
