use proptest::prelude::*;

use super::*;
use crate::tree::model::{Model, Trees, changed, path, steps, wait};
use crate::{Digest, apply_differences};

/// Compares all paths of both.
fn naive(before: &Model, after: &Model) -> Vec<Difference> {
    let (before, after) = (before.entries(), after.entries());
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = |path: &&&TreePath| before.get(**path) != after.get(**path);
    let difference = |path: &TreePath| Difference {
        path: path.clone(),
        before: before.get(path).cloned(),
        after: after.get(path).cloned(),
    };
    paths
        .iter()
        .filter(differ)
        .map(|path| difference(path))
        .collect()
}

/// The ids of directories are beside the point.
fn without_ids(mut differences: Vec<Difference>) -> Vec<Difference> {
    for difference in &mut differences {
        for entry in [&mut difference.before, &mut difference.after] {
            if let Some(Node::Directory(id)) = entry.as_mut().map(|entry| &mut entry.node) {
                *id = TreeId::new(Digest::of(b""));
            }
        }
    }
    differences
}

fn diff(trees: &Trees, before: TreeId, after: TreeId) -> Result<Vec<Difference>, ReadError> {
    wait(async { Diff::of_roots(trees, before, after).await?.collect().await })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The differences are those of a full comparison, and lead from the one tree to the other.
    #[test]
    fn a_walk_finds_what_a_full_comparison_finds(base in steps(0..40), more in steps(0..10)) {
        let trees = Trees::default();
        let before = changed(&Model::empty(), &base);
        let after = changed(&before, &more);
        let (from, to) = (before.encode(&trees), after.encode(&trees));
        let found = diff(&trees, from, to).unwrap();
        prop_assert_eq!(without_ids(found.clone()), naive(&before, &after));
        let applied = wait(apply_differences(&trees, from, found)).unwrap();
        prop_assert_eq!(applied.root, to);
        prop_assert!(applied.trees.iter().all(|(id, _)| *id != from));
        let back = diff(&trees, to, from).unwrap();
        prop_assert_eq!(wait(apply_differences(&trees, to, back)).unwrap().root, from);
    }
}

#[test]
fn what_is_equal_is_not_read() {
    let trees = Trees::default();
    let mut lines = vec![("deep/er/file".to_owned(), "1")];
    lines.extend((0..100).map(|n| (format!("same/{n}/file"), "x")));
    lines.extend((0..100).map(|n| (format!("deep/{n}/file"), "x")));
    let model = |text| {
        let mut lines: Vec<_> = lines
            .iter()
            .map(|(at, text)| (at.as_str(), *text))
            .collect();
        lines[0].1 = text;
        Model::of(&lines)
    };
    let (from, to) = (model("1").encode(&trees), model("22").encode(&trees));
    let found = diff(&trees, from, to).unwrap();
    assert_eq!(
        trees.read.lock().unwrap().len(),
        8,
        "two roots, three pairs"
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, path("deep/er/file"));
    assert_eq!(
        (found[0].operation(), found[0].bytes()),
        (Operation::Modified, 2)
    );
    assert!(found[0].modified().content && !found[0].modified().mtime);
    trees.take_reads();
    assert_eq!(diff(&trees, from, from).unwrap(), []);
    assert!(trees.take_reads().is_empty());
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_difference() {
    let trees = Trees::default();
    let from = Model::of(&[("a/b/c", "1")]).encode(&trees);
    let to = Model::of(&[("a/b/c", "2")]).encode(&trees);
    let missing = Tree::new(Vec::new()).unwrap();
    let all = diff(&trees, from, to).unwrap();
    assert_eq!(all.len(), 1);
    for id in trees.take_reads() {
        if id == from || id == to {
            continue;
        }
        let kept = wait(trees.tree(id)).unwrap().encode().unwrap().1;
        trees.remove(id);
        assert!(matches!(
            diff(&trees, from, to),
            Err(ReadError::NotFound(_))
        ));
        trees.put(id, missing.encode().unwrap().1);
        assert!(matches!(
            diff(&trees, from, to),
            Err(ReadError::Corrupt { .. })
        ));
        trees.put(id, kept);
    }
    let directory = trees.add(&missing);
    assert!(matches!(
        diff(&trees, from, directory),
        Err(ReadError::Corrupt { .. })
    ));
}
