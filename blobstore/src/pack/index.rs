//! The index of a pack: which frames it has and what is in them.

use std::fmt;

use super::{HEAD, PackKind, TAIL, TRAILER_BYTES};
use crate::envelope::{self, EnvelopeError};
use crate::frame::{FRAME_BYTES_MAX, FRAME_ITEMS_MAX, FrameEntry, FrameItem};
use crate::wire::{Put, Truncated, Wire};
use crate::{ChunkId, ContentId, Digest, PackId, PackName, TreeId};

/// Largest index, in bytes.
pub(crate) const INDEX_BYTES_MAX: u64 = 32 << 20;
/// Least bytes that a frame and an item take in the index; bound the allocation for a count.
const FRAME_ENTRY_BYTES_MIN: usize = Digest::LEN + 2;
const ITEM_ENTRY_BYTES_MIN: usize = Digest::LEN + 1;

/// What an item is, with the id that it is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// Plain bytes of a file.
    Chunk(ChunkId),
    /// An encoded tree.
    Tree(TreeId),
    /// The encoded chunk list of a content.
    ChunkList(ContentId),
}

impl ItemKind {
    /// Returns which packs may hold it.
    pub const fn pack_kind(self) -> PackKind {
        match self {
            Self::Chunk(_) => PackKind::Data,
            Self::Tree(_) | Self::ChunkList(_) => PackKind::Tree,
        }
    }
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(id) => write!(f, "chunk {id}"),
            Self::Tree(id) => write!(f, "tree {id}"),
            Self::ChunkList(id) => write!(f, "chunk list of {id}"),
        }
    }
}

/// One item and the hash of its bytes, which for chunks and trees is its id as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Hash of its bytes.
    pub hash: Digest,
}

/// The index of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    pub(super) kind: PackKind,
    /// The frames in the order of their offsets.
    pub(super) frames: Vec<FrameEntry>,
    /// The chunk lists of a tree pack: frame, item, content; sorted.
    pub(super) lists: Vec<(u32, u32, ContentId)>,
}

/// Why an index is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackIndexError {
    /// The envelope is damaged or of a later version.
    #[error("pack index: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The index is not the one of the pack it was read for.
    #[error("pack index is of another pack than {expected:?}")]
    Mismatch {
        /// The pack asked for.
        expected: PackId,
    },
    /// The body is not in the format.
    #[error("malformed pack index: {0}")]
    Malformed(&'static str),
}

impl From<Truncated> for PackIndexError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

impl PackIndex {
    /// Returns what the pack holds.
    pub const fn kind(&self) -> PackKind {
        self.kind
    }

