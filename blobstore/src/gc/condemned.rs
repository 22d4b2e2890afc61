//! Notes of what collection has condemned: which objects, since when, and whether it is deleting
//! them.
//!
//! ```text
//! condemned/NAME: envelope "COND": condemned u64 | doomed u64, 0 if not | count uvarint
//!                                  (kind u8, id)*                        sorted, at most 16,384
//! ```
//! Times are milliseconds since 1970 by the collector's clock. One note holds many objects, so that
//! a writer learns of all of them in few requests. A note is made by the collector; whoever takes
//! objects off it does so by compare-and-swap; nothing is ever added to one.

use std::collections::{BTreeSet, HashSet};

use futures::TryStreamExt;

use crate::envelope::{self, EnvelopeError};
use crate::metadata_image::METADATA_FOLDER;
use crate::pack::{PackKind, PackName};
use crate::record::RECORDS_FOLDER;
use crate::wire::{Put, Truncated, Wire};
use crate::{
    BlobStore, Digest, Key, MetadataImageId, PackId, Record, RecordId, StoreError, Version,
};

use super::GcError;
use super::moved::{Moves, moved_pack};

/// The folder of all notes.
pub(super) const CONDEMNED_FOLDER: &str = "condemned";
/// Most objects of one note.
pub(super) const NOTE_OBJECTS_MAX: usize = 1 << 14;
/// Largest note, in bytes.
const NOTE_BYTES_MAX: u64 = (NOTE_OBJECTS_MAX * (1 + Digest::LEN) + 256) as u64;

/// What kind of object is collected. In the order in which they are deleted: what names others
/// before what is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CollectedKind {
    /// A record.
    Record,
    /// A metadata image.
    MetadataImage,
    /// A pack of trees and chunk lists, with the copy of its index.
    TreePack,
    /// A pack of chunks, with the copy of its index.
    DataPack,
}

/// An object that collection may delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collected {
    /// What it is.
    pub kind: CollectedKind,
    /// Its id.
    pub id: Digest,
}

impl From<PackName> for Collected {
    fn from(name: PackName) -> Self {
        let kind = match name.kind {
            PackKind::Data => CollectedKind::DataPack,
            PackKind::Tree => CollectedKind::TreePack,
        };
        Self {
            kind,
            id: *name.id.digest(),
        }
    }
}

impl From<RecordId> for Collected {
    fn from(id: RecordId) -> Self {
        Self {
            kind: CollectedKind::Record,
            id: *id.digest(),
        }
    }
}

impl From<MetadataImageId> for Collected {
    fn from(id: MetadataImageId) -> Self {
        Self {
            kind: CollectedKind::MetadataImage,
            id: *id.digest(),
        }
    }
}

impl Collected {
    /// Returns everything that a record keeps, itself included.
    pub(super) fn of_record(id: RecordId, record: &Record, moves: &Moves) -> BTreeSet<Self> {
        let packs = moves.resolve(id, &record.packs);
        let packs = packs.into_iter().map(Self::from);
        let images = record.metadata_images.values().map(|id| Self::from(*id));
        packs.chain(images).chain([id.into()]).collect()
    }

    /// Reads the object off the key of any of its parts; `None` for other keys.
    pub(super) fn from_key(key: &Key) -> Option<Self> {
        if let Some(name) = PackName::from_key(key) {
            return Some(name.into());
        }
        let (folder, id) = key.as_str().rsplit_once('/')?;
        let kind = match folder {
            RECORDS_FOLDER => CollectedKind::Record,
            METADATA_FOLDER => CollectedKind::MetadataImage,
            _ => return None,
        };
        let id = id.parse().ok()?;
        Some(Self { kind, id })
    }

    /// Returns the keys of its parts, in the order in which they are deleted.
    pub(super) fn keys(&self) -> Vec<Key> {
        let pack = |kind| {
            let id = PackId::new(self.id);
            let name = PackName { kind, id };
            vec![name.index_key(), name.key()]
        };
        match self.kind {
            CollectedKind::Record => vec![RecordId::new(self.id).key()],
            CollectedKind::MetadataImage => vec![MetadataImageId::new(self.id).key()],
            CollectedKind::TreePack => pack(PackKind::Tree),
            CollectedKind::DataPack => pack(PackKind::Data),
        }
    }

