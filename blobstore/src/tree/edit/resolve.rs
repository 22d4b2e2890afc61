//! From edits, which speak of inodes, to operations with links in their canonical form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::rewrite::{Op, Source, contradiction};
use super::{Edit, EditError, GraftLinks};
use crate::TreeId;
use crate::tree::links::{Group, find_names, links_below};
use crate::tree::read::Memo;
use crate::tree::{Attributes, Entry, HardLink, Node, Tree, TreePath, TreeReader};

type Edits = BTreeMap<TreePath, Edit>;

/// An inode with several names, as far as edits touch it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Inode {
    /// A group of the base.
    Base(Group),
    /// A group of the tree that is grafted at a path.
    Graft(TreePath, Group),
    /// An inode with one name in the base, which gets more.
    Named(TreePath),
    /// A number that the edits give.
    Numbered(u64),
}

/// Turns edits of the directory `top` into operations.
pub(super) async fn resolve<R: TreeReader + ?Sized>(
    trees: &mut Memo<'_, R>,
    top: TreeId,
    edits: &Edits,
) -> Result<BTreeMap<TreePath, Op>, EditError> {
    check(edits)?;
    let targets = edits.values().filter_map(|edit| match edit {
        Edit::Link { to } => Some(to),
        _ => None,
    });
    let directories = edits
        .keys()
        .chain(targets)
        .flat_map(TreePath::ancestors)
        .collect();
    let base = Base {
        top,
        directories: trees.directories(top, &directories).await?,
    };
    let mut links = Links::default();
    links.leave(trees, &base, edits).await?;
    links.graft(trees, edits).await?;
    links.put(&base, edits)?;
    links.stay(trees, &base).await?;
    links.into_ops(&base, edits)
}

/// Refuses edits that contradict each other.
fn check(edits: &Edits) -> Result<(), EditError> {
    let mut closed: Option<&TreePath> = None;
    let mut inodes: HashMap<u64, (&Attributes, &Node)> = HashMap::new();
    for (path, edit) in edits {
        if closed.is_some_and(|closed| closed.is_above(path)) {
            return Err(contradiction(path, "what is above it will be no directory"));
        }
        match edit {
            Edit::Remove | Edit::Link { .. } => closed = Some(path),
            Edit::Put {
                attributes,
                node,
                inode,
            } => {
                closed = Some(path);
                if matches!(node, Node::Directory(_)) {
                    return Err(contradiction(
                        path,
                        "a directory is made or grafted, not put",
                    ));
                }
                let same = inode.map(|inode| inodes.entry(inode).or_insert((attributes, node)));
                if same.is_some_and(|same| *same != (attributes, node)) {
                    return Err(contradiction(path, "names of one inode differ"));
                }
            }
            Edit::Directory { .. } | Edit::Graft { .. } => {}
        }
    }
    Ok(())
}

/// Tells whether an edit at `name` or above it, but below `above`, takes away what a tree that
/// stands at `above` has as `name`, which is no directory.
fn replaces(edits: &Edits, above: Option<&TreePath>, name: &TreePath) -> bool {
    let below = |path: &TreePath| above.is_none_or(|above| above.is_above(path));
    let keeps = |edit: &Edit| matches!(edit, Edit::Directory { opaque: false, .. });
    edits.contains_key(name)
        || name
            .ancestors()
            .take_while(below)
            .any(|path| edits.get(&path).is_some_and(|edit| !keeps(edit)))
}

/// The directories of the base above what is edited.
struct Base {
    top: TreeId,
    directories: BTreeMap<TreePath, Arc<Tree>>,
}

impl Base {
    fn entry(&self, path: &TreePath) -> Option<&Entry> {
        let (parent, name) = path.split()?;
        Some(self.directories.get(&parent)?.get(name)?.1)
    }

    fn directory(&self, path: &TreePath) -> Option<TreeId> {
        if path.is_root() {
            return Some(self.top);
        }
        match self.entry(path)?.node {
            Node::Directory(id) => Some(id),
            _ => None,
        }
    }
}

/// What becomes of the inodes with several names.
#[derive(Default)]
struct Links {
    /// Names of the base that are taken away.
    left: BTreeMap<TreePath, HardLink>,
    /// The names that an inode has in the end.
    names: BTreeMap<Inode, BTreeSet<TreePath>>,
    /// The links of names that are there without an edit of their own.
    there: BTreeMap<TreePath, Option<HardLink>>,
    /// Names of the base that are linked to, by the group.
    joined: HashMap<Group, u32>,
}

impl Links {
    /// Finds the names that edits take from the inodes of the base.
    async fn leave<R: TreeReader + ?Sized>(
        &mut self,
        trees: &Memo<'_, R>,
        base: &Base,
        edits: &Edits,
    ) -> Result<(), EditError> {
        let mut replaced: Option<&TreePath> = None;
        for (path, edit) in edits {
            if replaced.is_some_and(|replaced| replaced.is_above(path)) {
                continue;
            }
            if matches!(edit, Edit::Directory { opaque: false, .. }) {
                let link = base.entry(path).and_then(|entry| entry.hard_link);
                self.left.extend(link.map(|link| (path.clone(), link)));
                continue;
            }
            replaced = Some(path);
            if let Some(directory) = base.directory(path) {
                self.left.extend(links_below(trees, path, directory).await?);
            } else if let Some(link) = base.entry(path).and_then(|entry| entry.hard_link) {
                self.left.insert(path.clone(), link);
            }
        }
        Ok(())
    }

