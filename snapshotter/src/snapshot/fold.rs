//! Keeping the packs of a long line of snapshots few.
//!
//! A snapshot names the packs of what it was made after, beside its own two. After hundreds of small
//! ones that are hundreds of packs, whose indexes every node has to fetch. So when there are too many
//! small ones, what the tree still reaches of them is copied into one pack of each kind, and packs of
//! which it reaches nothing are not named any more. Older snapshots go on naming the old ones.
//!
//! A pack that is not copied holds much that is reached, so the number of packs grows with what a
//! snapshot holds, not with how many were before it; and what is copied ends in a pack that is large
//! enough to be left alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt, stream};
use nacre_blobstore::{
    CHUNK_BYTES_MAX, Chunk, ChunkId, ContentId, Entry, IndexError, ItemKind, Location, Node,
    PackKind, PackName, Reader, Tree, TreeId, WriteStats, WriterOptions,
};

use super::capture::Tools;
use super::error::SnapshotError;

/// Small packs beside those of the image that a snapshot names at most.
pub(crate) const SMALL_PACKS_MAX: usize = 32;
/// Frames from which on a pack is not small: some 4 MiB plain.
const LARGE_FRAMES_MIN: u32 = 16;
/// A pack of which less is reached is copied, too, when small ones are. Plain bytes.
const REACHED_BYTES_MIN: u64 = 4 << 20;
/// Items that are read at once.
const READS_MAX: usize = 16;

/// What need not be copied: the packs of the image at the start of the line, and its tree.
#[derive(Debug, Clone, Default)]
pub(crate) struct FoldBase {
    pub(crate) tree: Option<TreeId>,
    pub(crate) packs: BTreeSet<PackName>,
}

/// Something that a tree reaches.
#[derive(Debug, Clone, Copy)]
struct Reached {
    location: Location,
    item: ItemKind,
    /// Of a chunk list the length of the content.
    size_bytes: u64,
}

/// An item's bytes, on their way into another pack.
enum Copied {
    Chunk(Chunk),
    Metadata(ItemKind, Vec<u8>),
}

impl Tools {
    /// Tells whether `packs` has too many small ones.
    ///
    /// # Errors
    /// [`IndexError`] when the index is damaged.
    pub(crate) fn should_fold(
        &self,
        packs: &BTreeSet<PackName>,
        base: &FoldBase,
    ) -> Result<bool, IndexError> {
        let mut small = 0;
        for pack in packs.difference(&base.packs) {
            small += usize::from(self.is_small(*pack)?);
        }
        Ok(small > SMALL_PACKS_MAX)
    }

    fn is_small(&self, pack: PackName) -> Result<bool, IndexError> {
        Ok(!self.index.has_frames(pack, LARGE_FRAMES_MIN)?)
    }

    /// Copies what `tree` reaches in small packs; returns packs that hold all that it reaches. Costs
    /// time and requests for what differs from the base. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was stored by then is garbage.
    pub(crate) fn fold(
        &self,
        tree: TreeId,
        base: FoldBase,
    ) -> Result<(BTreeSet<PackName>, WriteStats), SnapshotError> {
        let reached = self.locate_all(self.reached(tree, base.tree)?)?;
        let bytes = self.bytes_by_pack(&reached)?;
        let mut packs = base.packs;
        let mut copied_packs = HashSet::new();
        for (number, bytes) in bytes {
            let pack = self.index.pack(number)?;
            if packs.contains(&pack) {
                continue;
            }
            if bytes < REACHED_BYTES_MIN || self.is_small(pack)? {
                copied_packs.insert(number);
            } else {
                packs.insert(pack);
            }
        }
        let copied: Vec<_> = reached
            .into_iter()
            .filter(|reached| copied_packs.contains(&reached.location.pack))
            .collect();
        let (data, metadata): (Vec<_>, Vec<_>) = copied
            .iter()
            .partition(|reached| matches!(reached.item, ItemKind::Chunk(_)));
        let mut stats = self.copy(PackKind::Data, data)?;
        let metadata = self.copy(PackKind::Tree, metadata)?;
        stats.bytes_stored += metadata.bytes_stored;
        stats.packs += metadata.packs;
        let (new, missing) = self.index.packs_of(copied.iter().map(|r| r.item))?;
        if let Some(item) = missing.first() {
            return Err(SnapshotError::Missing(item.to_string()));
        }
        packs.extend(new);
        tracing::debug!(
            items = copied.len(),
            packs = packs.len(),
            "fold small packs"
        );
        Ok((packs, stats))
    }

