//! The differences of two trees.
//!
//! Directories with equal ids are not read, so that the cost is that of the change and not of the
//! trees. Directories that differ are read ahead of the walk, [`READS_MAX`] at once, and at most
//! [`AHEAD_MAX`] wait for it: a change in many places does not cost one round trip for each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future};

use super::edit::{Op, Source};
use super::path::TREE_PATH_BYTES_MAX;
use super::read::{READS_MAX, read_root};
use super::{Entry, Node, Tree, TreePath, TreeReader};
use crate::{ReadError, TreeId};

/// Pairs of directories that are read before the walk comes to them.
const AHEAD_MAX: usize = 64;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: TreePath,
    /// What the first tree has there. A directory's own id says nothing: what it holds is compared
    /// by its own paths.
    pub before: Option<Entry>,
    /// What the second tree has there.
    pub after: Option<Entry>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// Both have it, and not the same.
    Modified,
}

/// What is not the same at a path that was modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Modified {
    /// Its kind: a file became a directory, say. The rest is `false` then.
    pub kind: bool,
    /// The bytes of a file, the target of a symlink, the number of a device.
    pub content: bool,
    /// The permission bits.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// The time of modification.
    pub mtime: bool,
    /// The extended attributes.
    pub xattrs: bool,
    /// The number of names of the inode, or which these are.
    pub links: bool,
}

impl Difference {
    /// Returns what happened.
    pub const fn operation(&self) -> Operation {
        match (&self.before, &self.after) {
            (None, _) => Operation::Added,
            (Some(_), None) => Operation::Removed,
            (Some(_), Some(_)) => Operation::Modified,
        }
    }

    /// Returns what is not the same where both trees have something; nothing otherwise.
    pub fn modified(&self) -> Modified {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return Modified::default();
        };
        let (old, new) = (&before.attributes, &after.attributes);
        if std::mem::discriminant(&before.node) != std::mem::discriminant(&after.node) {
            return Modified {
                kind: true,
                ..Modified::default()
            };
        }
        Modified {
            kind: false,
            content: !same_node(&before.node, &after.node),
            mode: old.mode != new.mode,
            owner: (old.uid, old.gid) != (new.uid, new.gid),
            mtime: old.mtime != new.mtime,
            xattrs: old.xattrs != new.xattrs,
            links: before.hard_link != after.hard_link,
        }
    }

    /// Returns the bytes of the file's content where that is new, or went: 0 when only attributes
    /// changed, and for all that is no file. Each name of a hard link counts.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Option<Entry>| match entry.as_ref().map(|entry| &entry.node) {
            Some(Node::File { size_bytes, .. }) => Some(*size_bytes),
            _ => None,
        };
        let modified = self.modified();
        match self.operation() {
            Operation::Modified if !modified.content && !modified.kind => 0,
            _ => (size(&self.after).or_else(|| size(&self.before))).unwrap_or(0),
        }
    }

    /// Returns what makes the first tree the second at this path.
    pub(super) fn into_op(self) -> (TreePath, Op) {
        let was_directory = self.before.is_some_and(|entry| is_directory(&entry));
        let op = match self.after {
            None => Op::Remove,
            Some(Entry {
                attributes,
                node: Node::Directory(_),
                ..
            }) => Op::Directory {
                attributes,
                source: if was_directory {
                    Source::Kept
                } else {
                    Source::Empty
                },
            },
            Some(Entry {
                attributes,
                node,
                hard_link,
                ..
            }) => Op::Leaf {
                attributes,
                node,
                hard_link,
            },
        };
        (self.path, op)
    }
}