    /// The folders in which there are such objects. Owned, as the compiler does not see that a
    /// future that holds an iterator of `&'static str` may be sent.
    pub(super) fn folders() -> Vec<String> {
        let packs = PackKind::ALL.map(|kind| [kind.index_folder(), kind.folder()]);
        let others = [RECORDS_FOLDER, METADATA_FOLDER];
        let all = others.iter().chain(packs.as_flattened());
        all.map(ToString::to_string).collect()
    }
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemned {
    /// When nothing reached these objects, in milliseconds since 1970.
    pub condemned_ms: u64,
    /// When a collector began to delete them.
    pub doomed_ms: Option<u64>,
    /// The objects.
    pub objects: BTreeSet<Collected>,
}

impl Condemned {
    /// Encodes the note.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(32 + self.objects.len() * (1 + Digest::LEN));
        body.put_u64(self.condemned_ms);
        body.put_u64(self.doomed_ms.unwrap_or(0));
        body.put_uvarint(self.objects.len() as u64);
        for object in &self.objects {
            body.put_u8(match object.kind {
                CollectedKind::Record => 1,
                CollectedKind::MetadataImage => 2,
                CollectedKind::TreePack => 3,
                CollectedKind::DataPack => 4,
            });
            body.put(object.id.as_bytes());
        }
        envelope::seal(*b"COND", &body).1
    }

    /// Decodes a note.
    ///
    /// # Errors
    /// [`EnvelopeError`] for damage, a later version or a broken limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (_, body) = envelope::open(*b"COND", bytes)?;
        let mut wire = Wire::new(body);
        let (condemned_ms, doomed_ms) = (wire.u64()?, wire.u64()?);
        let count = wire.count(1 + Digest::LEN)?;
        if count > NOTE_OBJECTS_MAX {
            return Err(EnvelopeError::Malformed("too many objects"));
        }
        let mut objects = BTreeSet::<Collected>::new();
        for _ in 0..count {
            let object = decode_object(&mut wire)?;
            if objects.last().is_some_and(|last| *last >= object) {
                return Err(EnvelopeError::Malformed(
                    "objects are not unique and sorted",
                ));
            }
            objects.insert(object);
        }
        wire.finish()?;
        Ok(Self {
            condemned_ms,
            doomed_ms: (doomed_ms != 0).then_some(doomed_ms),
            objects,
        })
    }
}

fn decode_object(wire: &mut Wire<'_>) -> Result<Collected, EnvelopeError> {
    let kind = match wire.u8()? {
        1 => CollectedKind::Record,
        2 => CollectedKind::MetadataImage,
        3 => CollectedKind::TreePack,
        4 => CollectedKind::DataPack,
        _ => return Err(Truncated("kind of an object").into()),
    };
    let id = Digest::from_bytes(wire.array()?);
    Ok(Collected { kind, id })
}

/// A note as it is stored.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) says: Condemned,
}

