//! Capturing what a sandbox wrote: the walk, the data, the trees.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, ChunkIndex, Clock, ContentId, CrashPoint, Edit, EditError, EditedTree, ItemKind,
    Node, PackKind, PackWriter, ReadError, Reader, Tree, TreeId, TreePath, TreeReader, WriteStats,
    WriterOptions, edit_tree, tree_at,
};
use tokio::runtime::Handle;

use super::clones::Clones;
use super::contents::{Contents, TICK_MAX};
use super::error::SnapshotError;
use super::freeze::Frozen;
use super::glob::Globs;
use super::overlay::{Changes, Walk};
use super::state::State;
use super::upper::UpperEntry;

/// Times that files to be cloned are flushed before the freeze.
const FLUSHES: usize = 2;

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
    pub(crate) cloned: u64,
    pub(crate) skipped: Vec<String>,
    pub(super) state: State,
}

/// What the walk found.
struct Walked {
    edits: BTreeMap<TreePath, Edit>,
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
        let clones = if mapped {
            Clones::beside(&capture.upper)
        } else {
            Clones::none()
        };
        let now_ms = self.clock.now_ms();
        let mut contents = Contents::new(make_writer, known, mapped, now_ms, clones)?;
        let mut walked = self.walk(capture, base, &mut contents)?;
        let cloned = contents.clones_taken();
        name_clones(&mut walked.edits, &contents.read_clones()?);

        let mut items = std::mem::take(&mut contents.items);
        let lists = std::mem::take(&mut contents.lists);
        let (mut stats, learned) = contents.finish()?;
        state.files = learned;
        self.writer.crash.reach(CrashPoint::DataFinished);

