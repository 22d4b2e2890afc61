//! From a merged file system to Merkle trees.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nacre_blobstore::{Entry, HardLink, Node, Tree, TreeError, TreeId, TreePath};

use super::{Child, Directory, Inode, Leaf, MergedTree};

/// The groups of inodes with several names, by the inodes' addresses.
type Groups = HashMap<*const Inode, HardLink>;

impl MergedTree {
    /// Encodes every directory that changed since the last call and the root around them; gives
    /// each new tree to `sink`, children before parents. Returns the root's id.
    ///
    /// # Errors
    /// [`TreeError`] for what the format cannot hold, and errors of `sink`.
    pub(crate) fn encode<E: From<TreeError>>(
        &mut self,
        sink: &mut impl FnMut(TreeId, &[u8]) -> Result<(), E>,
    ) -> Result<TreeId, E> {
        let mut groups = Groups::new();
        find_groups(&self.root, &TreePath::root(), &mut groups);
        groups.retain(|_, link| link.count > 1);
        let tree = encode_directory(&mut self.root, &groups, sink)?;
        let root = Tree::root(self.root.attributes.clone(), tree)?;
        let (id, bytes) = root.encode()?;
        sink(id, &bytes)?;
        Ok(id)
    }

    /// Counts the names that are no directories, and the plain bytes of the distinct inodes.
    pub(crate) fn count(&self) -> (u64, u64) {
        fn visit(at: &Directory, seen: &mut HashSet<*const Inode>) -> (u64, u64) {
            at.children
                .values()
                .fold((0, 0), |(names, bytes), child| match child {
                    Child::Directory(directory) => {
                        let (n, b) = visit(directory, seen);
                        (names + n, bytes + b)
                    }
                    Child::Inode(inode) => match inode.leaf {
                        Leaf::File { size_bytes, .. } if seen.insert(Arc::as_ptr(inode)) => {
                            (names + 1, bytes + size_bytes)
                        }
                        Leaf::File { .. } | Leaf::Other(_) => (names + 1, bytes),
                    },
                })
        }
        visit(&self.root, &mut HashSet::new())
    }
}

/// Counts the names of shared inodes and names each group by the first path in tree order, so
/// that equal file systems have equal groups and a change elsewhere does not change them.
fn find_groups(at: &Directory, path: &TreePath, groups: &mut Groups) {
    for (name, child) in &at.children {
        match child {
            Child::Directory(directory) => find_groups(directory, &path.join(name), groups),
            Child::Inode(inode) if Arc::strong_count(inode) > 1 => {
                let link = groups
                    .entry(Arc::as_ptr(inode))
                    .or_insert_with(|| HardLink::named(&path.join(name), 0));
                link.count = link.count.saturating_add(1);
            }
            Child::Inode(_) => {}
        }
    }
}

fn encode_directory<E: From<TreeError>>(
    at: &mut Directory,
    groups: &Groups,
    sink: &mut impl FnMut(TreeId, &[u8]) -> Result<(), E>,
) -> Result<TreeId, E> {
    // A group's name and size depend on names elsewhere, so its directories are encoded each time;
    // also once more when the group is gone, which nothing in the directory itself tells.
    let mut reusable = true;
    let mut grouped = false;
    let mut entries = Vec::with_capacity(at.children.len());
    for (name, child) in &mut at.children {
        let (attributes, node, hard_link) = match child {
            Child::Directory(directory) => {
                let before = directory.encoded;
                let tree = encode_directory(directory, groups, sink)?;
                reusable &= before == Some(tree);
                (directory.attributes.clone(), Node::Directory(tree), None)
            }
            Child::Inode(inode) => {
                let hard_link = groups.get(&Arc::as_ptr(inode)).copied();
                grouped |= hard_link.is_some();
                let node = match &inode.leaf {
                    Leaf::File {
                        content,
                        size_bytes,
                    } => Node::File {
                        content: *content,
                        size_bytes: *size_bytes,
                    },
                    Leaf::Other(node) => node.clone(),
                };
                (inode.attributes.clone(), node, hard_link)
            }
        };
        entries.push(Entry {
            name: name.clone(),
            attributes,
            node,
            hard_link,
        });
    }
    if let (Some(id), true, false) = (at.encoded, reusable, grouped) {
        return Ok(id);
    }
    let (id, bytes) = Tree::new(entries)?.encode()?;
    sink(id, &bytes)?;
    at.encoded = (!grouped).then_some(id);
    Ok(id)
}
