//! Finding the names of inodes that have several.
//!
//! No tree lists the names of a hard-link group, and they may stand anywhere in the file system:
//! they are looked for, near the known ones first, and no further once all are found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::path::TREE_PATH_BYTES_MAX;
use super::read::{Memo, READS_MAX};
use super::{HardLink, Node, Tree, TreePath, TreeReader};
use crate::{ReadError, TreeId};

/// Names a hard-link group.
pub(super) type Group = [u8; 16];

/// Directories that a search visits at most, equal ones at each of their places.
const DIRECTORIES_MAX: usize = 8 << 20;

impl HardLink {
    /// Returns the link of an inode whose first name, in the order of [`TreePath`], is `first`, and
    /// that has `count` names.
    pub fn named(first: &TreePath, count: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"/").update(first.as_bytes());
        let mut group = [0; 16];
        group.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self { group, count }
    }

    /// Returns the link of the inode that has just these names; `None` when it has but one.
    pub(super) fn of(names: &BTreeSet<TreePath>) -> Option<Self> {
        let first = names.first().filter(|_| names.len() > 1)?;
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        Some(Self::named(first, count))
    }
}

/// The names of groups.
pub(super) type Names = HashMap<Group, BTreeSet<TreePath>>;

/// Returns every linked name below the directory `top`, which stands at `at`, with its link.
pub(super) async fn links_below<R: TreeReader + ?Sized>(
    trees: &Memo<'_, R>,
    at: &TreePath,
    top: TreeId,
) -> Result<BTreeMap<TreePath, HardLink>, ReadError> {
    let mut links = BTreeMap::new();
    walk(trees, vec![(at.clone(), top)], |directory, listing| {
        for (path, link) in links_in(directory, listing) {
            links.insert(path, link);
        }
        true
    })
    .await?;
    Ok(links)
}

/// Returns the names of the groups of `wanted`, each with the names that it should have; those in
/// the directories `near` are found without reading others.
///
/// A group that has fewer names than it should ends up with those that there are.
pub(super) async fn find_names<R: TreeReader + ?Sized>(
    trees: &mut Memo<'_, R>,
    top: TreeId,
    wanted: &HashMap<Group, u32>,
    near: &BTreeSet<TreePath>,
) -> Result<Names, ReadError> {
    let mut names: Names = wanted
        .keys()
        .map(|group| (*group, BTreeSet::new()))
        .collect();
    let missing = |names: &Names| {
        let complete = |(group, found): (&Group, &BTreeSet<TreePath>)| {
            wanted
                .get(group)
                .is_some_and(|count| found.len() as u64 >= u64::from(*count))
        };
        !names.iter().all(complete)
    };
    let collect = |names: &mut Names, directory: &TreePath, listing: &Tree| {
        for (path, link) in links_in(directory, listing) {
            if let Some(found) = names.get_mut(&link.group) {
                found.insert(path);
            }
        }
    };
    let directories: BTreeSet<_> = near
        .iter()
        .flat_map(|path| path.ancestors().chain([path.clone()]))
        .collect();
    for (directory, listing) in trees.directories(top, &directories).await? {
        collect(&mut names, &directory, &listing);
    }
    if missing(&names) {
        walk(
            trees,
            vec![(TreePath::root(), top)],
            |directory, listing| {
                collect(&mut names, directory, listing);
                missing(&names)
            },
        )
        .await?;
    }
    Ok(names)
}

fn links_in<'t>(
    directory: &'t TreePath,
    listing: &'t Tree,
) -> impl Iterator<Item = (TreePath, HardLink)> + 't {
    let linked = |entry: &'t super::Entry| Some((directory.join(&entry.name), entry.hard_link?));
    listing.entries().iter().filter_map(linked)
}

/// Shows directories to `visit` until it returns `false`, each before what is below it; reads
/// [`READS_MAX`] at once.
async fn walk<R: TreeReader + ?Sized>(
    trees: &Memo<'_, R>,
    mut pending: Vec<(TreePath, TreeId)>,
    mut visit: impl FnMut(&TreePath, &Tree) -> bool,
) -> Result<(), ReadError> {
    let mut visited = 0;
    while !pending.is_empty() {
        let batch = pending.split_off(pending.len().saturating_sub(READS_MAX));
        let listings: Vec<(TreePath, Arc<Tree>)> = stream::iter(batch)
            .map(|(path, id)| async move { Ok::<_, ReadError>((path, trees.pass(id).await?)) })
            .buffered(READS_MAX)
            .try_collect()
            .await?;
        for (path, listing) in listings {
            visited += 1;
            if visited > DIRECTORIES_MAX || path.as_bytes().len() > TREE_PATH_BYTES_MAX {
                return Err(ReadError::Corrupt {
                    what: format!("tree at {path}"),
                    reason: "the file system is too large or too deep".to_owned(),
                });
            }
            if !visit(&path, &listing) {
                return Ok(());
            }
            for entry in listing.entries() {
                if let Node::Directory(id) = entry.node {
                    pending.push((path.join(&entry.name), id));
                }
            }
        }
    }
    Ok(())
}
