//! How much of each pack is needed.
//!
//! Follows records to every chunk, as far as the limits go: a pack is measured when all records
//! that need it were followed. Which records are followed first differs from run to run, so that
//! each pack has its turn in a store that is larger than the limits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::GcError;
use super::mark::Marked;
use super::moved::{MOVED_RECORDS_MAX, Moves};
use crate::chunk_list::ChunkList;
use crate::pack::{INDEX_BYTES_MAX, ItemKind, PackIndex, PackKind, PackName};
use crate::{
    BlobStore, CHUNK_BYTES_MAX, ContentId, Digest, Node, Record, RecordId, RecordKind, StoreError,
    Tree, TreeId, UnverifiedBytes,
};

/// Items that are remembered at once; some 100 bytes of memory each.
const ITEMS_MAX: usize = 4 << 20;
/// Bytes of tree packs that a run reads.
const READ_BYTES_MAX: u64 = 4 << 30;
/// Bytes of tree packs that are kept in memory.
const CACHE_BYTES_MAX: usize = 128 << 20;
/// Longest tree pack that is read.
const TREE_PACK_BYTES_MAX: u64 = 128 << 20;

/// How a pack stands.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) name: PackName,
    /// The records that need it.
    pub(super) records: BTreeSet<RecordId>,
    /// The frames with anything that is needed in them.
    pub(super) live: BTreeSet<u32>,
    pub(super) bytes_live: u64,
    pub(super) bytes: u64,
}

impl Measured {
    pub(super) const fn is_below(&self, percent: u64) -> bool {
        self.bytes_live.saturating_mul(100) < self.bytes.saturating_mul(percent)
    }
}

/// Follows records through their trees.
struct Census<'a> {
    store: &'a dyn BlobStore,
    /// Where trees and chunk lists are.
    places: HashMap<ItemKind, (PackName, u32, u32)>,
    indexes: HashMap<PackName, PackIndex>,
    packs: HashMap<PackName, bytes::Bytes>,
    cached_bytes: usize,
    read_bytes: u64,
    reached: HashSet<ItemKind>,
}

/// Why a record cannot be followed. What it needs is then not known.
enum Unfollowed {
    /// A limit is reached.
    Limit,
    /// Something is damaged or missing.
    Damaged(String),
    Failed(GcError),
}

impl From<StoreError> for Unfollowed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(key) => Self::Damaged(format!("{key} is not there")),
            error => Self::Failed(error.into()),
        }
    }
}

/// Measures the packs that the marked records need. `turn` decides which records come first.
pub(super) async fn measure(
    store: &dyn BlobStore,
    marked: &Marked,
    moves: &Moves,
    turn: u64,
) -> Result<Vec<Measured>, GcError> {
    let mut census = Census {
        store,
        places: HashMap::new(),
        indexes: HashMap::new(),
        packs: HashMap::new(),
        cached_bytes: 0,
        read_bytes: 0,
        reached: HashSet::new(),
    };
    let mut needed_by: BTreeMap<PackName, BTreeSet<RecordId>> = BTreeMap::new();
    let mut incomplete: BTreeSet<PackName> = BTreeSet::new();
    let mut ids = marked.records();
    ids.sort_by_key(|id| Digest::of(&[&id.as_bytes()[..], &turn.to_le_bytes()].concat()));
    for id in ids {
        let record = match Record::read(store, id).await {
            Ok(record) => record,
            // Deleted since by its owner.
            Err(crate::RecordError::Store(StoreError::NotFound(_))) => continue,
            Err(source) => {
                let name = id.to_string();
                return Err(GcError::Record { name, source });
            }
        };
        let packs = moves.resolve(id, &record.packs);
        for pack in &packs {
            needed_by.entry(*pack).or_default().insert(id);
        }
        let followed = match record.kind {
            // A trace needs all of its packs.
            RecordKind::Trace => Err(Unfollowed::Limit),
            _ => census.follow(&record.trees, &packs).await,
        };
        match followed {
            Ok(()) => {}
            Err(Unfollowed::Failed(error)) => return Err(error),
            Err(unfollowed) => {
                if let Unfollowed::Damaged(reason) = unfollowed {
                    tracing::warn!(record = %id, reason, "a record cannot be followed");
                }
                incomplete.extend(packs);
            }
        }
    }
    needed_by
        .retain(|pack, records| !incomplete.contains(pack) && records.len() <= MOVED_RECORDS_MAX);
    let mut measured = Vec::new();
    for (name, records) in needed_by {
        let Some(index) = fetch_index(store, name).await? else {
            continue;
        };
        measured.push(census.count(name, records, &index));
    }
    Ok(measured)
}

