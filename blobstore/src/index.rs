//! The local index: which pack and frame holds a chunk, a tree or a chunk list.
//!
//! A RocksDB database, derived wholly from the packs' indexes: it may be deleted at any time and
//! is rebuilt from them. A pack's entries are written in one batch, so after a crash a pack is in the
//! index with all its items or not at all; the write is not synced, for what a power loss takes is
//! read from the store again. Packs that are still to come are noted in it too (see [`awaited`]).
//!
//! An item that is in several packs is found in the one that was inserted last, and in another one
//! when that is gone from the store (see [`ChunkIndex::note_gone`]).

mod awaited;
mod gone;
mod in_use;
mod locations;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use rocksdb::{ColumnFamily, DB, IteratorMode, Options, WriteBatch};

use crate::frame::{FrameEntry, FrameItem};
use crate::pack::{ItemKind, PackIndex, PackKind, PackName};
use crate::wire::{Put, Truncated, Wire};
use crate::{ChunkId, ContentId, Digest, PackId, TreeId};

use in_use::is_in_use;
pub(crate) use in_use::may_be_in_use;
pub(crate) use locations::LOCATIONS_MAX;

/// Memory for cached blocks of the index, in bytes.
const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// Memory for entries that are not yet in a table, in bytes, of each column family.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// Files that the index keeps open at most.
const OPEN_FILES_MAX: i32 = 256;

const CHUNKS: &str = "chunks";
const TREES: &str = "trees";
const LISTS: &str = "lists";
const FRAMES: &str = "frames";
const PACKS: &str = "packs";
const COLUMN_FAMILIES: [&str; 5] = [CHUNKS, TREES, LISTS, FRAMES, PACKS];

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Another process has it open.
    #[error("index {path} is in use by another process")]
    Busy {
        /// Folder of the index.
        path: String,
    },
    /// The database reports an error.
    #[error("index: {0}")]
    Database(#[from] rocksdb::Error),
    /// An entry is not in the format.
    #[error("index is damaged ({0}); delete it or run `nacre store fsck --rebuild-index`")]
    Malformed(&'static str),
}

impl From<Truncated> for IndexError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

/// Where an item is: numbers that hold for this index only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack, see [`ChunkIndex::pack`].
    pub pack: u32,
    /// The frame in the pack.
    pub frame: u32,
    /// The item in the frame.
    pub item: u32,
}

/// The index of the packs that this node knows.
#[derive(Debug)]
pub struct ChunkIndex {
    db: DB,
    /// Serialises changes, which read before they write.
    changes: std::sync::Mutex<()>,
    /// Packs that the store has not got any more, by number.
    gone: RwLock<HashSet<u32>>,
}

