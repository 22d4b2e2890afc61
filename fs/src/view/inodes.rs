//! The inode table: which number stands for what, and how often the kernel was told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::inode_log::{Change, InodeLog, InodeLogError};
use super::place::{InodeKey, Origin, Place};

/// Inode numbers below this are the mount's own directories and never in the table.
pub(crate) const RESERVED_INOS: u64 = 1024;

/// The inodes that the kernel knows. A number stays with its inode until the kernel forgot it as
/// often as it was told of it; its size is therefore bounded by the kernel's inode cache.
///
/// Of an inode that another process told the kernel of, how often it did is not known. The kernel
/// forgets an inode that it drops as often as it was told of it by anybody: a number above what was
/// counted here says that it is gone. One that does not may leave an entry behind for as long as
/// the session lasts, if the process before was killed between a count and its answer.
#[derive(Debug, Default)]
pub(crate) struct InodeTable {
    state: Mutex<State>,
}

type Inodes = HashMap<u64, Record, BuildHasherDefault<InoHasher>>;

#[derive(Debug, Default)]
struct State {
    inodes: Inodes,
    log: Option<InodeLog>,
}

#[derive(Debug)]
struct Record {
    found: Found,
    /// Lookups that were counted here.
    lookups: u64,
    /// Whether another process counted some before.
    is_inherited: bool,
}

/// What the table has of an inode.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// All.
    Place(Place),
    /// What another process noted of it; see [`InodeTable::settle`].
    Origin(Box<Origin>),
}

impl Found {
    fn key(&self) -> InodeKey {
        match self {
            Self::Place(place) => place.key(),
            Self::Origin(origin) => origin.key(),
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Self::Place(place) => place.origin(),
            Self::Origin(origin) => **origin,
        }
    }
}

impl State {
    /// Notes a change that was just made.
    fn note(&mut self, change: &Change) {
        if let Some(log) = &mut self.log {
            let known = self.inodes.iter();
            log.note(change, self.inodes.len(), || {
                known.map(|(ino, record)| (*ino, record.found.origin()))
            });
        }
    }
}

impl InodeTable {
    /// Notes all inodes in a log from now on, for a session in which the kernel knows none yet.
    pub(crate) fn start_log(&self, path: &Path, session: u64) -> io::Result<()> {
        let log = InodeLog::create(path, session)?;
        self.lock().log = Some(log);
        Ok(())
    }

    /// Goes on with the inodes and the log of a session that another process served. Returns how
    /// many inodes there are.
    pub(crate) fn resume_log(&self, path: &Path, session: u64) -> Result<usize, InodeLogError> {
        let (log, restored) = InodeLog::resume(path, session)?;
        if restored.torn_bytes > 0 {
            tracing::warn!(
                bytes = restored.torn_bytes,
                "the inode log ends in no record"
            );
        }
        let inherited = restored.inodes.into_iter().map(|(ino, origin)| {
            let found = Found::Origin(Box::new(origin));
            (
                ino,
                Record {
                    found,
                    lookups: 0,
                    is_inherited: true,
                },
            )
        });
        let mut state = self.lock();
        state.inodes.extend(inherited);
        state.log = Some(log);
        Ok(state.inodes.len())
    }

    /// Returns what `ino` stands for.
    pub(crate) fn get(&self, ino: u64) -> Option<Found> {
        self.lock()
            .inodes
            .get(&ino)
            .map(|record| record.found.clone())
    }

    /// Puts the place of an inherited inode into the table, and returns the one that is there then:
    /// of several callers all get the same.
    pub(crate) fn settle(&self, ino: u64, place: Place) -> Place {
        let mut state = self.lock();
        match state.inodes.get_mut(&ino).map(|record| &mut record.found) {
            Some(Found::Place(settled)) => settled.clone(),
            Some(found) => {
                *found = Found::Place(place.clone());
                place
            }
            // Forgotten meanwhile: the request that asks for it was faster.
            None => place,
        }
    }

    /// Counts one more lookup of the inode named `key`, made by `make` with its number if it is
    /// not in the table.
    pub(crate) fn refer(&self, key: InodeKey, make: impl FnOnce(u64) -> Place) -> (u64, Place) {
        let mut state = self.lock();
        let mut ino = key.preferred_ino();
        loop {
            ino = if ino < RESERVED_INOS {
                ino + RESERVED_INOS
            } else {
                ino
            };
            match state.inodes.entry(ino) {
                Entry::Vacant(vacant) => {
                    let place = make(ino);
                    vacant.insert(Record {
                        found: Found::Place(place.clone()),
                        lookups: 1,
                        is_inherited: false,
                    });
                    state.note(&Change::Known(ino, place.origin()));
                    return (ino, place);
                }
                Entry::Occupied(mut taken) if taken.get().found.key() == key => {
                    let record = taken.get_mut();
                    record.lookups += 1;
                    let place = match &record.found {
                        Found::Place(place) => place.clone(),
                        Found::Origin(_) => make(ino),
                    };
                    record.found = Found::Place(place.clone());
                    return (ino, place);
                }
                Entry::Occupied(_) => ino = ino.wrapping_add(1),
            }
        }
    }

    /// Takes back `count` lookups; the inode leaves the table when none is left.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let mut state = self.lock();
        // What is dropped may be a whole directory: let that happen outside the lock.
        let gone = match state.inodes.entry(ino) {
            Entry::Occupied(mut taken) => {
                let record = taken.get_mut();
                let is_gone = if record.is_inherited {
                    count > record.lookups
                } else {
                    count >= record.lookups
                };
                record.lookups = record.lookups.saturating_sub(count);
                is_gone.then(|| taken.remove())
            }
            Entry::Vacant(_) => None,
        };
        if gone.is_some() {
            state.note(&Change::Forgotten(ino));
        }
        drop(state);
        drop(gone);
    }

    /// Returns how many inodes the kernel knows.
    pub(crate) fn len(&self) -> usize {
        self.lock().inodes.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code can panic between two changes of the map that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        table.lock().inodes.insert(
            taken,
            Record {
                found: Found::Place(other_place),
                lookups: 1,
                is_inherited: false,
            },
        );
        let (ino, _) = table.refer(key, |_| place);
        assert_eq!(ino, taken + 1);
        assert_eq!(table.get(taken).unwrap().key(), other);
        assert_eq!(table.get(ino).unwrap().key(), key);
    }
}
