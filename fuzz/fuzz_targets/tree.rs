//! Any bytes as an encoded tree.
//!
//! Invariants: no panic; memory in proportion to the input; what decodes is canonical, so it encodes
//! to the same bytes and is what building the tree from its entries gives; names are sorted and
//! unique, each is found by lookup, and none leaves its directory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{NAME_BYTES_MAX, Node, TARGET_BYTES_MAX, Tree};

fuzz_target!(|bytes: &[u8]| {
    let Ok(tree) = Tree::decode_unnamed(bytes) else {
        return;
    };
    let (id, encoded) = tree
        .encode()
        .expect("it is no larger than what was decoded");
    assert_eq!(encoded, bytes);
    assert_eq!(Tree::decode(id, &encoded).as_ref(), Ok(&tree));
    assert_eq!(Tree::new(tree.entries().to_vec()).as_ref(), Ok(&tree));
    assert!(tree.entries().is_sorted_by(|a, b| a.name < b.name));
    let is_root = tree.as_root().is_some();
    assert!(!is_root || tree.entries().len() == 1);
    for (number, entry) in tree.entries().iter().enumerate() {
        let name = &*entry.name;
        assert_eq!(tree.get(name), Some((number, entry)));
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
        assert!(name != b".." && (is_root || name != b"."));
        assert!(!name.contains(&b'/') && !name.contains(&0));
        assert!(entry.attributes.mode <= 0o7777);
        assert!(entry.attributes.mtime.nanoseconds < 1_000_000_000);
        assert!(entry.attributes.xattrs.is_sorted_by(|a, b| a.name < b.name));
        match &entry.node {
            Node::Symlink(target) => assert!((1..=TARGET_BYTES_MAX).contains(&target.len())),
            Node::Directory(_) => assert!(entry.hard_link.is_none()),
            _ => {}
        }
    }
});