impl ChunkIndex {
    /// Opens the index in the folder `path`, or makes an empty one.
    ///
    /// # Errors
    /// [`IndexError::Busy`] while another process has it open.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_keep_log_file_num(2);
        options.set_max_total_wal_size(WRITE_BUFFER_BYTES as u64 * 4);
        // Ids are random bytes: nothing to gain from compression.
        options.set_compression_type(rocksdb::DBCompressionType::None);
        let mut table = rocksdb::BlockBasedOptions::default();
        table.set_block_cache(&rocksdb::Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        options.set_block_based_table_factory(&table);
        options.set_merge_operator_associative("locations", locations::merge);
        let families = COLUMN_FAMILIES.map(|name| (name, options.clone()));
        match DB::open_cf_with_opts(&options, path, families) {
            Ok(db) => {
                let index = Self {
                    db,
                    changes: std::sync::Mutex::new(()),
                    gone: RwLock::default(),
                };
                index.read_forgotten()?;
                Ok(index)
            }
            Err(error) if is_in_use(&error) => Err(IndexError::Busy {
                path: path.display().to_string(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn family(&self, name: &'static str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("all column families are made when the index is opened")
    }

    fn lock_changes(&self) -> std::sync::MutexGuard<'_, ()> {
        let changes = self.changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a pack with all its items. Adding it again changes nothing, but that it is not gone.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk is full or broken; nothing is added then.
    pub fn insert(&self, name: PackName, index: &PackIndex) -> Result<(), IndexError> {
        let _changes = self.lock_changes();
        if let Some(number) = self.pack_number(name)? {
            if self.is_gone(number) {
                self.lock_gone().remove(&number);
            }
            return Ok(());
        }
        let number = self.next_pack_number()?;
        let mut batch = WriteBatch::default();
        let packs = self.family(PACKS);
        batch.put_cf(packs, name_key(name), number.to_be_bytes());
        batch.put_cf(packs, number_key(number), name_key(name));
        batch.delete_cf(packs, awaited::awaited_key(name));
        batch.delete_cf(packs, gone::moved_key(name));
        for (frame, entry) in (0_u32..).zip(index.frames()) {
            batch.put_cf(
                self.family(FRAMES),
                frame_key(number, frame),
                encode_frame(entry),
            );
        }
        let located = index.items().map(|(frame, item, stored)| {
            let location = Location {
                pack: number,
                frame,
                item,
            };
            (item_key(stored.kind), location)
        });
        // In the order of keys the database finds the place of each beside that of the one before.
        let mut located: Vec<_> = located.collect();
        located.sort_by_key(|(key, _)| *key);
        for ((family, key), location) in located {
            let location = locations::encode(location);
            batch.merge_cf(self.family(family), key.as_bytes(), location);
        }
        Ok(self.db.write(batch)?)
    }

    /// Forgets everything, to be filled anew.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk is full or broken.
    pub fn clear(&self) -> Result<(), IndexError> {
        let _changes = self.lock_changes();
        let mut batch = WriteBatch::default();
        for name in COLUMN_FAMILIES {
            let family = self.family(name);
            if let Some(last) = self.db.iterator_cf(family, IteratorMode::End).next() {
                let (last, _) = last?;
                batch.delete_range_cf(family, &[][..], &last[..]);
                batch.delete_cf(family, &last);
            }
        }
        // Readers key frames in memory by pack numbers, so none is ever given out twice.
        let packs = self.family(PACKS);
        if let Some(next) = self.db.get_cf(packs, NEXT_NUMBER_KEY)? {
            batch.put_cf(packs, NEXT_NUMBER_KEY, next);
        }
        self.lock_gone().clear();
        Ok(self.db.write(batch)?)
    }

    /// Returns the packs in the index.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn packs(&self) -> Result<BTreeSet<PackName>, IndexError> {
        let mut names = BTreeSet::new();
        for entry in self.db.iterator_cf(self.family(PACKS), IteratorMode::Start) {
            let (key, _) = entry?;
            if key.len() == NAME_KEY_BYTES {
                names.insert(decode_name(&key)?);
            }
        }
        Ok(names)
    }

    /// Tells whether a pack is in the index, and not gone as far as is known; or else whether it
    /// [moved](Self::is_moved).
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn contains(&self, name: PackName) -> Result<bool, IndexError> {
        match self.pack_number(name)? {
            Some(number) => Ok(!self.is_gone(number)),
            None => self.is_moved(name),
        }
    }

    /// Returns the name of the pack that locations call `number`.
    ///
    /// # Errors
    /// [`IndexError::Malformed`] when there is none.
    pub fn pack(&self, number: u32) -> Result<PackName, IndexError> {
        let name = self
            .db
            .get_pinned_cf(self.family(PACKS), number_key(number))?;
        decode_name(&name.ok_or(IndexError::Malformed("location in an unknown pack"))?)
    }

    /// Returns where a chunk is, if it is in any known pack.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn chunk(&self, id: ChunkId) -> Result<Option<Location>, IndexError> {
        self.locate(ItemKind::Chunk(id))
    }

    /// Returns where a tree is, if it is in any known pack.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn tree(&self, id: TreeId) -> Result<Option<Location>, IndexError> {
        self.locate(ItemKind::Tree(id))
    }

    /// Returns where the chunk list of a content is, if it has one in any known pack.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn chunk_list(&self, id: ContentId) -> Result<Option<Location>, IndexError> {
        self.locate(ItemKind::ChunkList(id))
    }

    /// Returns where an item is, if it is in any known pack that is not gone.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn locate(&self, item: ItemKind) -> Result<Option<Location>, IndexError> {
        let known = self.locations(item)?;
        let here = known.into_iter().rev().find(|at| !self.is_gone(at.pack));
        Ok(here)
    }

