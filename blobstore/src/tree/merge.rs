//! Three-way merge of trees, by path.
//!
//! What one side alone changed is taken from it. A path that both changed, not to the same, is in
//! conflict; what is below it is not looked at. So is what one side put or changed below a
//! directory that the other took away. The time of a directory is no reason for a conflict: the
//! later one is taken, for any two changes in one directory would collide in it.
//!
//! The names of an inode are a part of it: two sides that give one inode different names collide
//! at all names that they changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::diff::{Diff, Difference, is_directory};
use super::edit::{EditError, EditedTree, apply_differences};
use super::links::{Group, Names, find_names};
use super::read::{Memo, root_of};
use super::{Entry, TreePath, TreeReader};
use crate::{ReadError, TreeId};

/// What came of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// The tree with the changes of both sides.
    Merged(EditedTree),
    /// The paths in conflict, in order; there is at least one.
    Conflicts(Vec<TreePath>),
}

/// Merges what `ours` and `theirs` changed in `base`; all are roots. The order of the two does not
/// matter.
///
/// Costs time and memory for the changes; where both sides changed inodes with several names, also
/// the search for these names.
///
/// # Errors
/// [`EditError`].
pub async fn merge_trees<R: TreeReader + ?Sized>(
    trees: &R,
    base: TreeId,
    ours: TreeId,
    theirs: TreeId,
) -> Result<Merge, EditError> {
    let same = |root| {
        let trees = Vec::new();
        Ok(Merge::Merged(EditedTree { root, trees }))
    };
    if ours == theirs || theirs == base {
        return same(ours);
    }
    if ours == base {
        return same(theirs);
    }
    let mut our_changes = changes(trees, base, ours).await?;
    let mut their_changes = changes(trees, base, theirs).await?;
    let linked = linked_conflicts(
        trees,
        [
            (base, None),
            (ours, Some(&our_changes)),
            (theirs, Some(&their_changes)),
        ],
    )
    .await?;
    let mut conflicts = linked;
    settle(&mut our_changes, &mut their_changes, &mut conflicts);
    orphans(&our_changes, &their_changes, &mut conflicts);
    orphans(&their_changes, &our_changes, &mut conflicts);
    if conflicts.is_empty() {
        let merged = apply_differences(trees, ours, their_changes.into_values()).await?;
        return Ok(Merge::Merged(merged));
    }
    Ok(Merge::Conflicts(topmost(conflicts)))
}

type Changes = BTreeMap<TreePath, Difference>;

async fn changes<R: TreeReader + ?Sized>(
    trees: &R,
    base: TreeId,
    side: TreeId,
) -> Result<Changes, ReadError> {
    let found = Diff::of_roots(trees, base, side).await?.collect().await?;
    Ok(found.into_iter().map(|d| (d.path.clone(), d)).collect())
}

/// Finds the paths that both sides changed, and leaves in `theirs` what is to be applied to `ours`.
fn settle(ours: &mut Changes, theirs: &mut Changes, conflicts: &mut BTreeSet<TreePath>) {
    theirs.retain(|path, their| {
        let Some(our) = ours.get_mut(path) else {
            return true;
        };
        let our_entry = comparable(our.after.as_ref());
        let their_entry = comparable(their.after.as_ref());
        let before = comparable(our.before.as_ref());
        if our_entry != their_entry && our_entry != before && their_entry != before {
            conflicts.insert(path.clone());
            return false;
        }
        // Only the time of a directory: it does not undo what the other side did.
        let base = their.before.take();
        let mut after = if their_entry == before {
            &our.after
        } else {
            &their.after
        }
        .clone();
        if let (Some(merged), Some(base)) = (&mut after, &base)
            && let (Some(o), Some(t)) = (&our.after, &their.after)
            && [&*merged, base, o, t].into_iter().all(is_directory)
        {
            let [base, o, t] = [base, o, t].map(|entry| entry.attributes.mtime);
            merged.attributes.mtime = match (o == base, t == base) {
                (true, _) => t,
                (_, true) => o,
                _ => o.max(t),
            };
        } else if let (Some(merged), Some(o), Some(t)) = (&mut after, &our.after, &their.after)
            && [&*merged, o, t].into_iter().all(is_directory)
        {
            merged.attributes.mtime = o.attributes.mtime.max(t.attributes.mtime);
        }
        their.after = after;
        their.before.clone_from(&our.after);
        their.after != our.after
    });
}

