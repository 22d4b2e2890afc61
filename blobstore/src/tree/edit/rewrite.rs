//! Encoding anew the directories on the way to what changes, and no others.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{EditError, EditedTree};
use crate::tree::read::{Memo, by_depth, directory_in};
use crate::tree::{Attributes, Entry, HardLink, Node, Tree, TreePath, TreeReader};
use crate::{ReadError, TreeId};

/// What becomes of a path, to the last byte.
#[derive(Debug, Clone)]
pub(in crate::tree) enum Op {
    /// Nothing is there afterwards.
    Remove,
    /// An inode that is no directory, in place of whatever is there.
    Leaf {
        attributes: Attributes,
        node: Node,
        hard_link: Option<HardLink>,
    },
    /// What is there, with another link.
    Relink(Option<HardLink>),
    /// A directory, in place of what is there if that is none.
    Directory {
        attributes: Attributes,
        source: Source,
    },
}

/// What a directory holds before what is below it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tree) enum Source {
    /// What the directory holds that is there; nothing if none is.
    Kept,
    /// Nothing.
    Empty,
    /// What this tree holds.
    Tree(TreeId),
}

/// Applies `ops` to the directory `top`. What stands below a path that is removed or that becomes
/// no directory is ignored.
pub(in crate::tree) async fn rewrite<R: TreeReader + ?Sized>(
    trees: &mut Memo<'_, R>,
    (attributes, top): (Attributes, TreeId),
    ops: &BTreeMap<TreePath, Op>,
) -> Result<EditedTree, EditError> {
    let plan = Plan::new(top, ops);
    let mut spine = Spine::default();
    let levels = by_depth(&plan.directories);
    for level in &levels {
        spine.load(trees, &plan, level).await?;
    }
    let mut encoder = Encoder::default();
    for path in levels.iter().rev().flatten() {
        encoder.directory(&plan, &spine, path)?;
    }
    let root = TreePath::root();
    let attributes = match plan.ops.get(&root) {
        Some(Op::Directory { attributes, .. }) => attributes.clone(),
        Some(_) => return Err(contradiction(&root, "the root is a directory")),
        None => attributes,
    };
    let tree = encoder.done.get(&root).copied().unwrap_or(top);
    let root = encoder.emit(&Tree::root(attributes, tree)?)?;
    Ok(EditedTree {
        root,
        trees: encoder.trees,
    })
}

pub(super) fn contradiction(path: &TreePath, reason: &'static str) -> EditError {
    EditError::Contradiction {
        path: path.clone(),
        reason,
    }
}

/// What is to be done where.
struct Plan<'o> {
    top: TreeId,
    ops: BTreeMap<&'o TreePath, &'o Op>,
    /// Directories with something that changes below them, and those that an operation makes.
    directories: BTreeSet<TreePath>,
    /// The names that change in a directory.
    changing: BTreeMap<TreePath, BTreeSet<&'o [u8]>>,
}

impl<'o> Plan<'o> {
    fn new(top: TreeId, ops: &'o BTreeMap<TreePath, Op>) -> Self {
        let mut plan = Self {
            top,
            ops: BTreeMap::new(),
            directories: BTreeSet::new(),
            changing: BTreeMap::new(),
        };
        let mut closed: Option<&TreePath> = None;
        for (path, op) in ops {
            if closed.is_some_and(|closed| closed.is_above(path)) {
                continue;
            }
            if matches!(op, Op::Remove | Op::Leaf { .. }) {
                closed = Some(path);
            }
            if matches!(op, Op::Directory { .. }) {
                plan.directories.insert(path.clone());
            }
            plan.ops.insert(path, op);
            let mut below = path.as_bytes();
            for directory in path.ancestors() {
                let start = directory.as_bytes().len() + usize::from(!directory.is_root());
                let names = plan.changing.entry(directory.clone()).or_default();
                let known = !names.insert(&below[start..]) && plan.directories.contains(&directory);
                below = &path.as_bytes()[..directory.as_bytes().len()];
                if known {
                    break;
                }
                plan.directories.insert(directory);
            }
        }
        plan
    }

    /// Tells whether a directory that is not there is no loss: nothing is put into it.
    fn only_removes_below(&self, directory: &TreePath) -> bool {
        let names = self.changing.get(directory).into_iter().flatten();
        names
            .map(|name| directory.join(name))
            .all(|path| matches!(self.ops.get(&path), Some(Op::Remove) | None))
    }
}

/// The directories of the plan before the change.
#[derive(Default)]
struct Spine {
    /// Those that are there; `None` for one that starts empty.
    sources: BTreeMap<TreePath, Option<TreeId>>,
    /// What those hold in which something changes.
    listings: BTreeMap<TreePath, Arc<Tree>>,
}

