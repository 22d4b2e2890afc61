//! Packs that the store has not got any more, or never had.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLockWriteGuard};

use rocksdb::{Direction, IteratorMode, WriteBatch, WriteOptions};

use super::awaited::awaited_key;
use super::{ChunkIndex, IndexError, NAME_KEY_BYTES, PACKS, name_key};
use crate::pack::PackName;

/// First byte of the keys of numbers whose packs are forgotten; no other key begins with it.
const FORGOTTEN: u8 = b'g';
/// First byte of the keys of packs that moved.
const MOVED: u8 = b'm';

fn forgotten_key(number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [FORGOTTEN, a, b, c, d]
}

/// The key of the note that a pack moved.
pub(super) fn moved_key(name: PackName) -> [u8; 1 + NAME_KEY_BYTES] {
    let mut key = [MOVED; 1 + NAME_KEY_BYTES];
    key[1..].copy_from_slice(&name_key(name));
    key
}

impl ChunkIndex {
    /// Takes note that a pack is gone and that this index knows the packs which hold what was
    /// needed of it: it counts as known, until it is inserted.
    pub(crate) fn note_moved(&self, name: PackName) -> Result<(), IndexError> {
        let _changes = self.lock_changes();
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(PACKS), moved_key(name), []);
        batch.delete_cf(self.family(PACKS), awaited_key(name));
        Ok(self.db.write(batch)?)
    }

    /// Tells whether a pack is gone and what was needed of it is known elsewhere.
    ///
    /// # Errors
    /// [`IndexError`] when the database fails.
    pub fn is_moved(&self, name: PackName) -> Result<bool, IndexError> {
        let note = self.db.get_pinned_cf(self.family(PACKS), moved_key(name))?;
        Ok(note.is_some())
    }

    /// Takes note that the store has not got a pack any more: its items are then found in other
    /// packs that hold them, or not at all, until it is inserted again.
    ///
    /// The note is lost with the process, and costs the next one a request: a store that had lost
    /// all for a moment does not empty the index for ever.
    pub fn note_gone(&self, number: u32) {
        self.lock_gone().insert(number);
    }

    /// Forgets a pack for good: one that was never in the store, and is not to be there. Its items
    /// are found in other packs that hold them, or not at all, until it is inserted again. Synced:
    /// it holds whatever becomes of this machine.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk is full or broken; nothing is forgotten then.
    pub fn forget(&self, name: PackName) -> Result<(), IndexError> {
        let _changes = self.lock_changes();
        let Some(number) = self.pack_number(name)? else {
            return Ok(());
        };
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(PACKS), name_key(name));
        batch.put_cf(self.family(PACKS), forgotten_key(number), []);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch, &synced)?;
        self.lock_gone().insert(number);
        Ok(())
    }

    pub(super) fn read_forgotten(&self) -> Result<(), IndexError> {
        let start = IteratorMode::From(&[FORGOTTEN], Direction::Forward);
        for entry in self.db.iterator_cf(self.family(PACKS), start) {
            let (key, _) = entry?;
            match <[u8; 5]>::try_from(&*key) {
                Ok([FORGOTTEN, a, b, c, d]) => {
                    self.lock_gone().insert(u32::from_be_bytes([a, b, c, d]));
                }
                _ => break,
            }
        }
        Ok(())
    }

    pub(super) fn lock_gone(&self) -> RwLockWriteGuard<'_, HashSet<u32>> {
        self.gone.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self, number: u32) -> bool {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        gone.contains(&number)
    }
}