impl Note {
    /// Writes what the note says now, if nobody changed it meanwhile; tells whether that is so.
    pub(super) async fn replace(&mut self, store: &dyn BlobStore) -> Result<bool, StoreError> {
        let body = self.says.encode().into();
        match store.replace(&self.key, body, &self.version).await {
            Ok(version) => {
                self.version = version;
                Ok(true)
            }
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Makes a note. Its name is derived from what it says and from `run`, which tells runs apart, so
/// that no name is used twice.
pub(super) async fn write_note(
    store: &dyn BlobStore,
    says: &Condemned,
    run: u64,
) -> Result<(), StoreError> {
    let bytes = says.encode();
    let name = Digest::of(&[&bytes[..], &run.to_le_bytes()].concat()).to_string();
    let key = Key::new(format!("{CONDEMNED_FOLDER}/{}", &name[..32]))?;
    match store.create(&key, bytes.into()).await {
        // Our own, whose answer was lost.
        Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What one listing tells.
#[derive(Debug)]
pub(super) struct Noted {
    /// The notes, oldest first.
    pub(super) notes: Vec<Note>,
    /// The packs that have a note of what moved.
    pub(super) moved: BTreeSet<PackName>,
}

/// Reads all notes of what is condemned, oldest first.
pub(super) async fn read_notes(store: &dyn BlobStore) -> Result<Vec<Note>, GcError> {
    Ok(read_noted(store).await?.notes)
}

/// Reads all notes of what is condemned, and tells which packs moved.
pub(super) async fn read_noted(store: &dyn BlobStore) -> Result<Noted, GcError> {
    let mut objects = store.list(CONDEMNED_FOLDER);
    let mut notes = Vec::new();
    let mut moved = BTreeSet::new();
    while let Some(object) = objects.try_next().await? {
        if let Some(pack) = moved_pack(&object.key) {
            moved.insert(pack);
            continue;
        }
        let (bytes, version) = match store.get(&object.key, NOTE_BYTES_MAX).await {
            Ok(found) => found,
            Err(StoreError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let says = Condemned::decode(&bytes).map_err(|source| GcError::Envelope {
            key: object.key.clone(),
            source,
        })?;
        notes.push(Note {
            key: object.key,
            version,
            says,
        });
    }
    notes.sort_by(|a, b| (a.says.condemned_ms, &a.key).cmp(&(b.says.condemned_ms, &b.key)));
    Ok(Noted { notes, moved })
}

/// Returns the keys of all objects that are condemned, with all their parts.
pub(crate) async fn condemned_keys(store: &dyn BlobStore) -> Result<HashSet<String>, GcError> {
    let notes = read_notes(store).await?;
    let objects = notes.iter().flat_map(|note| &note.says.objects);
    let keys = objects.flat_map(Collected::keys);
    Ok(keys.map(|key| key.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Condemned {
        let object = |kind, byte| Collected {
            kind,
            id: Digest::of(&[byte]),
        };
        Condemned {
            condemned_ms: 5,
            doomed_ms: Some(7),
            objects: [
                object(CollectedKind::DataPack, 1),
                object(CollectedKind::Record, 2),
                object(CollectedKind::TreePack, 3),
                object(CollectedKind::MetadataImage, 4),
            ]
            .into(),
        }
    }

    #[test]
    fn round_trips_and_refuses_every_cut_and_flip() {
        for doomed_ms in [None, Some(7)] {
            let note = Condemned {
                doomed_ms,
                ..note()
            };
            let bytes = note.encode();
            assert_eq!(Condemned::decode(&bytes), Ok(note));
            for at in 0..bytes.len() {
                assert!(Condemned::decode(&bytes[..at]).is_err());
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert!(Condemned::decode(&bad).is_err());
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let digest = Digest::of(&note().encode()).to_string();
        assert_eq!(
            digest,
            "aeb820d5393e976fa060a9649e3cf05f165ee342d05ef331f33eb3afd149d71a"
        );
    }

    #[test]
    fn objects_out_of_order_of_an_unknown_kind_or_too_many_are_refused() {
        let decode = |objects: &[(u8, u8)]| {
            let mut body = vec![0; 16];
            body.put_uvarint(objects.len() as u64);
            for (kind, id) in objects {
                body.put_u8(*kind);
                body.put(&[*id; Digest::LEN]);
            }
            Condemned::decode(&envelope::seal(*b"COND", &body).1)
        };
        assert_eq!(decode(&[(1, 2), (4, 1)]).unwrap().objects.len(), 2);
        for bad in [
            &[(4, 1), (1, 2)][..],
            &[(1, 1), (1, 1)],
            &[(0, 1)],
            &[(5, 1)],
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        let many = vec![(1, 0); NOTE_OBJECTS_MAX + 1];
        let error = decode(&many).unwrap_err();
        assert_eq!(error, EnvelopeError::Malformed("too many objects"));
    }

    #[test]
    fn the_fullest_note_can_be_read() {
        let objects = (0..NOTE_OBJECTS_MAX).map(|n| Collected {
            kind: CollectedKind::DataPack,
            id: Digest::of(&n.to_le_bytes()),
        });
        let note = Condemned {
            objects: objects.collect(),
            ..note()
        };
        let bytes = note.encode();
        assert!(bytes.len() as u64 <= NOTE_BYTES_MAX);
        assert_eq!(Condemned::decode(&bytes), Ok(note));
    }

    #[test]
    fn objects_are_found_by_the_keys_of_all_their_parts() {
        for object in note().objects {
            for key in object.keys() {
                assert_eq!(Collected::from_key(&key), Some(object));
                let folder = key.as_str().rsplit_once('/').unwrap().0;
                assert!(Collected::folders().iter().any(|f| f == folder));
            }
        }
        for other in ["refs/images/a", "gc/epoch", "records/x", "leases/a"] {
            assert_eq!(Collected::from_key(&Key::new(other).unwrap()), None);
        }
    }
}
