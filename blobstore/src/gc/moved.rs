//! Where the items of packs are that were mostly garbage: repacking copies what is needed of them
//! into new packs, and leaves a note.
//!
//! ```text
//! condemned/moved/KIND/PACK: envelope "MOVD": record count uvarint, record id*
//!                                             pack count uvarint, (kind u8, id)*      both sorted
//! ```
//! For the records that a note lists, its packs hold all that they need of PACK: they need these
//! instead. Records are immutable, so that stays right; any other record needs PACK itself. For
//! readers who only know PACK a note is a hint where else to look, also when it lists no record any
//! more.
//!
//! The notes are in the folder of those of what is condemned, so that one listing tells a writer of
//! both. Only the collector writes them. A record is taken off when it is deleted, as it may be
//! stored anew by somebody who needs PACK; a note goes when it lists no record and its packs are
//! gone.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;

use super::GcError;
use super::condemned::CONDEMNED_FOLDER;
use crate::envelope::{self, EnvelopeError};
use crate::wire::{Put, Wire};
use crate::{
    BlobStore, Digest, Key, PackId, PackKind, PackName, Record, RecordId, StoreError, Version,
};

/// Records that a note lists at most.
pub(super) const MOVED_RECORDS_MAX: usize = 1 << 15;
/// Packs that a note lists at most.
pub(super) const MOVED_PACKS_MAX: usize = 64;
/// Notes that a store may have.
const NOTES_MAX: usize = 1 << 16;
const MOVED_BYTES_MAX: u64 =
    (MOVED_RECORDS_MAX * Digest::LEN + MOVED_PACKS_MAX * (1 + Digest::LEN) + 256) as u64;

/// What a note says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// The records that need `packs` instead.
    pub records: BTreeSet<RecordId>,
    /// Packs with what these records need.
    pub packs: BTreeSet<PackName>,
}

impl Moved {
    /// Encodes the note.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_uvarint(self.records.len() as u64);
        for record in &self.records {
            body.put(record.as_bytes());
        }
        body.put_uvarint(self.packs.len() as u64);
        for pack in &self.packs {
            body.put_u8(match pack.kind {
                PackKind::Data => 1,
                PackKind::Tree => 2,
            });
            body.put(pack.id.as_bytes());
        }
        envelope::seal(*b"MOVD", &body).1
    }

    /// Decodes a note.
    ///
    /// # Errors
    /// [`EnvelopeError`] for damage, a later version or a broken limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (_, body) = envelope::open(*b"MOVD", bytes)?;
        let mut wire = Wire::new(body);
        let unsorted = EnvelopeError::Malformed("not unique and sorted");
        let mut moved = Self::default();
        let count = wire.count(Digest::LEN)?;
        if count > MOVED_RECORDS_MAX {
            return Err(EnvelopeError::Malformed("too many records"));
        }
        for _ in 0..count {
            let record = RecordId::new(Digest::from_bytes(wire.array()?));
            if moved.records.last().is_some_and(|last| *last >= record) {
                return Err(unsorted);
            }
            moved.records.insert(record);
        }
        let count = wire.count(1 + Digest::LEN)?;
        if count > MOVED_PACKS_MAX {
            return Err(EnvelopeError::Malformed("too many packs"));
        }
        for _ in 0..count {
            let kind = match wire.u8()? {
                1 => PackKind::Data,
                2 => PackKind::Tree,
                _ => return Err(EnvelopeError::Malformed("kind of a pack")),
            };
            let id = PackId::new(Digest::from_bytes(wire.array()?));
            let pack = PackName { kind, id };
            if moved.packs.last().is_some_and(|last| *last >= pack) {
                return Err(unsorted);
            }
            moved.packs.insert(pack);
        }
        wire.finish()?;
        Ok(moved)
    }
}

/// Returns the key of the note of a pack.
pub(super) fn moved_key(pack: PackName) -> Key {
    let key = format!(
        "{CONDEMNED_FOLDER}/moved/{}/{}",
        pack.kind.folder(),
        pack.id
    );
    Key::new(key).expect("hexadecimal digits make a key")
}

/// Reads the pack off the key of its note; `None` for other keys.
pub(super) fn moved_pack(key: &Key) -> Option<PackName> {
    let rest = key.as_str().strip_prefix(CONDEMNED_FOLDER)?;
    let rest = rest.strip_prefix("/moved/")?;
    let pack = PackName::from_key(&Key::new(rest).ok()?)?;
    (moved_key(pack) == *key).then_some(pack)
}

