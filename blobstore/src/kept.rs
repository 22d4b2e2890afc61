//! Trees and chunk lists that were read, kept on the node's disk: what is read again needs no network.
//!
//! ```text
//! FOLDER/NUMBER/   a RocksDB database: kind | id -> plain length u32 | zstd of the item
//! ```
//! Derived from the store: it may be deleted at any time, and what is damaged in it is dropped. An
//! item is checked when it is kept and again whenever it is read: a tree against its id, a chunk list
//! against a BLAKE3 that is kept with it.
//!
//! Bounded by two generations. What is kept goes to the younger one, and so does what is read in the
//! older. When the younger one has half of the bytes, the older one is deleted and another begins; so
//! what was used in the last half of the bytes stays, whatever its age.
//!
//! Writes are not synced: a power loss may take the last of them, unless [`KeptItems::sync`] came after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rocksdb::{DB, DBCompressionType, Options};

use crate::index::may_be_in_use;
use crate::{ChunkList, ChunkListError, ContentId, Digest, TREE_BYTES_MAX, Tree, TreeId};

/// Memory for items that are not yet in a table, in bytes, of each generation.
const WRITE_BUFFER_BYTES: usize = 2 << 20;
/// Memory for cached blocks, in bytes, of each generation: trees in use are in the reader's memory.
const BLOCK_CACHE_BYTES: usize = 2 << 20;
/// Files that a generation keeps open at most.
const OPEN_FILES_MAX: i32 = 64;
/// Level of zstd: a tree is read as often as it is written.
const ZSTD_LEVEL: i32 = 3;
/// Longest item, in bytes.
const ITEM_BYTES_MAX: usize = TREE_BYTES_MAX + Digest::LEN;

type Key = [u8; 1 + Digest::LEN];

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The disk refused.
    #[error("open kept trees {folder}: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database reports an error.
    #[error("open kept trees: {0}")]
    Database(#[from] rocksdb::Error),
}

/// The items that are kept. Share it behind an `Arc`; calls block for the time of a local read or
/// write, and for some milliseconds when a generation ends.
#[derive(Debug)]
pub struct KeptItems {
    folder: PathBuf,
    bytes_max: u64,
    generations: RwLock<Generations>,
    /// Bytes that the younger generation has, about.
    young_bytes: AtomicU64,
}

#[derive(Debug)]
struct Generations {
    number: u64,
    young: DB,
    old: Option<DB>,
}

impl KeptItems {
    /// Opens what is kept in `folder`, or makes it empty. It takes about `bytes_max` bytes of the
    /// disk at most. A damaged database is deleted.
    ///
    /// # Errors
    /// [`KeptError`] when another process has it open, and when the disk refuses an empty database, too.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self, KeptError> {
        let fail = |source| KeptError::Io {
            folder: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(fail)?;
        let mut numbers = numbers(folder).map_err(fail)?;
        numbers.sort_unstable();
        let number = numbers.pop().unwrap_or(1);
        let old = numbers.pop_if(|old| old.saturating_add(1) == number);
        for left in numbers {
            remove(&generation(folder, left));
        }
        let young = open_or_new(&generation(folder, number))?;
        let old = old.map(|old| open_or_new(&generation(folder, old)));
        Ok(Self {
            young_bytes: AtomicU64::new(size_of(&generation(folder, number)).map_err(fail)?),
            folder: folder.to_path_buf(),
            bytes_max,
            generations: RwLock::new(Generations {
                number,
                young,
                old: old.transpose()?,
            }),
        })
    }

    /// Returns a tree that is kept, and the length of its encoding in bytes.
    pub fn tree(&self, id: TreeId) -> Option<(Tree, usize)> {
        let key = key(b'T', id.digest());
        let bytes = self.get(&key)?;
        let tree = Tree::decode(id, &bytes);
        let tree = tree.inspect_err(|error| self.forget(&key, error)).ok()?;
        Some((tree, bytes.len()))
    }

    /// Keeps the encoded tree `id`.
    pub fn keep_tree(&self, id: TreeId, encoded: &[u8]) {
        self.put(&key(b'T', id.digest()), encoded);
    }

    /// Returns the chunks of a content, if they are kept.
    pub fn chunk_list(&self, content: ContentId) -> Option<ChunkList> {
        let key = key(b'L', content.digest());
        let bytes = self.get(&key)?;
        let list = match bytes.split_last_chunk::<{ Digest::LEN }>() {
            Some((list, digest)) if Digest::of(list).as_bytes() == digest => {
                ChunkList::decode(list)
            }
            _ => Err(ChunkListError::Malformed("bytes do not match their hash")),
        };
        list.inspect_err(|error| self.forget(&key, error)).ok()
    }