/// A walk over the differences of two trees, in the order of [`TreePath`].
///
/// All that is below a directory that was added or removed is a difference of its own.
pub struct Diff<'a, R: ?Sized> {
    trees: &'a R,
    /// The difference of the roots themselves.
    first: Option<Difference>,
    /// Where the walk has to go next before it goes on in the last of `stack`.
    descend: Option<TreePath>,
    /// The directories from the root down to where the walk is.
    stack: Vec<Directories>,
    /// Pairs that nobody reads yet. All of them are ahead of the walk.
    wanted: BTreeMap<TreePath, Pair>,
    reading: FuturesUnordered<BoxFuture<'a, Result<Directories, ReadError>>>,
    ready: BTreeMap<TreePath, Directories>,
}

/// A directory of each tree that stand at the same path and differ.
type Pair = (Option<TreeId>, Option<TreeId>);

impl<'a, R: TreeReader + ?Sized> Diff<'a, R> {
    /// Compares what is below two roots.
    ///
    /// # Errors
    /// Any [`ReadError`]; [`ReadError::Corrupt`] for a tree that is not a root.
    pub async fn of_roots(trees: &'a R, before: TreeId, after: TreeId) -> Result<Self, ReadError> {
        if before == after {
            return Ok(Self::of_entries(trees, None, None));
        }
        let (before, after) =
            future::try_join(read_root(trees, before), read_root(trees, after)).await?;
        Ok(Self::of_entries(trees, Some(&before), Some(&after)))
    }

    /// Compares two entries, of any kind, with all that is below them; their names do not matter.
    pub fn of_entries(trees: &'a R, before: Option<&Entry>, after: Option<&Entry>) -> Self {
        let (first, pair) = compare(&TreePath::root(), before, after);
        Self {
            trees,
            first,
            descend: pair.map(|_| TreePath::root()),
            stack: Vec::new(),
            wanted: pair
                .map(|pair| (TreePath::root(), pair))
                .into_iter()
                .collect(),
            reading: FuturesUnordered::new(),
            ready: BTreeMap::new(),
        }
    }

    /// Returns the next difference; `None` at the end. May be cancelled and called again.
    ///
    /// # Errors
    /// Any [`ReadError`], which may be that of a directory further on. The walk cannot go on then.
    pub async fn next(&mut self) -> Result<Option<Difference>, ReadError> {
        loop {
            if let Some(first) = self.first.take() {
                return Ok(Some(first));
            }
            if let Some(path) = &self.descend {
                let path = path.clone();
                self.enter(&path).await?;
                self.descend = None;
            }
            let Some(directories) = self.stack.last_mut() else {
                return Ok(None);
            };
            match directories.advance() {
                None => {
                    self.stack.pop();
                }
                Some((path, difference, pair)) => {
                    self.first = difference;
                    self.descend = pair.map(|_| path);
                }
            }
        }
    }

    /// Returns all differences that are left.
    ///
    /// # Errors
    /// As for [`Diff::next`].
    pub async fn collect(mut self) -> Result<Vec<Difference>, ReadError> {
        let mut all = Vec::new();
        while let Some(difference) = self.next().await? {
            all.push(difference);
        }
        Ok(all)
    }

    async fn enter(&mut self, path: &TreePath) -> Result<(), ReadError> {
        loop {
            if let Some(directories) = self.ready.remove(path) {
                self.stack.push(directories);
                return Ok(());
            }
            self.read_ahead(path);
            let read = self.reading.next().await.ok_or_else(|| {
                // What the walk comes to was made known when the directory above was read.
                ReadError::Stopped(format!("tree at {path}"))
            })?;
            let directories = read?;
            self.wanted.extend(directories.below());
            self.ready.insert(directories.path.clone(), directories);
        }
    }

    /// Starts reads, that of `needed` before all others.
    fn read_ahead(&mut self, needed: &TreePath) {
        let needed = self.wanted.remove_entry(needed);
        self.start(needed);
        while self.reading.len() < READS_MAX && self.ready.len() + self.reading.len() < AHEAD_MAX {
            let next = self.wanted.pop_first();
            if next.is_none() {
                return;
            }
            self.start(next);
        }
    }

