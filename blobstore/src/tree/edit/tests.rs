use proptest::prelude::*;

use super::*;
use crate::tree::model::{Model, Trees, any_path, attributes, changed, file, path, steps, wait};

fn put(text: &str, inode: Option<u64>) -> Edit {
    Edit::Put {
        attributes: attributes(0),
        node: file(text),
        inode,
    }
}

fn edit(trees: &Trees, base: TreeId, edits: &[(&str, Edit)]) -> Result<TreeId, EditError> {
    let edits = edits
        .iter()
        .map(|(at, edit)| (path(at), edit.clone()))
        .collect();
    wait(edit_tree(trees, base, &edits)).map(|edited| trees.store(&edited))
}

fn directory(trees: &Trees, root: TreeId, at: &str) -> TreeId {
    match wait(read_entry(trees, root, &path(at)))
        .unwrap()
        .unwrap()
        .node
    {
        Node::Directory(id) => id,
        node => panic!("{at} is {node:?}"),
    }
}

/// What edits take away leaves the other names of an inode with the right link.
#[test]
fn links_are_what_they_are_when_encoded_from_nothing() {
    let trees = Trees::default();
    let base = Model::of(&[
        ("a/1", "x#1"),
        ("b/2", "x#1"),
        ("c/3", "x#1"),
        ("d", "alone"),
    ]);
    let root = base.encode(&trees);
    let expect = |edits: &[(&str, Edit)], lines: &[(&str, &str)]| {
        let expected = Model::of(lines).encode(&trees);
        assert_eq!(edit(&trees, root, edits).unwrap(), expected, "{edits:?}");
    };
    let rest = [
        ("a/1", "x#1"),
        ("b/2", "x#1"),
        ("c/3", "x#1"),
        ("d", "alone"),
    ];
    expect(&[], &rest);
    expect(&[("e", Edit::Remove), ("e/f", Edit::Remove)][..1], &rest);
    expect(
        &[("a", Edit::Remove)],
        &[("b/2", "x#1"), ("c/3", "x#1"), ("d", "alone")],
    );
    expect(
        &[("a/1", put("new", None)), ("b", Edit::Remove)],
        &[("a/1", "new"), ("c/3", "x#"), ("d", "alone")]
            .map(|(at, text)| (at, if text == "x#" { "x#1" } else { text })),
    );
    expect(
        &[("0", Edit::Link { to: path("c/3") })],
        &[&rest[..], &[("0", "x#1")]].concat(),
    );
    expect(
        &[("0", put("y#2", Some(7))), ("b/9", put("y#2", Some(7)))],
        &[&rest[..], &[("0", "y#2"), ("b/9", "y#2")]].concat(),
    );
}

#[test]
fn a_name_alone_gets_a_second() {
    let trees = Trees::default();
    let root = Model::of(&[("d/f", "x#1")]).encode(&trees);
    let linked = Model::of(&[("d/f", "x#1"), ("a", "x#1")]).encode(&trees);
    let edits = [("a", Edit::Link { to: path("d/f") })];
    assert_eq!(edit(&trees, root, &edits).unwrap(), linked);
    assert_eq!(edit(&trees, linked, &[("a", Edit::Remove)]).unwrap(), root);
}

#[test]
fn a_directory_is_moved_and_copied_with_its_links() {
    let trees = Trees::default();
    let root = Model::of(&[("m/1", "x#1"), ("m/2", "x#1"), ("z", "x#1")]).encode(&trees);
    let tree = directory(&trees, root, "m");
    let graft = |links| Edit::Graft {
        attributes: attributes(0),
        tree,
        links,
    };
    let moved = edit(
        &trees,
        root,
        &[
            ("m", Edit::Remove),
            ("n", graft(GraftLinks::Base)),
            ("n/2", put("changed", None)),
        ],
    );
    let expected = Model::of(&[("n/1", "x#1"), ("n/2", "changed"), ("z", "x#1")]);
    assert_eq!(moved.unwrap(), expected.encode(&trees));
    let copied = edit(&trees, root, &[("n", graft(GraftLinks::Own))]).unwrap();
    // The content is the same, the inode is not.
    let mut expected = Model::of(&[("m/1", "x#1"), ("m/2", "x#1"), ("z", "x#1")]);
    for (at, number) in [("n/1", 2), ("n/2", 2)] {
        let mut inode = expected.0[&path("z")].clone();
        inode.number = Some(number);
        let parent = expected.0[&path("m")].clone();
        expected.0.entry(path("n")).or_insert(parent);
        expected.0.insert(path(at), inode);
    }
    assert_eq!(copied, expected.encode(&trees));
    let alone = wait(tree_at(&trees, root, &path("m"))).unwrap();
    let expected = Model::of(&[("1", "x#1"), ("2", "x#1")]).encode(&trees);
    assert_eq!(trees.store(&alone), expected);
}

