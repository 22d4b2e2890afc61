//! Copy-on-write changes of a tree.
//!
//! Only the directories on the way to what changes are read and encoded anew, so that the cost is
//! that of the change and not of the tree. The result is canonical: the very tree that a file
//! system in that state has when it is encoded from nothing, hard links included. For these more
//! is read where it must be: the directories of what is removed, replaced or grafted, to know the
//! links in there; and where a link goes or comes, the directories of the rest until all other
//! names of the inode are found.

mod resolve;
mod rewrite;

use std::collections::BTreeMap;

use super::diff::Difference;
use super::read::{Memo, read_entry, root_of};
use super::{Attributes, Node, Tree, TreeError, TreePath, TreeReader};
use crate::{ReadError, TreeId};
use resolve::resolve;
pub(super) use rewrite::{Op, Source, rewrite};

/// What becomes of a path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Takes the name away and all below it; nothing happens where nothing is.
    Remove,
    /// Makes it the name of an inode that is no directory, in place of whatever is there.
    Put {
        /// Attributes of the inode.
        attributes: Attributes,
        /// Kind of the inode.
        node: Node,
        /// Any number, the same for all names of one inode in this set of edits; they must have
        /// equal attributes and nodes. `None`: the inode has this name only.
        inode: Option<u64>,
    },
    /// Makes it one more name of the inode at another path of the base, which must stay there.
    Link {
        /// The other path.
        to: TreePath,
    },
    /// Makes it a directory with these attributes. One that is there keeps what it holds unless
    /// `opaque`, anything else there is replaced.
    Directory {
        /// Attributes of the directory.
        attributes: Attributes,
        /// Whether the directory starts empty.
        opaque: bool,
    },
    /// Puts a directory with all that it holds in place of whatever is there. Edits below it
    /// change what was put.
    Graft {
        /// Attributes of the directory.
        attributes: Attributes,
        /// What it holds.
        tree: TreeId,
        /// Which inodes its names share.
        links: GraftLinks,
    },
}

/// Which inodes the names of a grafted directory share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftLinks {
    /// Only those with each other: it is a copy, or comes from another file system.
    Own,
    /// Also those of the base with the same group: it was moved here from elsewhere in the base.
    Base,
}

/// A tree after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedTree {
    /// The root.
    pub root: TreeId,
    /// The trees that the change made, encoded, each after those it names; the root last. Some may
    /// be known to the store all the same.
    pub trees: Vec<(TreeId, Vec<u8>)>,
}

/// Why a tree cannot be changed so.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A tree cannot be had.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What results breaks a rule or limit of trees.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Something is to be put into what is no directory.
    #[error("{0} is no directory")]
    NoDirectory(TreePath),
    /// Nothing, or a directory, is at a path that is to get one more name.
    #[error("{0} is no file to link to")]
    NoName(TreePath),
    /// The edits contradict each other.
    #[error("edit {path}: {reason}")]
    Contradiction {
        /// Where.
        path: TreePath,
        /// How.
        reason: &'static str,
    },
}

/// Applies edits to the file system with the root `base`; they do not depend on an order. An edit
/// below another one is applied to what that one puts there.
///
/// Needs memory for the directories that change. Nothing is stored: that is the caller's, trees
/// before what names them.
///
/// # Errors
/// [`EditError`]; [`EditError::Contradiction`] for an edit below a path that another edit removes
/// or makes no directory.
pub async fn edit_tree<R: TreeReader + ?Sized>(
    trees: &R,
    base: TreeId,
    edits: &BTreeMap<TreePath, Edit>,
) -> Result<EditedTree, EditError> {
    let mut memo = Memo::new(trees);
    let top = root_of(&*memo.tree(base).await?, base)?;
    let ops = resolve(&mut memo, top.1, edits).await?;
    Ok(rewrite(&mut memo, top, &ops).await?.without(base))
}

/// Applies differences, such as those of a [`Diff`](super::Diff), to the tree that they start
/// from; the result is the tree that they lead to, hard links included.
///
/// # Errors
/// [`EditError`]. What the differences say of the tree before is not compared with it.
pub async fn apply_differences<R: TreeReader + ?Sized>(
    trees: &R,
    base: TreeId,
    differences: impl IntoIterator<Item = Difference>,
) -> Result<EditedTree, EditError> {
    let mut memo = Memo::new(trees);
    let top = root_of(&*memo.tree(base).await?, base)?;
    let ops = differences.into_iter().map(Difference::into_op).collect();
    Ok(rewrite(&mut memo, top, &ops).await?.without(base))
}

/// Makes a directory of a file system a file system of its own: returns the root that wraps it.
/// Where it holds links, their directories are encoded anew.
///
/// # Errors
/// [`EditError`]; [`EditError::NoDirectory`] when no directory is at `path`.
pub async fn tree_at<R: TreeReader + ?Sized>(
    trees: &R,
    root: TreeId,
    path: &TreePath,
) -> Result<EditedTree, EditError> {
    let found = read_entry(trees, root, path).await?;
    let Some((attributes, tree)) = found.and_then(|entry| match entry.node {
        Node::Directory(tree) => Some((entry.attributes, tree)),
        _ => None,
    }) else {
        return Err(EditError::NoDirectory(path.clone()));
    };
    let mut memo = Memo::new(trees);
    let empty = memo.insert(Tree::default())?;
    let graft = Edit::Graft {
        attributes: attributes.clone(),
        tree,
        links: GraftLinks::Own,
    };
    let edits = BTreeMap::from([(TreePath::root(), graft)]);
    let ops = resolve(&mut memo, empty, &edits).await?;
    Ok(rewrite(&mut memo, (attributes, empty), &ops)
        .await?
        .without(root))
}

impl EditedTree {
    /// Takes a root that is not new from the new trees.
    fn without(mut self, known: TreeId) -> Self {
        self.trees.retain(|(id, _)| *id != known);
        self
    }
}

#[cfg(test)]
mod tests;