/// Reads the note of a pack, if it has one.
pub(super) async fn read_moved(
    store: &dyn BlobStore,
    pack: PackName,
) -> Result<Option<(Moved, Version)>, GcError> {
    let key = moved_key(pack);
    let (bytes, version) = match store.get(&key, MOVED_BYTES_MAX).await {
        Err(StoreError::NotFound(_)) => return Ok(None),
        got => got?,
    };
    let moved = Moved::decode(&bytes).map_err(|source| GcError::Envelope { key, source })?;
    Ok(Some((moved, version)))
}

/// Returns the packs to look in for what was in a pack that is gone; `None` when nothing is known.
///
/// # Errors
/// [`GcError`] when the store fails or the note is damaged.
pub(crate) async fn successors(
    store: &dyn BlobStore,
    pack: PackName,
) -> Result<Option<BTreeSet<PackName>>, GcError> {
    let found = read_moved(store, pack).await?;
    Ok(found.map(|(moved, _)| moved.packs))
}

/// Returns the packs that a stored record needs: those that it lists, or what these were repacked
/// into. Costs a listing and a request for each of them that was.
///
/// # Errors
/// [`GcError`] when the store fails or a note is damaged.
pub async fn resolve_packs(
    store: &dyn BlobStore,
    id: RecordId,
    record: &Record,
) -> Result<BTreeSet<PackName>, GcError> {
    let noted = list(store).await?;
    let moves = Moves::read_for(store, &noted, &record.packs).await?;
    Ok(moves.resolve(id, &record.packs))
}

async fn list(store: &dyn BlobStore) -> Result<BTreeSet<PackName>, GcError> {
    let folder = format!("{CONDEMNED_FOLDER}/moved");
    let mut objects = store.list(&folder);
    let mut packs = BTreeSet::new();
    while let Some(object) = objects.try_next().await? {
        packs.extend(moved_pack(&object.key));
        if packs.len() > NOTES_MAX {
            return Err(GcError::TooMany(NOTES_MAX));
        }
    }
    Ok(packs)
}

/// Notes of a store.
#[derive(Debug, Default)]
pub(crate) struct Moves(pub(super) BTreeMap<PackName, (Moved, Version)>);

impl Moves {
    /// Reads all.
    pub(crate) async fn read(store: &dyn BlobStore) -> Result<Self, GcError> {
        let mut moves = Self::default();
        for pack in list(store).await? {
            if let Some(found) = read_moved(store, pack).await? {
                moves.0.insert(pack, found);
            }
        }
        Ok(moves)
    }

    /// Reads those of the `noted` ones that say where `packs` are.
    pub(super) async fn read_for(
        store: &dyn BlobStore,
        noted: &BTreeSet<PackName>,
        packs: &BTreeSet<PackName>,
    ) -> Result<Self, GcError> {
        let mut moves = Self::default();
        let mut wanted: Vec<PackName> = packs.intersection(noted).copied().collect();
        while let Some(pack) = wanted.pop() {
            if moves.0.contains_key(&pack) {
                continue;
            }
            if let Some((moved, version)) = read_moved(store, pack).await? {
                wanted.extend(moved.packs.intersection(noted));
                moves.0.insert(pack, (moved, version));
            }
        }
        Ok(moves)
    }

    /// Returns what a record needs that lists `packs`.
    pub(crate) fn resolve(
        &self,
        record: RecordId,
        packs: &BTreeSet<PackName>,
    ) -> BTreeSet<PackName> {
        let mut needed = BTreeSet::new();
        let mut met = BTreeSet::new();
        let mut way = BTreeSet::new();
        let mut steps: Vec<Step> = packs.iter().copied().map(Step::Into).collect();
        while let Some(step) = steps.pop() {
            let pack = match step {
                Step::Into(pack) => pack,
                Step::Out(pack) => {
                    way.remove(&pack);
                    continue;
                }
            };
            let moved = self.0.get(&pack).map(|(moved, _)| moved);
            match moved.filter(|moved| moved.records.contains(&record)) {
                // What leads back to itself is needed: rather too much than too little.
                Some(_) if way.contains(&pack) => drop(needed.insert(pack)),
                Some(_) if !met.insert(pack) => {}
                Some(moved) => {
                    way.insert(pack);
                    steps.push(Step::Out(pack));
                    steps.extend(moved.packs.iter().copied().map(Step::Into));
                }
                None => drop(needed.insert(pack)),
            }
        }
        needed
    }
}

