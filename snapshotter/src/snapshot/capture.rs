//! Capturing what a sandbox wrote: the walk, the data, the trees.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, ChunkIndex, Clock, CrashPoint, ItemKind, Node, PackKind, PackWriter, ReadError,
    Reader, Tree, TreeId, WriteStats, WriterOptions,
};
use tokio::runtime::Handle;

use super::contents::Contents;
use super::error::SnapshotError;
use super::freeze::Frozen;
use super::glob::Globs;
use super::overlay::{Changes, Merge, each_file};
use super::state::State;
use super::upper::UpperEntry;

/// What captures work with.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) index: Arc<ChunkIndex>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) writer: WriterOptions,
    pub(crate) runtime: Handle,
    /// Where frozen cgroups are noted.
    pub(crate) notes: PathBuf,
}

/// What to capture.
#[derive(Debug, Clone)]
pub(crate) struct Capture {
    /// The upper directory.
    pub(crate) upper: PathBuf,
    /// Where what was learned of it is kept.
    pub(crate) state: PathBuf,
    /// The root tree of the lower side.
    pub(crate) base: TreeId,
    /// The cgroup of the processes that write to it, if any do.
    pub(crate) cgroup: Option<String>,
    /// The directory to make the root of the snapshot, `/` for all.
    pub(crate) path: String,
    /// What to leave out.
    pub(crate) excludes: Globs,
}

/// What was captured; stored, but named by nothing.
#[derive(Debug)]
pub(crate) struct Captured {
    /// The root tree.
    pub(crate) tree: TreeId,
    /// What it needs beside what the base has.
    pub(crate) items: BTreeSet<ItemKind>,
    pub(super) changes: Changes,
    pub(crate) stats: WriteStats,
    pub(crate) frozen: Duration,
    pub(crate) skipped: Vec<String>,
    pub(super) state: State,
}

/// The merged file system before it is stored.
struct Merged {
    root: TreeId,
    trees: Vec<(TreeId, Vec<u8>)>,
    changes: Changes,
    skipped: Vec<String>,
    frozen: Duration,
}

impl Tools {
    /// Captures an upper directory and stores its data, then its trees. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was stored by then is garbage.
    pub(crate) fn capture(&self, capture: &Capture) -> Result<Captured, SnapshotError> {
        let base_root = self.tree(capture.base)?;
        let (_, base) = base_root.as_root().ok_or_else(|| not_root(capture.base))?;
        let mut state = State::read(&capture.state, &capture.base.to_string());
        let known = std::mem::take(&mut state.files);
        let mapped = capture.cgroup.is_some();
        let make_writer = Box::new(|| self.writer(PackKind::Data));
        let mut contents = Contents::new(make_writer, known, mapped, self.clock.now_ms());
        let merged = self.merge(capture, base, &mut contents)?;

        let mut items = std::mem::take(&mut contents.items);
        let lists = std::mem::take(&mut contents.lists);
        let (mut stats, learned) = contents.finish()?;
        state.files = learned;
        self.writer.crash.reach(CrashPoint::DataFinished);

        let mut new: Vec<_> = lists
            .into_iter()
            .map(|(content, bytes)| (ItemKind::ChunkList(content), bytes))
            .collect();
        let trees = merged.trees.into_iter();
        new.extend(trees.map(|(id, bytes)| (ItemKind::Tree(id), bytes)));
        let tree = self.subtree(&capture.path, merged.root, &mut new)?;
        items.extend(new.iter().map(|(item, _)| *item));
        let tree_stats = self.store_metadata(new)?;
        self.writer.crash.reach(CrashPoint::TreesFinished);
        stats.bytes_stored += tree_stats.bytes_stored;
        stats.packs += tree_stats.packs;
        Ok(Captured {
            tree,
            items: items.into_iter().collect(),
            changes: merged.changes,
            stats,
            frozen: merged.frozen,
            skipped: merged.skipped,
            state,
        })
    }

