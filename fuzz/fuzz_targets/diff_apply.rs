//! Any file systems as the sides of differences, merges and edits.
//!
//! Invariants: no panic; the differences of two trees, applied to the first, give the second; a
//! merge in which one side did nothing gives the other; the order of the sides makes no difference;
//! and what is edited names only trees that are there.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{
    Diff, Merge, Tree, TreeId, TreeReader, apply_differences, edit_tree, merge_trees,
};
use nacre_fuzz::file_system::{Bytes, Store, edits, file_system, wait};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut store = Store::default();
    let base = file_system(&mut bytes, BTreeMap::new());
    // Two changes of one file system, or anything.
    let mut side = |store: &mut Store| {
        let start = if bytes.next() % 4 == 0 {
            BTreeMap::new()
        } else {
            base.clone()
        };
        let changed = file_system(&mut bytes, start);
        store.encode(&changed, bytes.next() % 4 == 0)
    };
    let (ours, theirs) = (side(&mut store), side(&mut store));
    let base = store.encode(&base, false);
    for (before, after) in [(base, ours), (ours, theirs), (theirs, base)] {
        let differences = wait(async {
            let diff = Diff::of_roots(&store, before, after).await?;
            diff.collect().await
        });
        let differences = differences.expect("all trees are there");
        assert_eq!(differences.is_empty(), before == after);
        let applied = wait(apply_differences(&store, before, differences));
        assert_eq!(applied.expect("they fit").root, after);
    }
    let merge = |base, ours, theirs| match wait(merge_trees(&store, base, ours, theirs)) {
        Ok(Merge::Merged(edited)) => Some(edited.root),
        Ok(Merge::Conflicts(paths)) => {
            assert!(!paths.is_empty());
            None
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(merge(base, ours, base), Some(ours));
    assert_eq!(merge(base, base, theirs), Some(theirs));
    assert_eq!(merge(base, ours, theirs), merge(base, theirs, ours));

    let edits = edits(&mut bytes, &store);
    let Ok(edited) = wait(edit_tree(&store, base, &edits)) else {
        return;
    };
    for (id, bytes) in &edited.trees {
        let tree = Tree::decode(*id, bytes).expect("it is a tree");
        store.add(&tree);
    }
    all_there(&store, edited.root);
});

fn all_there(store: &Store, root: TreeId) {
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        let tree = wait(store.tree(id)).expect("what is named is there");
        pending.extend(tree.entries().iter().filter_map(|entry| match entry.node {
            nacre_blobstore::Node::Directory(id) => Some(id),
            _ => None,
        }));
    }
}