/// A step of a walk along notes, depth first.
enum Step {
    Into(PackName),
    Out(PackName),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(kind: PackKind, byte: u8) -> PackName {
        let id = PackId::new(Digest::of(&[byte]));
        PackName { kind, id }
    }

    fn note() -> Moved {
        let record = |byte: u8| RecordId::new(Digest::of(&[byte]));
        Moved {
            records: [record(1), record(2)].into(),
            packs: PackKind::ALL.map(|kind| pack(kind, 3)).into(),
        }
    }

    #[test]
    fn round_trips_and_refuses_every_cut_and_flip() {
        for moved in [note(), Moved::default()] {
            let bytes = moved.encode();
            assert_eq!(Moved::decode(&bytes), Ok(moved));
            for at in 0..bytes.len() {
                assert!(Moved::decode(&bytes[..at]).is_err());
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert!(Moved::decode(&bad).is_err());
            }
        }
    }

    #[test]
    fn what_is_unsorted_or_too_many_is_refused_and_the_fullest_note_can_be_read() {
        let decode = |records: &[u8], packs: &[u8]| {
            let mut body = Vec::new();
            body.put_uvarint(records.len() as u64);
            records.iter().for_each(|r| body.put(&[*r; Digest::LEN]));
            body.put_uvarint(packs.len() as u64);
            packs
                .iter()
                .for_each(|p| body.put(&[1; 1 + Digest::LEN].map(|b: u8| b.min(*p))));
            Moved::decode(&envelope::seal(*b"MOVD", &body).1)
        };
        assert!(decode(&[1, 2], &[1]).is_ok());
        for (records, packs) in [
            (&[2, 1][..], &[1][..]),
            (&[1, 1], &[1]),
            (&[1], &[1, 1]),
            (&[1], &[0]),
        ] {
            assert!(decode(records, packs).is_err(), "{records:?} {packs:?}");
        }
        let fullest = Moved {
            records: (0..MOVED_RECORDS_MAX)
                .map(|n| RecordId::new(Digest::of(&n.to_le_bytes())))
                .collect(),
            packs: (0..64).map(|n| pack(PackKind::Data, n)).collect(),
        };
        assert_eq!(fullest.packs.len(), MOVED_PACKS_MAX);
        let bytes = fullest.encode();
        assert!(bytes.len() as u64 <= MOVED_BYTES_MAX);
        assert_eq!(Moved::decode(&bytes), Ok(fullest));
    }

    #[test]
    fn only_listed_records_follow_and_circles_end() {
        let [a, b, c] = [1, 2, 3].map(|byte| pack(PackKind::Data, byte));
        let [old, new] = [1, 2].map(|byte: u8| RecordId::new(Digest::of(&[byte])));
        let to = |packs: &[PackName]| {
            let moved = Moved {
                records: [old].into(),
                packs: packs.iter().copied().collect(),
            };
            (moved, Version(String::new()))
        };
        let mut moves = Moves::default();
        moves.0.insert(a, to(&[b]));
        moves.0.insert(b, to(&[c]));
        assert_eq!(moves.resolve(old, &[a].into()), [c].into());
        assert_eq!(moves.resolve(new, &[a].into()), [a].into());
        moves.0.insert(c, to(&[a]));
        assert_eq!(moves.resolve(old, &[a].into()), [a].into());
        moves.0.insert(a, to(&[]));
        assert_eq!(moves.resolve(old, &[a, b].into()), [].into());
    }

    #[test]
    fn keys_and_packs_are_one_to_one() {
        for kind in PackKind::ALL {
            let pack = pack(kind, 1);
            assert_eq!(moved_pack(&moved_key(pack)), Some(pack));
            assert_eq!(moved_pack(&pack.key()), None);
            assert_eq!(moved_pack(&pack.index_key()), None);
        }
    }

    #[test]
    fn golden_bytes() {
        let digest = Digest::of(&note().encode()).to_string();
        assert_eq!(
            digest,
            "70d31b02b0a3a27749b9b0375a4b75214086288f05396a985bb2db2eb9865332"
        );
    }
}