    /// Walks the upper directory, frozen if anyone writes to it.
    fn merge(
        &self,
        capture: &Capture,
        base: TreeId,
        contents: &mut Contents<'_>,
    ) -> Result<Merged, SnapshotError> {
        let root = UpperEntry::root(&capture.upper)?;
        let guard = match &capture.cgroup {
            None => None,
            Some(cgroup) => {
                each_file(&root, 0, &mut |inode| contents.read_ahead(inode))?;
                let began = self.clock.elapsed();
                let frozen = Frozen::freeze(cgroup, &self.notes, &*self.clock, &self.runtime)?;
                Some((frozen, began))
            }
        };
        // Read again: the attributes may be others by now.
        let root = UpperEntry::root(&capture.upper)?;
        let trees = |id| self.tree(id);
        let mut merge = Merge::new(&trees, contents, &capture.excludes, base);
        let directory = merge.root(&root)?;
        let frozen = guard.map_or(Duration::ZERO, |(guard, began)| {
            drop(guard);
            self.clock.elapsed().saturating_sub(began)
        });
        let (id, bytes) = Tree::root(root.attributes, directory)?.encode()?;
        merge.new_trees.push((id, bytes));
        Ok(Merged {
            root: id,
            trees: merge.new_trees,
            changes: merge.changes,
            skipped: merge.skipped,
            frozen,
        })
    }

    /// Returns the root of a directory snapshot of `path`, added to the new trees.
    fn subtree(
        &self,
        path: &str,
        root: TreeId,
        new: &mut Vec<(ItemKind, Vec<u8>)>,
    ) -> Result<TreeId, SnapshotError> {
        let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
        let Some((last, parents)) = names.split_last() else {
            return Ok(root);
        };
        let at_hand: HashMap<_, _> = new.iter().map(|(item, bytes)| (*item, bytes)).collect();
        let read = |id: TreeId| -> Result<Arc<Tree>, SnapshotError> {
            match at_hand.get(&ItemKind::Tree(id)) {
                Some(bytes) => Ok(Arc::new(Tree::decode(id, bytes)?)),
                None => Ok(self.tree(id)?),
            }
        };
        let missing = || SnapshotError::NotDirectory(path.to_owned());
        let root = read(root)?;
        let (_, mut at) = root.as_root().ok_or_else(missing)?;
        for name in parents {
            at = match read(at)?.get(name.as_bytes()).map(|(_, entry)| &entry.node) {
                Some(Node::Directory(id)) => *id,
                _ => return Err(missing()),
            };
        }
        let parent = read(at)?;
        let (id, bytes) = match parent.get(last.as_bytes()) {
            Some((_, entry)) => match entry.node {
                Node::Directory(id) => Tree::root(entry.attributes.clone(), id)?.encode()?,
                _ => return Err(missing()),
            },
            None => return Err(missing()),
        };
        new.push((ItemKind::Tree(id), bytes));
        Ok(id)
    }

    /// Stores the trees and chunk lists that are not stored yet.
    fn store_metadata(&self, new: Vec<(ItemKind, Vec<u8>)>) -> Result<WriteStats, SnapshotError> {
        let mut unknown = Vec::new();
        for (item, bytes) in new {
            if self.index.locate(item)?.is_none() {
                unknown.push((item, bytes));
            }
        }
        if unknown.is_empty() {
            return Ok(WriteStats::default());
        }
        let writer = self.writer(PackKind::Tree);
        let mut stream = writer.stream();
        for (item, bytes) in &unknown {
            stream.add_metadata(*item, bytes)?;
        }
        stream.flush()?;
        drop(stream);
        Ok(writer.finish()?)
    }

    fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.runtime.block_on(self.reader.tree(id))
    }

    fn writer(&self, kind: PackKind) -> PackWriter {
        let (store, index) = (Arc::clone(&self.store), Arc::clone(&self.index));
        PackWriter::new(
            kind,
            store,
            index,
            self.runtime.clone(),
            self.writer.clone(),
        )
    }
}

impl Captured {
    /// Returns the last snapshot of this upper directory's `path`.
    pub(crate) fn parent(&self, path: &str) -> Option<&str> {
        self.state.parents.get(path).map(String::as_str)
    }

    /// Returns the names that the base did not have.
    pub(crate) const fn added(&self) -> u64 {
        self.changes.added
    }

    /// Returns the names that stand for something else, or have other attributes.
    pub(crate) const fn modified(&self) -> u64 {
        self.changes.modified
    }

    /// Returns the names of the base that are gone.
    pub(crate) const fn removed(&self) -> u64 {
        self.changes.removed
    }

    /// Returns the bytes of files that the base did not have.
    pub(crate) const fn bytes_changed(&self) -> u64 {
        self.changes.bytes
    }

    /// Remembers for the next capture that `snapshot` was made of `path`.
    pub(crate) fn remember(mut self, path: &str, snapshot: String, file: &Path, base: TreeId) {
        self.state.parents.insert(path.to_owned(), snapshot);
        self.state.write(file, &base.to_string());
    }
}

fn not_root(id: TreeId) -> SnapshotError {
    SnapshotError::Invalid(format!("tree {id} is not the root of a file system"))
}