#[test]
fn only_what_changes_is_read_and_encoded() {
    let trees = Trees::default();
    let lines: Vec<_> = (0..200).map(|n| (format!("d{n}/e/file"), "x")).collect();
    let lines: Vec<_> = lines
        .iter()
        .map(|(at, text)| (at.as_str(), *text))
        .collect();
    let root = Model::of(&lines).encode(&trees);
    let edits = [("d7/e/file", put("new", None)), ("d8/e/gone", Edit::Remove)];
    let edits = edits
        .into_iter()
        .map(|(at, edit)| (path(at), edit))
        .collect();
    let edited = wait(edit_tree(&trees, root, &edits)).unwrap();
    assert!(trees.take_reads().len() <= 6);
    assert_eq!(edited.trees.len(), 4, "e, d7, the top and the root");
    let unchanged = wait(edit_tree(&trees, root, &BTreeMap::new())).unwrap();
    assert_eq!((unchanged.root, unchanged.trees), (root, Vec::new()));
}

#[test]
fn contradictions_and_what_is_not_there_are_refused() {
    let trees = Trees::default();
    let root = Model::of(&[("a/f", "x"), ("b", "y")]).encode(&trees);
    let refused = |edits: &[(&str, Edit)]| edit(&trees, root, edits).unwrap_err();
    let contradictions: [&[(&str, Edit)]; 5] = [
        &[("a", Edit::Remove), ("a/g", put("x", None))],
        &[("b", put("x", Some(1))), ("c", put("y", Some(1)))],
        &[("a/f", Edit::Remove), ("c", Edit::Link { to: path("a/f") })],
        &[("", Edit::Remove)],
        &[("a", Edit::Remove), ("c", Edit::Link { to: path("a/f") })],
    ];
    for edits in contradictions {
        let error = refused(edits);
        assert!(matches!(error, EditError::Contradiction { .. }), "{error}");
    }
    for at in ["b/c", "none/c"] {
        assert!(matches!(
            refused(&[(at, put("x", None))]),
            EditError::NoDirectory(_)
        ));
    }
    for to in ["a", "none", ""] {
        let error = refused(&[("c", Edit::Link { to: path(to) })]);
        assert!(matches!(error, EditError::NoName(_)), "{error}");
    }
}

#[test]
fn a_missing_tree_is_an_error() {
    let trees = Trees::default();
    let root = Model::of(&[("a/f", "x#1"), ("b/g", "x#1")]).encode(&trees);
    trees.remove(directory(&trees, root, "b"));
    let error = edit(&trees, root, &[("a/f", Edit::Remove)]).unwrap_err();
    assert!(matches!(error, EditError::Read(ReadError::NotFound(_))));
}

/// The edits of a difference in terms of inodes, as whoever sees a file system has them.
fn as_edits(before: &Model, after: &Model) -> BTreeMap<TreePath, Edit> {
    let mut edits = BTreeMap::new();
    let mut gone: Option<TreePath> = None;
    for at in before.0.keys().filter(|at| !after.0.contains_key(*at)) {
        if gone.as_ref().is_some_and(|gone| gone.is_above(at)) {
            continue;
        }
        gone = Some(at.clone());
        let in_directory = at.parent().is_some_and(|above| {
            after
                .0
                .get(&above)
                .is_some_and(|inode| inode.node.is_none())
        });
        if in_directory {
            edits.insert(at.clone(), Edit::Remove);
        }
    }
    for (at, inode) in &after.0 {
        let attributes = inode.attributes.clone();
        let edit = match &inode.node {
            None if before.0.get(at) == Some(inode) => continue,
            None => Edit::Directory {
                attributes,
                opaque: false,
            },
            // All names of what is linked are put, so that numbers are inodes.
            Some(_) if before.0.get(at) == Some(inode) && inode.number.is_none() => continue,
            Some(node) => Edit::Put {
                attributes,
                node: node.clone(),
                inode: inode.number.map(u64::from),
            },
        };
        edits.insert(at.clone(), edit);
    }
    edits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_edited_tree_is_the_one_encoded_from_nothing(
        base in steps(0..40),
        more in steps(0..10),
        gone in any_path(),
    ) {
        let trees = Trees::default();
        let before = changed(&Model::empty(), &base);
        let after = changed(&before, &more);
        let (from, to) = (before.encode(&trees), after.encode(&trees));
        let edited = wait(edit_tree(&trees, from, &as_edits(&before, &after))).unwrap();
        prop_assert_eq!(trees.store(&edited), to);
        // Taking names away is where links elsewhere change.
        let edits = BTreeMap::from([(gone.clone(), Edit::Remove)]);
        let edited = wait(edit_tree(&trees, to, &edits)).unwrap();
        let mut without = after;
        without.remove(&gone);
        prop_assert_eq!(trees.store(&edited), without.encode(&trees));
    }
}
