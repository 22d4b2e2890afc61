//! The inode table: which number stands for what, and how often the kernel was told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::place::{InodeKey, Place};

/// Inode numbers below this are the mount's own directories and never in the table.
pub(crate) const RESERVED_INOS: u64 = 1024;

/// The inodes that the kernel knows. A number stays with its inode until the kernel forgot it as
/// often as it was told of it; its size is therefore bounded by the kernel's inode cache.
#[derive(Debug, Default)]
pub(crate) struct InodeTable {
    inodes: Mutex<HashMap<u64, Record, BuildHasherDefault<InoHasher>>>,
}

#[derive(Debug)]
struct Record {
    place: Place,
    lookups: u64,
}

impl InodeTable {
    /// Returns what `ino` stands for.
    pub(crate) fn get(&self, ino: u64) -> Option<Place> {
        self.lock().get(&ino).map(|record| record.place.clone())
    }

    /// Counts one more lookup of the inode named `key`, made by `make` with its number if it is
    /// not in the table.
    pub(crate) fn refer(&self, key: InodeKey, make: impl FnOnce(u64) -> Place) -> (u64, Place) {
        let mut inodes = self.lock();
        let mut ino = key.preferred_ino();
        loop {
            ino = if ino < RESERVED_INOS {
                ino + RESERVED_INOS
            } else {
                ino
            };
            match inodes.entry(ino) {
                Entry::Vacant(vacant) => {
                    let place = make(ino);
                    vacant.insert(Record {
                        place: place.clone(),
                        lookups: 1,
                    });
                    return (ino, place);
                }
                Entry::Occupied(mut taken) if taken.get().place.key() == key => {
                    taken.get_mut().lookups += 1;
                    return (ino, taken.get().place.clone());
                }
                Entry::Occupied(_) => ino = ino.wrapping_add(1),
            }
        }
    }

    /// Takes back `count` lookups; the inode leaves the table when none is left.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let mut inodes = self.lock();
        // What is dropped may be a whole directory: let that happen outside the lock.
        let gone = match inodes.entry(ino) {
            Entry::Occupied(mut record) => {
                let left = record.get().lookups.saturating_sub(count);
                record.get_mut().lookups = left;
                (left == 0).then(|| record.remove())
            }
            Entry::Vacant(_) => None,
        };
        drop(inodes);
        drop(gone);
    }

    /// Returns how many inodes the kernel knows.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Record, BuildHasherDefault<InoHasher>>> {
        // No code can panic between two changes of the map that belong together.
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Inode numbers are hashes already.
#[derive(Debug, Default)]
struct InoHasher(u64);

impl Hasher for InoHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::{ContentId, Digest};

    use super::*;

    fn content(text: &str) -> (InodeKey, Place) {
        let content = ContentId::new(Digest::of(text.as_bytes()));
        (
            InodeKey::Content(content),
            Place::Content {
                content,
                size_bytes: 1,
            },
        )
    }

    #[test]
    fn an_inode_lives_until_it_is_forgotten_as_often_as_it_was_looked_up() {
        let table = InodeTable::default();
        let (key, place) = content("a");
        let (ino, _) = table.refer(key, |_| place.clone());
        assert_eq!(table.refer(key, |_| place.clone()).0, ino);
        table.forget(ino, 1);
        assert_eq!(table.get(ino).unwrap().key(), key);
        table.forget(ino, 1);
        assert!(table.get(ino).is_none());
        assert_eq!(table.refer(key, |_| place).0, ino, "the number comes back");
        table.forget(ino, u64::MAX);
        table.forget(ino, 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_number_that_is_taken_is_not_shared() {
        let table = InodeTable::default();
        let (key, place) = content("a");
        let taken = key.preferred_ino();
        let (other, other_place) = content("b");
        table.lock().insert(
            taken,
            Record {
                place: other_place,
                lookups: 1,
            },
        );
        let (ino, _) = table.refer(key, |_| place);
        assert_eq!(ino, taken + 1);
        assert_eq!(table.get(taken).unwrap().key(), other);
        assert_eq!(table.get(ino).unwrap().key(), key);
    }
}