    /// Keeps an encoded chunk list, which was checked.
    pub fn keep_chunk_list(&self, content: ContentId, encoded: &[u8]) {
        let mut bytes = encoded.to_vec();
        bytes.extend(Digest::of(encoded).as_bytes());
        self.put(&key(b'L', content.digest()), &bytes);
    }

    /// Waits until a power loss takes nothing of what is kept.
    pub fn sync(&self) {
        let synced = self.read().young.flush_wal(true);
        if let Err(error) = synced {
            tracing::debug!(%error, "sync kept trees");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Generations> {
        let generations = self.generations.read();
        generations.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the plain bytes of a key; what the older generation has the younger one gets.
    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let looked = self.look(key);
        let (stored, is_old) = looked.inspect_err(|error| self.forget(key, error)).ok()??;
        if is_old {
            self.put_stored(key, &stored);
        }
        let plain = unpack(&stored);
        plain.inspect_err(|error| self.forget(key, error)).ok()
    }

    /// Returns what is stored for a key, and whether the older generation alone has it.
    fn look(&self, key: &Key) -> Result<Option<(Vec<u8>, bool)>, rocksdb::Error> {
        let generations = self.read();
        if let Some(stored) = generations.young.get(key)? {
            return Ok(Some((stored, false)));
        }
        let old = generations.old.as_ref().map(|old| old.get(key));
        Ok(old.transpose()?.flatten().map(|stored| (stored, true)))
    }

    fn put(&self, key: &Key, plain: &[u8]) {
        let length = u32::try_from(plain.len()).ok();
        let length = length.filter(|_| plain.len() <= ITEM_BYTES_MAX);
        let (Some(length), Ok(packed)) = (length, zstd::bulk::compress(plain, ZSTD_LEVEL)) else {
            return;
        };
        let mut stored = length.to_le_bytes().to_vec();
        stored.extend(packed);
        self.put_stored(key, &stored);
    }

    fn put_stored(&self, key: &Key, stored: &[u8]) {
        let length = (key.len() + stored.len()) as u64;
        if self.young_bytes.fetch_add(length, Ordering::Relaxed) + length > self.bytes_max / 2 {
            self.turn(length);
        }
        if let Err(error) = self.read().young.put(key, stored) {
            tracing::debug!(%error, "keep a tree");
        }
    }

    /// Ends the older generation and begins one, for `length` bytes, unless another thread just did.
    fn turn(&self, length: u64) {
        let generations = self.generations.write();
        let mut generations = generations.unwrap_or_else(PoisonError::into_inner);
        if self.young_bytes.load(Ordering::Relaxed) <= self.bytes_max / 2 {
            return;
        }
        self.young_bytes.store(length, Ordering::Relaxed);
        let number = generations.number + 1;
        let young = match open_or_new(&generation(&self.folder, number)) {
            Ok(young) => young,
            Err(error) => return tracing::warn!(%error, "go on with what is kept"),
        };
        let old = std::mem::replace(&mut generations.young, young);
        drop(generations.old.replace(old));
        remove(&generation(
            &self.folder,
            generations.number.saturating_sub(1),
        ));
        generations.number = number;
    }

    /// Drops what cannot be used.
    fn forget(&self, key: &Key, error: &dyn std::fmt::Display) {
        tracing::warn!(%error, "drop a kept tree");
        let generations = self.read();
        for generation in [Some(&generations.young), generations.old.as_ref()] {
            // It is dropped again when it is read again.
            drop(generation.map(|generation| generation.delete(key)));
        }
    }
}

fn unpack(stored: &[u8]) -> io::Result<Vec<u8>> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (length, packed) = stored.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > ITEM_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    zstd::bulk::decompress(packed, length)
}

fn key(kind: u8, id: &Digest) -> Key {
    let mut key = [kind; 1 + Digest::LEN];
    key[1..].copy_from_slice(id.as_bytes());
    key
}

fn generation(folder: &Path, number: u64) -> PathBuf {
    folder.join(number.to_string())
}

fn open_or_new(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_keep_log_file_num(1);
    // Items are compressed already.
    options.set_compression_type(DBCompressionType::None);
    let mut table = rocksdb::BlockBasedOptions::default();
    table.set_block_cache(&rocksdb::Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    match DB::open(&options, path) {
        // Another process may have it: it is not this one's to delete.
        Err(error) if may_be_in_use(&error) => Err(error),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "drop kept trees");
            remove(path);
            DB::open(&options, path)
        }
        opened => opened,
    }
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "remove kept trees");
        }
        _ => {}
    }
}

/// Returns the numbers of the generations.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// Returns how many bytes the files of a database have.
fn size_of(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        // One that is gone by now is no more to be counted.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