    /// Returns where an item is or was: also in a pack that is gone, if it is in no other. That one
    /// may have come back.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub(crate) fn locate_even_gone(&self, item: ItemKind) -> Result<Option<Location>, IndexError> {
        let here = self.locate(item)?;
        Ok(here.or(self.locations(item)?.pop()))
    }

    /// Returns all places where an item is or was, the one that was entered last at the end.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn locations(&self, item: ItemKind) -> Result<Vec<Location>, IndexError> {
        let (family, id) = item_key(item);
        let value = self.db.get_pinned_cf(self.family(family), id.as_bytes())?;
        Ok(value.map_or_else(|| Ok(Vec::new()), |value| locations::decode(&value))?)
    }

    /// Returns the frame at a location.
    ///
    /// # Errors
    /// [`IndexError::Malformed`] when there is none.
    pub fn frame(&self, location: Location) -> Result<FrameEntry, IndexError> {
        let frame = self.frame_numbered(location.pack, location.frame)?;
        frame.ok_or(IndexError::Malformed("location in an unknown frame"))
    }

    /// Returns a frame of a pack by number, if the pack has so many.
    pub(crate) fn frame_numbered(
        &self,
        pack: u32,
        frame: u32,
    ) -> Result<Option<FrameEntry>, IndexError> {
        let key = frame_key(pack, frame);
        let value = self.db.get_pinned_cf(self.family(FRAMES), key)?;
        value.map(|value| decode_frame(&value)).transpose()
    }

    /// Tells whether a pack is known and has at least `frames` of them.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn has_frames(&self, name: PackName, frames: u32) -> Result<bool, IndexError> {
        let Some(number) = self.pack_number(name)? else {
            return Ok(false);
        };
        let last = frames.checked_sub(1);
        last.map_or(Ok(true), |last| {
            Ok(self.frame_numbered(number, last)?.is_some())
        })
    }

    /// Returns the packs that hold `items`, and those items that no known pack holds.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub fn packs_of(
        &self,
        items: impl IntoIterator<Item = ItemKind>,
    ) -> Result<(BTreeSet<PackName>, Vec<ItemKind>), IndexError> {
        let mut numbers = HashSet::new();
        let mut missing = Vec::new();
        for item in items {
            match self.locate(item)? {
                Some(location) => drop(numbers.insert(location.pack)),
                None => missing.push(item),
            }
        }
        let packs = numbers
            .into_iter()
            .map(|number| self.pack(number))
            .collect::<Result<_, _>>()?;
        Ok((packs, missing))
    }

    fn pack_number(&self, name: PackName) -> Result<Option<u32>, IndexError> {
        let value = self.db.get_cf(self.family(PACKS), name_key(name))?;
        let number = |v: Vec<u8>| v.try_into().map(u32::from_be_bytes);
        value
            .map(number)
            .transpose()
            .map_err(|_| IndexError::Malformed("number of a pack"))
    }

    fn next_pack_number(&self) -> Result<u32, IndexError> {
        let packs = self.family(PACKS);
        let last = self.db.get_cf(packs, NEXT_NUMBER_KEY)?;
        let number = match last.map(<[u8; 4]>::try_from) {
            None => 0,
            Some(Ok(bytes)) => u32::from_be_bytes(bytes),
            Some(Err(_)) => return Err(IndexError::Malformed("number of packs")),
        };
        let next = number
            .checked_add(1)
            .ok_or(IndexError::Malformed("too many packs"))?;
        self.db.put_cf(packs, NEXT_NUMBER_KEY, next.to_be_bytes())?;
        Ok(number)
    }
}

const NEXT_NUMBER_KEY: &[u8] = b"n";
const NAME_KEY_BYTES: usize = 1 + Digest::LEN;

/// The key of a pack's name; longer than the key of any number.
fn name_key(name: PackName) -> [u8; NAME_KEY_BYTES] {
    let mut key = [0; NAME_KEY_BYTES];
    key[0] = match name.kind {
        PackKind::Data => b'D',
        PackKind::Tree => b'T',
    };
    key[1..].copy_from_slice(name.id.as_bytes());
    key
}

fn decode_name(key: &[u8]) -> Result<PackName, IndexError> {
    let mut wire = Wire::new(key);
    let kind = match wire.u8()? {
        b'D' => PackKind::Data,
        b'T' => PackKind::Tree,
        _ => return Err(IndexError::Malformed("kind of a pack")),
    };
    let id = PackId::new(Digest::from_bytes(wire.array()?));
    wire.finish()?;
    Ok(PackName { kind, id })
}

fn number_key(number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [b'#', a, b, c, d]
}

fn frame_key(pack: u32, frame: u32) -> [u8; 8] {
    (u64::from(pack) << 32 | u64::from(frame)).to_be_bytes()
}

const fn item_key(item: ItemKind) -> (&'static str, Digest) {
    match item {
        ItemKind::Chunk(id) => (CHUNKS, *id.digest()),
        ItemKind::Tree(id) => (TREES, *id.digest()),
        ItemKind::ChunkList(id) => (LISTS, *id.digest()),
    }
}

fn encode_frame(frame: &FrameEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + frame.items.len() * 36);
    out.put_u64(frame.offset_bytes);
    out.put_u32(frame.stored_bytes);
    out.put(frame.hash.as_bytes());
    for item in &frame.items {
        out.put(item.hash.as_bytes());
        out.put_u32(item.len_bytes);
    }
    out
}

fn decode_frame(value: &[u8]) -> Result<FrameEntry, IndexError> {
    let mut wire = Wire::new(value);
    let (offset_bytes, stored_bytes) = (wire.u64()?, wire.u32()?);
    let hash = Digest::from_bytes(wire.array()?);
    let mut items = Vec::with_capacity(value.len().saturating_sub(44) / 36);
    while !wire.is_empty() {
        let hash = Digest::from_bytes(wire.array()?);
        items.push(FrameItem {
            hash,
            len_bytes: wire.u32()?,
        });
    }
    Ok(FrameEntry {
        offset_bytes,
        stored_bytes,
        hash,
        items,
    })
}

#[cfg(test)]
mod tests;