/// Reads the copy of a pack's index; `None` when there is no right one: such a pack is left alone.
pub(super) async fn fetch_index(
    store: &dyn BlobStore,
    name: PackName,
) -> Result<Option<PackIndex>, GcError> {
    match store.get(&name.index_key(), INDEX_BYTES_MAX).await {
        Ok((bytes, _)) => Ok(PackIndex::decode(name, &bytes).ok()),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Census<'_> {
    async fn follow(
        &mut self,
        roots: &[TreeId],
        packs: &BTreeSet<PackName>,
    ) -> Result<(), Unfollowed> {
        for name in packs.iter().filter(|name| name.kind == PackKind::Tree) {
            self.learn(*name).await?;
        }
        let mut trees = roots.to_vec();
        while let Some(id) = trees.pop() {
            if !self.reach(ItemKind::Tree(id))? {
                continue;
            }
            let bytes = self.read(ItemKind::Tree(id)).await?;
            let tree = Tree::decode(id, &bytes);
            let tree = tree.map_err(|error| Unfollowed::Damaged(error.to_string()))?;
            for entry in tree.entries() {
                match entry.node {
                    Node::Directory(tree) => trees.push(tree),
                    Node::File {
                        content,
                        size_bytes,
                    } => self.follow_content(content, size_bytes).await?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn follow_content(
        &mut self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<(), Unfollowed> {
        if size_bytes == 0 {
            return Ok(());
        }
        if size_bytes <= CHUNK_BYTES_MAX as u64 {
            self.reach(ItemKind::Chunk(content.as_single_chunk()))?;
            return Ok(());
        }
        let list = ItemKind::ChunkList(content);
        if !self.reach(list)? {
            return Ok(());
        }
        let bytes = self.read(list).await?;
        let list = ChunkList::decode(&bytes);
        let list = list.map_err(|error| Unfollowed::Damaged(error.to_string()))?;
        for extent in list.extents() {
            self.reach(ItemKind::Chunk(extent.id))?;
        }
        Ok(())
    }

    /// Notes that an item is needed; tells whether that is new.
    fn reach(&mut self, item: ItemKind) -> Result<bool, Unfollowed> {
        if self.reached.len() + self.places.len() >= ITEMS_MAX {
            return Err(Unfollowed::Limit);
        }
        Ok(self.reached.insert(item))
    }

    async fn learn(&mut self, name: PackName) -> Result<(), Unfollowed> {
        if self.indexes.contains_key(&name) {
            return Ok(());
        }
        let index = fetch_index(self.store, name)
            .await
            .map_err(Unfollowed::Failed)?;
        let missing = || Unfollowed::Damaged(format!("{} is not there", name.index_key()));
        let index = index.ok_or_else(missing)?;
        for (frame, number, item) in index.items() {
            self.places
                .entry(item.kind)
                .or_insert((name, frame, number));
        }
        self.indexes.insert(name, index);
        Ok(())
    }

    /// Reads a tree or a chunk list, and checks its hash.
    async fn read(&mut self, item: ItemKind) -> Result<Vec<u8>, Unfollowed> {
        let damaged = || Unfollowed::Damaged(format!("{item} is missing or damaged"));
        let (name, frame, number) = *self.places.get(&item).ok_or_else(damaged)?;
        let pack = self.pack(name).await?;
        let index = self.indexes.get(&name).ok_or_else(damaged)?;
        let entry = index.frames().get(frame as usize).ok_or_else(damaged)?;
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let range = at(entry.range().start)..at(entry.range().end);
        let stored = UnverifiedBytes::new(pack)
            .slice(range)
            .ok_or_else(damaged)?;
        let frame = entry.decode(stored).map_err(|_| damaged())?;
        let bytes = frame.item(number).ok_or_else(damaged)?.into_untrusted();
        let hash = entry.items.get(number as usize).map(|item| item.hash);
        if hash != Some(Digest::of(&bytes)) {
            return Err(damaged());
        }
        Ok(bytes.to_vec())
    }

    async fn pack(&mut self, name: PackName) -> Result<bytes::Bytes, Unfollowed> {
        if let Some(pack) = self.packs.get(&name) {
            return Ok(pack.clone());
        }
        if self.read_bytes >= READ_BYTES_MAX {
            return Err(Unfollowed::Limit);
        }
        let (pack, _) = self.store.get(&name.key(), TREE_PACK_BYTES_MAX).await?;
        self.read_bytes += pack.len() as u64;
        if self.cached_bytes + pack.len() > CACHE_BYTES_MAX {
            self.packs.clear();
            self.cached_bytes = 0;
        }
        self.cached_bytes += pack.len();
        self.packs.insert(name, pack.clone());
        Ok(pack)
    }

    fn count(&self, name: PackName, records: BTreeSet<RecordId>, index: &PackIndex) -> Measured {
        let needed = index
            .items()
            .filter(|(_, _, item)| self.reached.contains(&item.kind));
        let live: BTreeSet<u32> = needed.map(|(frame, ..)| frame).collect();
        let (mut bytes_live, mut bytes) = (0, 0);
        for (number, frame) in (0_u32..).zip(index.frames()) {
            let stored_bytes = u64::from(frame.stored_bytes);
            bytes += stored_bytes;
            bytes_live += if live.contains(&number) {
                stored_bytes
            } else {
                0
            };
        }
        Measured {
            name,
            records,
            live,
            bytes_live,
            bytes,
        }
    }
}
