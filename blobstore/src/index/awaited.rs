//! Packs that the index is to know and does not know yet.
//!
//! They are noted in the database, so that a process that ends before it has loaded them leaves
//! word to the next one. A note is taken away by the same batch that adds the pack.

use std::collections::BTreeSet;

use rocksdb::{IteratorMode, WriteBatch};

use super::{ChunkIndex, IndexError, NAME_KEY_BYTES, PACKS, decode_name, name_key};
use crate::pack::PackName;

const AWAITED: u8 = b'?';
const KEY_BYTES: usize = 1 + NAME_KEY_BYTES;

/// The key of a note; longer than the key of a pack's name.
pub(super) fn awaited_key(name: PackName) -> [u8; KEY_BYTES] {
    let mut key = [AWAITED; KEY_BYTES];
    key[1..].copy_from_slice(&name_key(name));
    key
}

impl ChunkIndex {
    /// Notes those of `packs` that are not in the index as awaited, and returns them.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk is full or broken; nothing is noted then.
    pub(crate) fn await_packs(
        &self,
        packs: &BTreeSet<PackName>,
    ) -> Result<Vec<PackName>, IndexError> {
        let _changes = self.lock_changes();
        let mut awaited = Vec::new();
        let mut batch = WriteBatch::default();
        for name in packs {
            if self.pack_number(*name)?.is_none() && !self.is_moved(*name)? {
                batch.put_cf(self.family(PACKS), awaited_key(*name), []);
                awaited.push(*name);
            }
        }
        if !awaited.is_empty() {
            self.db.write(batch)?;
        }
        Ok(awaited)
    }

    /// Returns the packs that are noted as awaited.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub(crate) fn awaited_packs(&self) -> Result<BTreeSet<PackName>, IndexError> {
        let mut names = BTreeSet::new();
        for entry in self.db.iterator_cf(self.family(PACKS), IteratorMode::Start) {
            let (key, _) = entry?;
            if key.len() == KEY_BYTES && key[0] == AWAITED {
                names.insert(decode_name(&key[1..])?);
            }
        }
        Ok(names)
    }

    /// Takes the note of a pack away.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk is full or broken.
    pub(crate) fn forget_awaited(&self, name: PackName) -> Result<(), IndexError> {
        let key = awaited_key(name);
        Ok(self.db.delete_cf(self.family(PACKS), key)?)
    }
}
