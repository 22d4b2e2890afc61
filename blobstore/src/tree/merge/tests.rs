use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::Timestamp;
use crate::tree::model::{Inode, Model, Trees, changed, path, steps, wait};

/// What a path is, with all names of its inode; the time of a directory stands apart.
type State = Option<(Inode, BTreeSet<TreePath>)>;

fn state(model: &Model, at: &TreePath) -> State {
    let mut inode = model.0.get(at)?.clone();
    if inode.node.is_none() {
        inode.attributes.mtime = Timestamp::default();
    }
    let names = |number| {
        let same = model
            .0
            .iter()
            .filter(|(_, other)| other.number == Some(number));
        same.map(|(path, _)| path.clone()).collect()
    };
    let names: BTreeSet<_> = inode.number.map(names).unwrap_or_default();
    inode.number = None;
    Some((
        inode,
        if names.len() > 1 {
            names
        } else {
            BTreeSet::new()
        },
    ))
}

fn is_directory(state: &State) -> bool {
    state
        .as_ref()
        .is_some_and(|(inode, _)| inode.node.is_none())
}

/// Compares all paths of all three.
fn conflicts(base: &Model, ours: &Model, theirs: &Model) -> Vec<TreePath> {
    let paths: BTreeSet<_> = [base, ours, theirs]
        .iter()
        .flat_map(|m| m.0.keys())
        .collect();
    let mut found = BTreeSet::new();
    for at in paths {
        let [b, o, t] = [base, ours, theirs].map(|model| state(model, at));
        if o != b && t != b && o != t {
            found.insert(at.clone());
        }
        for (side, other, there) in [(ours, theirs, &o), (theirs, ours, &t)] {
            let took_away = |above: &TreePath| {
                is_directory(&state(base, above)) && !is_directory(&state(other, above))
            };
            let put = there.is_some() && state(side, at) != b;
            if put && at.ancestors().any(|above| took_away(&above)) {
                found.insert(at.clone());
            }
        }
    }
    topmost(found)
}

/// Takes each path from the side that changed it.
fn merged(base: &Model, ours: &Model, theirs: &Model) -> Model {
    let mut merged = BTreeMap::new();
    let mut numbers: BTreeMap<BTreeSet<TreePath>, u8> = BTreeMap::new();
    let paths: BTreeSet<_> = [base, ours, theirs]
        .iter()
        .flat_map(|m| m.0.keys())
        .collect();
    for at in paths {
        let [b, o, t] = [base, ours, theirs].map(|model| state(model, at));
        let Some((mut inode, names)) = (if o == b { t } else { o }) else {
            continue;
        };
        let time = |model: &Model| {
            let there = model.0.get(at).filter(|inode| inode.node.is_none());
            there.map(|inode| inode.attributes.mtime)
        };
        if inode.node.is_none() {
            let [b, o, t] = [base, ours, theirs].map(time);
            let time = if o == b {
                t.or(o)
            } else if t == b {
                o
            } else {
                o.max(t)
            };
            inode.attributes.mtime = time.unwrap();
        }
        if !names.is_empty() {
            let next = u8::try_from(numbers.len()).unwrap();
            inode.number = Some(*numbers.entry(names).or_insert(next));
        }
        merged.insert(at.clone(), inode);
    }
    Model(merged)
}

fn check(base: &Model, ours: &Model, theirs: &Model) {
    let trees = Trees::default();
    let [b, o, t] = [base, ours, theirs].map(|model| model.encode(&trees));
    let expected = conflicts(base, ours, theirs);
    for (o, t) in [(o, t), (t, o)] {
        match wait(merge_trees(&trees, b, o, t)).unwrap() {
            Merge::Conflicts(found) => assert_eq!(found, expected),
            Merge::Merged(tree) => {
                assert_eq!(expected, []);
                let expected = merged(base, ours, theirs).encode(&trees);
                assert_eq!(trees.store(&tree), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10000))]

    #[test]
    fn a_merge_is_that_of_all_paths(
        base in steps(0..40),
        ours in steps(0..5),
        theirs in steps(0..5),
    ) {
        let base = changed(&Model::empty(), &base);
        check(&base, &changed(&base, &ours), &changed(&base, &theirs));
    }
}

#[test]
fn disjoint_changes_are_both_taken_and_others_named() {
    let base = Model::of(&[("a/f", "1"), ("b/g", "2"), ("c", "3")]);
    let ours = Model::of(&[("a/f", "new"), ("a/h", "4"), ("b/g", "2"), ("c", "3")]);
    let theirs = Model::of(&[("a/f", "1"), ("a/i", "5"), ("b/g", "2"), ("c", "new")]);
    assert_eq!(conflicts(&base, &ours, &theirs), []);
    check(&base, &ours, &theirs);
    let gone = Model::of(&[("b/g", "2"), ("c", "4")]);
    let expected = ["a/f", "a/h"].map(path);
    assert_eq!(conflicts(&base, &ours, &gone), expected);
    check(&base, &ours, &gone);
}