impl Spine {
    async fn load<R: TreeReader + ?Sized>(
        &mut self,
        trees: &mut Memo<'_, R>,
        plan: &Plan<'_>,
        level: &[&TreePath],
    ) -> Result<(), ReadError> {
        let mut reads = Vec::new();
        for path in level.iter().copied() {
            let there = match path.split() {
                None => Some(plan.top),
                Some((parent, name)) => {
                    let listing = self.listings.get(&parent);
                    listing.and_then(|listing| directory_in(listing, name))
                }
            };
            let source = match plan.ops.get(path) {
                Some(Op::Directory { source, .. }) => match source {
                    Source::Kept => there,
                    Source::Empty => None,
                    Source::Tree(id) => Some(*id),
                },
                Some(_) | None if there.is_none() => continue,
                Some(_) | None => there,
            };
            self.sources.insert(path.clone(), source);
            if let Some(id) = source.filter(|_| plan.changing.contains_key(path)) {
                reads.push((path, id));
            }
        }
        trees.load(reads.iter().map(|(_, id)| *id)).await?;
        for (path, id) in reads {
            self.listings.insert(path.clone(), trees.tree(id).await?);
        }
        Ok(())
    }
}

/// The directories of the plan after the change.
#[derive(Default)]
struct Encoder {
    done: BTreeMap<TreePath, TreeId>,
    trees: Vec<(TreeId, Vec<u8>)>,
    emitted: HashSet<TreeId>,
}

impl Encoder {
    /// Encodes a directory of which all below it are done.
    fn directory(
        &mut self,
        plan: &Plan<'_>,
        spine: &Spine,
        path: &TreePath,
    ) -> Result<(), EditError> {
        let Some(source) = spine.sources.get(path).copied() else {
            if plan.only_removes_below(path) {
                return Ok(());
            }
            return Err(EditError::NoDirectory(path.clone()));
        };
        let changing = plan.changing.get(path);
        let id = match (source, changing) {
            (Some(source), None) => source,
            (_, changing) => {
                let no_names = BTreeSet::new();
                let listing = spine.listings.get(path).map(Arc::as_ref);
                let changing = changing.unwrap_or(&no_names);
                let tree = self.changed(plan, path, listing, changing)?;
                let (id, encoded) = tree.encode()?;
                if source != Some(id) {
                    self.add(id, encoded);
                }
                id
            }
        };
        self.done.insert(path.clone(), id);
        Ok(())
    }

    fn changed(
        &self,
        plan: &Plan<'_>,
        path: &TreePath,
        listing: Option<&Tree>,
        changing: &BTreeSet<&[u8]>,
    ) -> Result<Tree, EditError> {
        let before = listing.map_or(&[][..], Tree::entries);
        let kept = before
            .iter()
            .filter(|entry| !changing.contains(&*entry.name));
        let mut entries: Vec<Entry> = kept.cloned().collect();
        for name in changing.iter().copied() {
            let there = listing.and_then(|listing| Some(listing.get(name)?.1));
            let child = path.join(name);
            let entry = |attributes: &Attributes, node, hard_link| Entry {
                name: name.into(),
                attributes: attributes.clone(),
                node,
                hard_link,
            };
            let done = self.done.get(&child).copied();
            entries.extend(match (plan.ops.get(&child), there) {
                (Some(Op::Remove), _) => None,
                (
                    Some(Op::Leaf {
                        attributes,
                        node,
                        hard_link,
                    }),
                    _,
                ) => Some(entry(attributes, node.clone(), *hard_link)),
                (Some(Op::Relink(link)), Some(there)) => {
                    Some(entry(&there.attributes, there.node.clone(), *link))
                }
                (Some(Op::Relink(_)), None) => return Err(EditError::NoName(child)),
                (Some(Op::Directory { attributes, .. }), _) => {
                    done.map(|tree| entry(attributes, Node::Directory(tree), None))
                }
                (None, Some(there)) => Some(match done {
                    Some(tree) => entry(&there.attributes, Node::Directory(tree), None),
                    None => there.clone(),
                }),
                (None, None) => None,
            });
        }
        Ok(Tree::new(entries)?)
    }

    fn emit(&mut self, tree: &Tree) -> Result<TreeId, EditError> {
        let (id, encoded) = tree.encode()?;
        self.add(id, encoded);
        Ok(id)
    }

    fn add(&mut self, id: TreeId, encoded: Vec<u8>) {
        if self.emitted.insert(id) {
            self.trees.push((id, encoded));
        }
    }
}
