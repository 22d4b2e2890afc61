//! Packs: immutable objects of many frames, with an index at the end.
//!
//! ```text
//! "NACRPACK" | frame* | index (an envelope) | index length u32 | "KCAP"
//! ```
//! The index lists every frame and item with its hash, and the pack's id is the index's checksum:
//! whoever knows the id can verify every byte. A copy of the index is stored under `index/`, so
//! that readers get it in one request of the right size, and damage to one copy loses nothing.

mod builder;
mod index;

pub(crate) use builder::{FinishedPack, PackBuilder};
pub(crate) use index::INDEX_BYTES_MAX;
pub use index::{Item, ItemKind, PackIndex, PackIndexError};

use crate::{Key, PackId};

/// Bytes of frames at which a pack is closed.
pub(crate) const PACK_BYTES_TARGET: usize = 32 << 20;

/// What a pack starts with.
pub(crate) const HEAD: &[u8; 8] = b"NACRPACK";
const TAIL: &[u8; 4] = b"KCAP";
/// Length of what follows the index: its length and the closing magic.
pub(crate) const TRAILER_BYTES: u64 = 8;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Chunks of file contents, below `packs/`.
    Data,
    /// Trees and chunk lists, below `trees/`.
    Tree,
}

/// Names a pack in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// What it holds.
    pub kind: PackKind,
    /// The hash of its index.
    pub id: PackId,
}

impl PackName {
    /// Returns the key of the pack itself.
    pub fn key(&self) -> Key {
        self.below(self.kind.folder())
    }

    /// Returns the key of the copy of its index.
    pub fn index_key(&self) -> Key {
        self.below(self.kind.index_folder())
    }

    fn below(&self, folder: &str) -> Key {
        Key::new(format!("{folder}/{}", self.id)).expect("hexadecimal digits make a key")
    }

    /// Reads the name off the key of a pack or of an index copy; `None` for any other key.
    pub fn from_key(key: &Key) -> Option<Self> {
        let (folder, id) = key.as_str().rsplit_once('/')?;
        let of = |kind: &PackKind| [kind.folder(), kind.index_folder()].contains(&folder);
        let kind = PackKind::ALL.into_iter().find(of)?;
        Some(Self {
            kind,
            id: id.parse().ok()?,
        })
    }
}

impl PackKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Data, Self::Tree];

    /// Returns the folder of these packs in a store.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Data => "packs",
            Self::Tree => "trees",
        }
    }

    /// Returns the folder of the copies of their indexes.
    pub const fn index_folder(self) -> &'static str {
        match self {
            Self::Data => "index/packs",
            Self::Tree => "index/trees",
        }
    }
}

#[cfg(test)]
mod tests;