    fn start(&mut self, wanted: Option<(TreePath, Pair)>) {
        if let Some((path, pair)) = wanted {
            self.reading.push(read(self.trees, path, pair).boxed());
        }
    }
}

impl<R: ?Sized> fmt::Debug for Diff<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.stack.last().map(|directories| &directories.path);
        f.debug_struct("Diff")
            .field("at", &at)
            .finish_non_exhaustive()
    }
}

async fn read<R: TreeReader + ?Sized>(
    trees: &R,
    path: TreePath,
    (before, after): Pair,
) -> Result<Directories, ReadError> {
    if path.as_bytes().len() > TREE_PATH_BYTES_MAX {
        return Err(ReadError::Corrupt {
            what: format!("tree at {path}"),
            reason: "the file system is too deep".to_owned(),
        });
    }
    let side = |id: Option<TreeId>| async move {
        match id {
            Some(id) => trees.tree(id).await,
            None => Ok(Arc::default()),
        }
    };
    let (before, after) = future::try_join(side(before), side(after)).await?;
    Ok(Directories {
        path,
        before,
        after,
        at: (0, 0),
    })
}

/// The same directory in both trees; empty where one has none.
#[derive(Clone)]
struct Directories {
    path: TreePath,
    before: Arc<Tree>,
    after: Arc<Tree>,
    /// How far the walk is in each.
    at: (usize, usize),
}

impl Directories {
    /// Goes on to the next name that differs in itself or below.
    fn advance(&mut self) -> Option<(TreePath, Option<Difference>, Option<Pair>)> {
        loop {
            let before = self.before.entries().get(self.at.0);
            let after = self.after.entries().get(self.at.1);
            let (before, after) = match (before, after) {
                (None, None) => return None,
                (Some(b), Some(a)) if b.name < a.name => (Some(b), None),
                (Some(b), Some(a)) if a.name < b.name => (None, Some(a)),
                both => both,
            };
            self.at.0 += usize::from(before.is_some());
            self.at.1 += usize::from(after.is_some());
            if before == after {
                continue;
            }
            let Some(entry) = before.or(after) else {
                continue;
            };
            let path = self.path.join(&entry.name);
            let (difference, pair) = compare(&path, before, after);
            return Some((path, difference, pair));
        }
    }

    /// Returns the pairs that the walk will come to from here.
    fn below(&self) -> Vec<(TreePath, Pair)> {
        let mut walk = self.clone();
        std::iter::from_fn(|| walk.advance())
            .filter_map(|(path, _, pair)| Some((path, pair?)))
            .collect()
    }
}

/// Compares two entries without what is below, and returns the directories to compare there.
fn compare(
    path: &TreePath,
    before: Option<&Entry>,
    after: Option<&Entry>,
) -> (Option<Difference>, Option<Pair>) {
    let same = match (before, after) {
        (Some(before), Some(after)) => same_inode(before, after),
        (before, after) => before.is_none() && after.is_none(),
    };
    let difference = || Difference {
        path: path.clone(),
        before: before.cloned(),
        after: after.cloned(),
    };
    let pair = (tree_of(before), tree_of(after));
    ((!same).then(difference), (pair.0 != pair.1).then_some(pair))
}

/// Returns what an entry holds, if it is a directory.
pub(super) fn tree_of(entry: Option<&Entry>) -> Option<TreeId> {
    match entry?.node {
        Node::Directory(id) => Some(id),
        _ => None,
    }
}

pub(super) const fn is_directory(entry: &Entry) -> bool {
    matches!(entry.node, Node::Directory(_))
}

/// Tells whether two entries are the same but for their names and what they hold as directories.
fn same_inode(before: &Entry, after: &Entry) -> bool {
    before.hard_link == after.hard_link
        && same_node(&before.node, &after.node)
        && before.attributes == after.attributes
}

fn same_node(before: &Node, after: &Node) -> bool {
    matches!((before, after), (Node::Directory(_), Node::Directory(_))) || before == after
}

#[cfg(test)]
mod tests;
