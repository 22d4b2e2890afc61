//! Assembling a pack in memory.

use super::{HEAD, Item, ItemKind, PackIndex, PackKind, PackName, TAIL};
use crate::Digest;
use crate::frame::{FrameEntry, FrameItem};
use crate::wire::Put;

/// A pack in the making.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    bytes: Vec<u8>,
    index: PackIndex,
}

impl PackBuilder {
    /// Starts an empty pack.
    pub(crate) fn new(kind: PackKind) -> Self {
        let index = PackIndex {
            kind,
            frames: Vec::new(),
            lists: Vec::new(),
        };
        Self {
            bytes: HEAD.to_vec(),
            index,
        }
    }

    /// Appends a compressed frame that holds `items`, each with its plain length.
    ///
    /// # Panics
    /// When the frame breaks a limit of the format, which its maker must keep.
    pub(crate) fn push_frame(&mut self, stored: &[u8], items: &[(Item, u32)]) {
        assert!(!items.is_empty() && items.len() <= crate::frame::FRAME_ITEMS_MAX);
        let frame = u32::try_from(self.index.frames.len()).expect("a pack has few frames");
        let is_list = |item: &Item| match item.kind {
            ItemKind::ChunkList(content) => Some(content),
            ItemKind::Chunk(_) | ItemKind::Tree(_) => None,
        };
        let lists = (0_u32..)
            .zip(items)
            .filter_map(|(n, i)| Some((frame, n, is_list(&i.0)?)));
        self.index.lists.extend(lists);
        self.index.frames.push(FrameEntry {
            offset_bytes: self.bytes.len() as u64,
            stored_bytes: u32::try_from(stored.len()).expect("frames are below 4 GiB"),
            hash: Digest::of(stored),
            items: items
                .iter()
                .map(|(i, len_bytes)| FrameItem {
                    hash: i.hash,
                    len_bytes: *len_bytes,
                })
                .collect(),
        });
        self.bytes.put(stored);
    }

    /// Ends the pack.
    pub(crate) fn finish(self) -> FinishedPack {
        let Self { mut bytes, index } = self;
        let (name, index_bytes) = index.encode();
        bytes.put(&index_bytes);
        bytes.put_u32(u32::try_from(index_bytes.len()).expect("an index is below 4 GiB"));
        bytes.put(TAIL);
        FinishedPack {
            name,
            bytes,
            index,
            index_bytes,
        }
    }
}

/// A pack that is ready to be stored.
#[derive(Debug)]
pub(crate) struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// The whole object.
    pub bytes: Vec<u8>,
    /// Its index.
    pub index: PackIndex,
    /// The encoded index, for the copy below `index/`.
    pub index_bytes: Vec<u8>,
}
