//! Following records to every chunk that they need.

use std::collections::HashSet;
use std::sync::Arc;

use super::{FsckError, FsckReport};
use crate::pack::ItemKind;
use crate::{
    BlobStore, CHUNK_BYTES_MAX, ChunkIndex, ContentId, Node, Origin, ReadError, Reader,
    ReaderOptions, Record, RecordId, TreeId,
};

/// Walks the trees of `records`: each must be readable, and each chunk of each file in a pack
/// of the store.
pub(super) async fn check_trees(
    store: &Arc<dyn BlobStore>,
    index: &Arc<ChunkIndex>,
    records: &[(RecordId, Record)],
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    let source = Arc::new(Origin::new(Arc::clone(store)));
    let reader = Reader::new(Arc::clone(index), vec![source], ReaderOptions::default());
    let mut seen = HashSet::new();
    for (id, record) in records {
        let mut walk = Walk {
            reader: &reader,
            record,
            id: *id,
            report,
            seen: &mut seen,
        };
        walk.run().await?;
    }
    Ok(())
}

struct Walk<'a> {
    reader: &'a Reader,
    record: &'a Record,
    id: RecordId,
    report: &'a mut FsckReport,
    /// Items that were checked for this or an earlier record.
    seen: &'a mut HashSet<ItemKind>,
}

impl Walk<'_> {
    async fn run(&mut self) -> Result<(), FsckError> {
        let mut trees: Vec<TreeId> = self.record.trees.clone();
        while let Some(id) = trees.pop() {
            if !self.need(ItemKind::Tree(id))? {
                continue;
            }
            let tree = match self.reader.tree(id).await {
                Ok(tree) => tree,
                Err(error) => {
                    self.problem(ItemKind::Tree(id), &error);
                    continue;
                }
            };
            for entry in tree.entries() {
                match entry.node {
                    Node::Directory(tree) => trees.push(tree),
                    Node::File {
                        content,
                        size_bytes,
                    } => self.file(content, size_bytes).await?,
                    Node::Symlink(_)
                    | Node::CharDevice(_)
                    | Node::BlockDevice(_)
                    | Node::Fifo
                    | Node::Socket => {}
                }
            }
        }
        Ok(())
    }

    async fn file(&mut self, content: ContentId, size_bytes: u64) -> Result<(), FsckError> {
        if size_bytes > CHUNK_BYTES_MAX as u64 && !self.need(ItemKind::ChunkList(content))? {
            return Ok(());
        }
        match self.reader.chunk_list(content, size_bytes).await {
            Ok(list) => {
                for extent in list.extents() {
                    self.need(ItemKind::Chunk(extent.id))?;
                }
            }
            Err(error) => self.problem(ItemKind::ChunkList(content), &error),
        }
        Ok(())
    }

    /// Checks that an item is in a known pack. Returns whether it has yet to be looked into.
    fn need(&mut self, item: ItemKind) -> Result<bool, FsckError> {
        if !self.seen.insert(item) {
            return Ok(false);
        }
        let found = self.reader.index().locate(item)?.is_some();
        if !found {
            self.report
                .problems
                .push(format!("record {}: {item} is missing", self.id));
        }
        Ok(found)
    }

    fn problem(&mut self, item: ItemKind, error: &ReadError) {
        if matches!(error, ReadError::Corrupt { .. }) {
            self.report.corrupt.push(item);
        }
        self.report
            .problems
            .push(format!("record {}: {error}", self.id));
    }
}