        let mut new: Vec<_> = lists
            .into_iter()
            .map(|(content, bytes)| (ItemKind::ChunkList(content), bytes))
            .collect();
        let EditedTree { root: tree, trees } = self.merge(capture, &walked.edits)?;
        let trees = trees.into_iter();
        new.extend(trees.map(|(id, bytes)| (ItemKind::Tree(id), bytes)));
        items.extend(new.iter().map(|(item, _)| *item));
        let tree_stats = self.store_metadata(new)?;
        self.writer.crash.reach(CrashPoint::TreesFinished);
        stats.bytes_stored += tree_stats.bytes_stored;
        stats.packs += tree_stats.packs;
        Ok(Captured {
            tree,
            items: items.into_iter().collect(),
            changes: walked.changes,
            stats,
            frozen: walked.frozen,
            cloned,
            skipped: walked.skipped,
            state,
        })
    }

    /// Walks the upper directory, frozen if anyone writes to it.
    fn walk(
        &self,
        capture: &Capture,
        base: TreeId,
        contents: &mut Contents<'_>,
    ) -> Result<Walked, SnapshotError> {
        let listings: RefCell<HashMap<TreeId, Arc<Tree>>> = RefCell::default();
        let trees = |id: TreeId| -> Result<Arc<Tree>, ReadError> {
            if let Some(tree) = listings.borrow().get(&id) {
                return Ok(Arc::clone(tree));
            }
            let tree = self.tree(id)?;
            listings.borrow_mut().insert(id, Arc::clone(&tree));
            Ok(tree)
        };
        let mut walk = Walk::new(&trees, contents, &capture.excludes, base);
        let guard = match &capture.cgroup {
            None => None,
            Some(cgroup) => {
                self.read_ahead(&mut walk, &UpperEntry::root(&capture.upper)?)?;
                let began = self.clock.elapsed();
                let frozen = Frozen::freeze(cgroup, &self.notes, &*self.clock, &self.runtime)?;
                Some((frozen, began))
            }
        };
        walk.root(&UpperEntry::root(&capture.upper)?)?;
        let frozen = guard.map_or(Duration::ZERO, |(guard, began)| {
            drop(guard);
            self.clock.elapsed().saturating_sub(began)
        });
        Ok(Walked {
            edits: walk.edits,
            changes: walk.changes,
            skipped: walk.skipped,
            frozen,
        })
    }

    /// Reads large files before the freeze, and flushes those that will be cloned in it. What is
    /// written meanwhile is flushed by the second time, which takes as much less as the disk is faster
    /// than the writer.
    fn read_ahead(
        &self,
        walk: &mut Walk<'_, Contents<'_>>,
        upper: &UpperEntry,
    ) -> Result<(), SnapshotError> {
        walk.ahead(upper, &mut |contents, inode| contents.read_ahead(inode))?;
        if walk.contents.should_wait() {
            self.runtime.block_on(self.clock.sleep(TICK_MAX));
            walk.contents.settle(self.clock.now_ms());
            walk.ahead(upper, &mut |contents, inode| contents.read_ahead(inode))?;
        }
        for _ in 0..FLUSHES {
            let mut flushed = false;
            if walk.contents.may_clone() {
                walk.ahead(upper, &mut |contents, inode| {
                    flushed |= contents.flush(inode);
                    Ok(())
                })?;
            }
            if !flushed {
                break;
            }
        }
        Ok(())
    }

    /// Makes the tree of the snapshot.
    fn merge(
        &self,
        capture: &Capture,
        edits: &BTreeMap<TreePath, Edit>,
    ) -> Result<EditedTree, SnapshotError> {
        let whole = edit_tree(&*self.reader, capture.base, edits);
        let whole = self.runtime.block_on(whole)?;
        let path = TreePath::parse(capture.path.as_bytes());
        let path = path.map_err(|error| SnapshotError::Invalid(error.to_string()))?;
        if path.is_root() {
            return Ok(whole);
        }
        let reader = NewTrees::new(&self.reader, whole.trees.iter().cloned());
        let part = self
            .runtime
            .block_on(tree_at(&reader, whole.root, &path))
            .map_err(|error| match error {
                EditError::NoDirectory(_) => SnapshotError::NotDirectory(capture.path.clone()),
                other => other.into(),
            })?;
        let (root, mut trees) = (part.root, whole.trees);
        trees.extend(part.trees);
        Ok(EditedTree { root, trees })
    }

    /// Stores the trees and chunk lists that are not stored yet. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was stored by then is garbage.
    pub(crate) fn store_metadata(
        &self,
        new: Vec<(ItemKind, Vec<u8>)>,
    ) -> Result<WriteStats, SnapshotError> {
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

    pub(super) fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.runtime.block_on(self.reader.tree(id))
    }

    fn writer(&self, kind: PackKind) -> PackWriter {
        self.writer_with(kind, self.writer.clone())
    }

    pub(super) fn writer_with(&self, kind: PackKind, options: WriterOptions) -> PackWriter {
        let (store, index) = (Arc::clone(&self.store), Arc::clone(&self.index));
        PackWriter::new(kind, store, index, self.runtime.clone(), options)
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

/// Puts the contents of clones in the place of what stands for them.
fn name_clones(edits: &mut BTreeMap<TreePath, Edit>, contents: &HashMap<ContentId, ContentId>) {
    if contents.is_empty() {
        return;
    }
    for edit in edits.values_mut() {
        if let Edit::Put {
            node: Node::File { content, .. },
            ..
        } = edit
            && let Some(read) = contents.get(content)
        {
            *content = *read;
        }
    }
}

/// Reads trees that are not stored yet, and others.
pub(super) struct NewTrees<'a> {
    reader: &'a Reader,
    new: HashMap<TreeId, Vec<u8>>,
}

impl<'a> NewTrees<'a> {
    pub(super) fn new(
        reader: &'a Reader,
        new: impl IntoIterator<Item = (TreeId, Vec<u8>)>,
    ) -> Self {
        let new = new.into_iter().collect();
        Self { reader, new }
    }
}

#[async_trait::async_trait]
impl TreeReader for NewTrees<'_> {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        let Some(bytes) = self.new.get(&id) else {
            return self.reader.tree(id).await;
        };
        let tree = Tree::decode(id, bytes).map_err(|error| ReadError::Corrupt {
            what: format!("tree {id}"),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(tree))
    }
}

fn not_root(id: TreeId) -> SnapshotError {
    SnapshotError::Invalid(format!("tree {id} is not the root of a file system"))
}