    /// Finds the names that come with what is grafted.
    async fn graft<R: TreeReader + ?Sized>(
        &mut self,
        trees: &Memo<'_, R>,
        edits: &Edits,
    ) -> Result<(), EditError> {
        for (path, edit) in edits {
            let Edit::Graft { tree, links, .. } = edit else {
                continue;
            };
            for (name, link) in links_below(trees, path, *tree).await? {
                if replaces(edits, Some(path), &name) {
                    continue;
                }
                let inode = match links {
                    GraftLinks::Own => Inode::Graft(path.clone(), link.group),
                    GraftLinks::Base => {
                        self.joined.insert(link.group, link.count);
                        Inode::Base(link.group)
                    }
                };
                self.there.insert(name.clone(), Some(link));
                self.names.entry(inode).or_default().insert(name);
            }
        }
        Ok(())
    }

    /// Gives inodes the names that edits make.
    fn put(&mut self, base: &Base, edits: &Edits) -> Result<(), EditError> {
        for (path, edit) in edits {
            let inode = match edit {
                Edit::Put {
                    inode: Some(inode), ..
                } => Inode::Numbered(*inode),
                Edit::Link { to } => {
                    if replaces(edits, None, to) {
                        return Err(contradiction(to, "it is linked to and does not stay"));
                    }
                    let entry = base.entry(to).filter(|_| base.directory(to).is_none());
                    let entry = entry.ok_or_else(|| EditError::NoName(to.clone()))?;
                    match entry.hard_link {
                        Some(link) => {
                            self.joined.insert(link.group, link.count);
                            Inode::Base(link.group)
                        }
                        None => {
                            let inode = Inode::Named(to.clone());
                            let names = self.names.entry(inode.clone()).or_default();
                            names.insert(to.clone());
                            self.there.insert(to.clone(), None);
                            inode
                        }
                    }
                }
                _ => continue,
            };
            self.names.entry(inode).or_default().insert(path.clone());
        }
        Ok(())
    }

    /// Finds the names that the touched inodes of the base keep.
    async fn stay<R: TreeReader + ?Sized>(
        &mut self,
        trees: &mut Memo<'_, R>,
        base: &Base,
    ) -> Result<(), EditError> {
        let mut wanted = self.joined.clone();
        let mut left: HashMap<Group, u32> = HashMap::new();
        for link in self.left.values() {
            wanted.insert(link.group, link.count);
            *left.entry(link.group).or_default() += 1;
        }
        wanted.retain(|group, count| left.get(group).is_none_or(|left| left < count));
        if wanted.is_empty() {
            return Ok(());
        }
        let touched = self.left.keys().chain(self.names.values().flatten());
        let near = touched.filter_map(TreePath::parent).collect();
        for (group, names) in find_names(trees, base.top, &wanted, &near).await? {
            let count = wanted.get(&group).copied().unwrap_or_default();
            let stay = names
                .into_iter()
                .filter(|name| !self.left.contains_key(name));
            for name in stay.collect::<Vec<_>>() {
                let link = HardLink { group, count };
                self.there.entry(name.clone()).or_insert(Some(link));
                self.names
                    .entry(Inode::Base(group))
                    .or_default()
                    .insert(name);
            }
        }
        Ok(())
    }

    fn into_ops(self, base: &Base, edits: &Edits) -> Result<BTreeMap<TreePath, Op>, EditError> {
        let mut links: BTreeMap<&TreePath, Option<HardLink>> = BTreeMap::new();
        for names in self.names.values() {
            let link = HardLink::of(names);
            links.extend(names.iter().map(|name| (name, link)));
        }
        let mut ops = BTreeMap::new();
        for (path, edit) in edits {
            let hard_link = links.remove(path).flatten();
            ops.insert(path.clone(), op(base, edit, hard_link)?);
        }
        for (path, link) in links {
            if self.there.get(path) != Some(&link) {
                ops.insert(path.clone(), Op::Relink(link));
            }
        }
        Ok(ops)
    }
}

fn op(base: &Base, edit: &Edit, hard_link: Option<HardLink>) -> Result<Op, EditError> {
    Ok(match edit {
        Edit::Remove => Op::Remove,
        Edit::Put {
            attributes, node, ..
        } => Op::Leaf {
            attributes: attributes.clone(),
            node: node.clone(),
            hard_link,
        },
        Edit::Link { to } => {
            let entry = base
                .entry(to)
                .ok_or_else(|| EditError::NoName(to.clone()))?;
            Op::Leaf {
                attributes: entry.attributes.clone(),
                node: entry.node.clone(),
                hard_link,
            }
        }
        Edit::Directory { attributes, opaque } => Op::Directory {
            attributes: attributes.clone(),
            source: if *opaque { Source::Empty } else { Source::Kept },
        },
        Edit::Graft {
            attributes, tree, ..
        } => Op::Directory {
            attributes: attributes.clone(),
            source: Source::Tree(*tree),
        },
    })
}