/// An entry without what is merged in another way: what a directory holds, and its time.
fn comparable(entry: Option<&Entry>) -> Option<Entry> {
    let mut entry = entry?.clone();
    if is_directory(&entry) {
        entry.node = super::Node::Directory(TreeId::new(crate::Digest::of(b"")));
        entry.attributes.mtime = super::Timestamp::default();
    }
    Some(entry)
}

/// Finds what `side` put or changed below directories that `other` took away.
fn orphans(side: &Changes, other: &Changes, conflicts: &mut BTreeSet<TreePath>) {
    let mut gone: Option<&TreePath> = None;
    let mut left = side.iter().peekable();
    for (path, change) in other {
        if gone.is_some_and(|gone| gone.is_above(path)) {
            continue;
        }
        let was = change.before.as_ref().is_some_and(is_directory);
        if !was || change.after.as_ref().is_some_and(is_directory) {
            continue;
        }
        gone = Some(path);
        while let Some((at, change)) = left.next_if(|(at, _)| *at <= path || path.is_above(at)) {
            let only_time = comparable(change.before.as_ref()) == comparable(change.after.as_ref());
            if path.is_above(at) && change.after.is_some() && !only_time {
                conflicts.insert(at.clone());
            }
        }
    }
}

/// Drops what is below another path.
fn topmost(conflicts: BTreeSet<TreePath>) -> Vec<TreePath> {
    let mut top: Vec<TreePath> = Vec::new();
    for path in conflicts {
        if !top.last().is_some_and(|above| above.is_above(&path)) {
            top.push(path);
        }
    }
    top
}

/// Finds the names at which both sides changed an inode with several names, or which these are.
async fn linked_conflicts<R: TreeReader + ?Sized>(
    trees: &R,
    sides: [(TreeId, Option<&Changes>); 3],
) -> Result<BTreeSet<TreePath>, EditError> {
    let [_, ours, theirs] = sides.map(|(_, changes)| changes.map(groups).unwrap_or_default());
    if ours.is_empty() || theirs.is_empty() {
        return Ok(BTreeSet::new());
    }
    // No limit: how many names a group has is not known for each side.
    let all: HashMap<Group, u32> = (ours.into_iter().chain(theirs))
        .map(|group| (group, u32::MAX))
        .collect();
    let mut found = Vec::new();
    for (root, _) in sides {
        let mut memo = Memo::new(trees);
        let (_, top) = root_of(&*memo.tree(root).await?, root)?;
        found.push(find_names(&mut memo, top, &all, &BTreeSet::new()).await?);
    }
    let classes: Vec<_> = found.iter().map(by_name).collect();
    let paths: BTreeSet<&TreePath> = classes.iter().flat_map(HashMap::keys).copied().collect();
    let mut conflicts = BTreeSet::new();
    for path in paths {
        let unlinked = |entry: &Option<Entry>| {
            let mut entry = comparable(entry.as_ref())?;
            entry.hard_link = None;
            Some(entry)
        };
        let data = |side: usize| {
            let change = sides[side].1?.get(path)?;
            let after = unlinked(&change.after);
            (after != unlinked(&change.before)).then_some(after)
        };
        let class = |side: usize| classes[side].get(path).copied();
        let differs = |side: usize| class(side) != class(0) || data(side).is_some();
        if differs(1) && differs(2) && (class(1) != class(2) || data(1) != data(2)) {
            conflicts.insert(path.clone());
        }
    }
    Ok(conflicts)
}

/// Returns the groups of all names that changed, before and after.
fn groups(changes: &Changes) -> BTreeSet<Group> {
    let entries = changes
        .values()
        .flat_map(|change| [&change.before, &change.after]);
    let links = entries.filter_map(|entry| entry.as_ref()?.hard_link);
    links.map(|link| link.group).collect()
}

fn by_name(names: &Names) -> HashMap<&TreePath, &BTreeSet<TreePath>> {
    let of = |class| {
        let class: &BTreeSet<TreePath> = class;
        class.iter().map(move |name| (name, class))
    };
    names.values().flat_map(of).collect()
}

#[cfg(test)]
mod tests;