    /// Returns the frames in order.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// Returns every item with the numbers of its frame and of itself in that frame.
    pub fn items(&self) -> impl Iterator<Item = (u32, u32, Item)> + '_ {
        let frames = (0_u32..).zip(&self.frames);
        let items = frames.flat_map(|(f, frame)| (0_u32..).zip(&frame.items).map(move |i| (f, i)));
        items.map(|(frame, (number, item))| {
            let list = self
                .lists
                .binary_search_by_key(&(frame, number), |l| (l.0, l.1));
            let kind = match (self.kind, list) {
                (PackKind::Data, _) => ItemKind::Chunk(ChunkId::new(item.hash)),
                (PackKind::Tree, Ok(at)) => ItemKind::ChunkList(self.lists[at].2),
                (PackKind::Tree, Err(_)) => ItemKind::Tree(TreeId::new(item.hash)),
            };
            (
                frame,
                number,
                Item {
                    kind,
                    hash: item.hash,
                },
            )
        })
    }

    /// Returns the length that the whole pack has, given the length of this index's encoding.
    pub(crate) fn pack_bytes(&self, index_bytes: u64) -> u64 {
        let frames_end = self
            .frames
            .last()
            .map_or(HEAD.len() as u64, |frame| frame.range().end);
        frames_end + index_bytes + TRAILER_BYTES
    }

    /// Encodes the index; its checksum is the pack's id.
    pub fn encode(&self) -> (PackName, Vec<u8>) {
        let mut body = Vec::new();
        body.put_u8(match self.kind {
            PackKind::Data => 1,
            PackKind::Tree => 2,
        });
        body.put_uvarint(self.frames.len() as u64);
        for frame in &self.frames {
            body.put_uvarint(frame.stored_bytes.into());
            body.put(frame.hash.as_bytes());
            body.put_uvarint(frame.items.len() as u64);
            for item in &frame.items {
                body.put(item.hash.as_bytes());
                body.put_uvarint(item.len_bytes.into());
            }
        }
        body.put_uvarint(self.lists.len() as u64);
        for (frame, item, content) in &self.lists {
            body.put_uvarint((*frame).into());
            body.put_uvarint((*item).into());
            body.put(content.as_bytes());
        }
        let (id, bytes) = envelope::seal(*b"PIDX", &body);
        (
            PackName {
                kind: self.kind,
                id: PackId::new(id),
            },
            bytes,
        )
    }

    /// Decodes the index that was read for the pack `name`.
    ///
    /// # Errors
    /// [`PackIndexError`] for damage, an index of another pack, or a broken limit.
    pub fn decode(name: PackName, bytes: &[u8]) -> Result<Self, PackIndexError> {
        let (found, index) = Self::decode_unnamed(bytes)?;
        if found == name {
            Ok(index)
        } else {
            Err(PackIndexError::Mismatch { expected: name.id })
        }
    }

    /// Decodes an index and returns the name of its pack.
    ///
    /// # Errors
    /// [`PackIndexError`] for damage or a broken limit.
    pub fn decode_unnamed(bytes: &[u8]) -> Result<(PackName, Self), PackIndexError> {
        let (id, body) = envelope::open(*b"PIDX", bytes)?;
        let mut wire = Wire::new(body);
        let kind = match wire.u8()? {
            1 => PackKind::Data,
            2 => PackKind::Tree,
            _ => return Err(PackIndexError::Malformed("unknown kind of pack")),
        };
        let frame_count = wire.count(FRAME_ENTRY_BYTES_MIN)?;
        let mut frames = Vec::with_capacity(frame_count);
        let mut offset_bytes = HEAD.len() as u64;
        for _ in 0..frame_count {
            let frame = decode_frame(&mut wire, offset_bytes)?;
            offset_bytes = frame.range().end;
            frames.push(frame);
        }
        let list_count = wire.count(Digest::LEN + 2)?;
        let mut lists = Vec::with_capacity(list_count);
        for _ in 0..list_count {
            let (frame, item) = (wire.uvarint32()?, wire.uvarint32()?);
            let items = frames
                .get(frame as usize)
                .map_or(0, |f: &FrameEntry| f.items.len());
            if kind != PackKind::Tree || item as usize >= items {
                return Err(PackIndexError::Malformed("chunk list that is not there"));
            }
            lists.push((
                frame,
                item,
                ContentId::new(Digest::from_bytes(wire.array()?)),
            ));
        }
        if !lists.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)) {
            return Err(PackIndexError::Malformed("chunk lists are not sorted"));
        }
        wire.finish()?;
        Ok((
            PackName {
                kind,
                id: PackId::new(id),
            },
            Self {
                kind,
                frames,
                lists,
            },
        ))
    }

    /// Finds the length of the index in the last [`TRAILER_BYTES`] of a pack of `pack_bytes`.
    pub(crate) fn length_in_trailer(
        trailer: &[u8],
        pack_bytes: u64,
    ) -> Result<u64, PackIndexError> {
        let mut wire = Wire::new(trailer);
        let index_bytes = u64::from(wire.u32()?);
        if wire.array()? != *TAIL {
            return Err(PackIndexError::Malformed("pack has no trailer"));
        }
        wire.finish()?;
        let around = HEAD.len() as u64 + TRAILER_BYTES;
        if index_bytes > INDEX_BYTES_MAX || index_bytes + around > pack_bytes {
            return Err(PackIndexError::Malformed("index is longer than its pack"));
        }
        Ok(index_bytes)
    }
}

fn decode_frame(wire: &mut Wire<'_>, offset_bytes: u64) -> Result<FrameEntry, PackIndexError> {
    let stored_bytes = wire.uvarint32()?;
    let hash = Digest::from_bytes(wire.array()?);
    let item_count = wire.count(ITEM_ENTRY_BYTES_MIN)?;
    if item_count == 0 || item_count > FRAME_ITEMS_MAX {
        return Err(PackIndexError::Malformed("number of items in a frame"));
    }
    let mut items = Vec::with_capacity(item_count);
    let mut plain_bytes = 0;
    for _ in 0..item_count {
        let hash = Digest::from_bytes(wire.array()?);
        let len_bytes = wire.uvarint32()?;
        plain_bytes += u64::from(len_bytes);
        items.push(FrameItem { hash, len_bytes });
    }
    // An incompressible frame grows by far less than this.
    let fits = |bytes: u64| bytes <= FRAME_BYTES_MAX as u64 + (FRAME_BYTES_MAX as u64 >> 6);
    if plain_bytes > FRAME_BYTES_MAX as u64 || !fits(stored_bytes.into()) {
        return Err(PackIndexError::Malformed("frame is too large"));
    }
    Ok(FrameEntry {
        offset_bytes,
        stored_bytes,
        hash,
        items,
    })
}