    /// Finds all that `tree` reaches and `base` does not have at the same path; of each chunk list
    /// with the length of its content.
    fn reached(
        &self,
        tree: TreeId,
        base: Option<TreeId>,
    ) -> Result<HashMap<ItemKind, u64>, SnapshotError> {
        let mut reached = HashMap::new();
        let mut pending = vec![(tree, base)];
        while let Some((tree, base)) = pending.pop() {
            // One that was met before over another part of the base: what was passed over then is
            // in the base all the same.
            if Some(tree) == base || reached.insert(ItemKind::Tree(tree), 0).is_some() {
                continue;
            }
            let listing = self.tree(tree)?;
            let below = base.map(|base| self.tree(base)).transpose()?;
            for entry in listing.entries() {
                let before = below.as_deref().and_then(|below| node(below, entry));
                match (&entry.node, before) {
                    (Node::Directory(tree), Some(Node::Directory(base))) => {
                        pending.push((*tree, Some(*base)));
                    }
                    (Node::Directory(tree), _) => pending.push((*tree, None)),
                    (
                        Node::File {
                            content,
                            size_bytes,
                        },
                        before,
                    ) if before != Some(&entry.node) => {
                        self.reach_content(*content, *size_bytes, &mut reached)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(reached)
    }

    fn reach_content(
        &self,
        content: ContentId,
        size_bytes: u64,
        reached: &mut HashMap<ItemKind, u64>,
    ) -> Result<(), SnapshotError> {
        if size_bytes == 0 {
            return Ok(());
        }
        if size_bytes <= CHUNK_BYTES_MAX as u64 {
            reached.insert(ItemKind::Chunk(ChunkId::new(*content.digest())), 0);
            return Ok(());
        }
        let list = self.reader.chunk_list(content, size_bytes);
        let list = self.runtime.block_on(list)?;
        reached.insert(ItemKind::ChunkList(content), size_bytes);
        reached.extend(list.extents().iter().map(|e| (ItemKind::Chunk(e.id), 0)));
        Ok(())
    }

    /// Finds where all of it is, in the order in which it is there.
    fn locate_all(&self, items: HashMap<ItemKind, u64>) -> Result<Vec<Reached>, SnapshotError> {
        let mut reached = Vec::with_capacity(items.len());
        for (item, size_bytes) in items {
            let location = self.index.locate(item)?;
            reached.push(Reached {
                location: location.ok_or_else(|| SnapshotError::Missing(item.to_string()))?,
                item,
                size_bytes,
            });
        }
        reached.sort_unstable_by_key(|reached| reached.location);
        Ok(reached)
    }

    /// Sums up, for each pack, the plain bytes of sorted items.
    fn bytes_by_pack(&self, reached: &[Reached]) -> Result<BTreeMap<u32, u64>, SnapshotError> {
        let mut bytes = BTreeMap::new();
        let same_frame = |a: &Reached, b: &Reached| {
            (a.location.pack, a.location.frame) == (b.location.pack, b.location.frame)
        };
        for items in reached.chunk_by(same_frame) {
            let location = items[0].location;
            let frame = self.index.frame(location)?;
            let len = |reached: &Reached| {
                let item = frame.items.get(reached.location.item as usize);
                item.map_or(0, |item| u64::from(item.len_bytes))
            };
            *bytes.entry(location.pack).or_default() += items.iter().map(len).sum::<u64>();
        }
        Ok(bytes)
    }

    /// Stores items again, in packs of one kind.
    fn copy(&self, kind: PackKind, items: Vec<&Reached>) -> Result<WriteStats, SnapshotError> {
        if items.is_empty() {
            return Ok(WriteStats::default());
        }
        let options = WriterOptions {
            copies: true,
            ..self.writer.clone()
        };
        let writer = self.writer_with(kind, options);
        let mut packs = writer.stream();
        let mut read = stream::iter(items)
            .map(|reached| read(&self.reader, *reached))
            .buffered(READS_MAX);
        while let Some(copied) = self.runtime.block_on(read.next()) {
            match copied? {
                Copied::Chunk(chunk) => packs.add_chunk(&chunk)?,
                Copied::Metadata(item, bytes) => packs.add_metadata(item, &bytes)?,
            }
        }
        packs.flush()?;
        drop(packs);
        Ok(writer.finish()?)
    }
}

fn node<'t>(tree: &'t Tree, entry: &Entry) -> Option<&'t Node> {
    tree.get(&entry.name).map(|(_, entry)| &entry.node)
}

async fn read(reader: &Reader, reached: Reached) -> Result<Copied, SnapshotError> {
    Ok(match reached.item {
        ItemKind::Chunk(id) => Copied::Chunk(reader.chunk(id).await?),
        ItemKind::Tree(id) => Copied::Metadata(reached.item, reader.tree(id).await?.encode()?.1),
        ItemKind::ChunkList(content) => {
            let list = reader.chunk_list(content, reached.size_bytes).await?;
            Copied::Metadata(reached.item, list.encode()?)
        }
    })
}
