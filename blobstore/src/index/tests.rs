use super::*;
use crate::pack::{Item, PackBuilder};

fn pack(kind: PackKind, items: &[(ItemKind, &[u8])]) -> (PackName, PackIndex) {
    let mut pack = PackBuilder::new(kind);
    for (item, bytes) in items {
        let hash = Digest::of(bytes);
        let stored = crate::frame::compress(bytes).unwrap();
        pack.push_frame(
            &stored,
            &[(
                Item { kind: *item, hash },
                u32::try_from(bytes.len()).unwrap(),
            )],
        );
    }
    let pack = pack.finish();
    (pack.name, pack.index)
}

fn chunk(bytes: &[u8]) -> ItemKind {
    ItemKind::Chunk(ChunkId::new(Digest::of(bytes)))
}

fn tree(bytes: &[u8]) -> ItemKind {
    ItemKind::Tree(TreeId::new(Digest::of(bytes)))
}

#[test]
fn finds_what_was_inserted_and_forgets_all() {
    let dir = tempfile::tempdir().unwrap();
    let index = ChunkIndex::open(dir.path()).unwrap();
    let list = ItemKind::ChunkList(ContentId::new(Digest::of(b"content")));
    // The same bytes as a chunk and as a tree are two items.
    let (data, data_index) = pack(PackKind::Data, &[(chunk(b"a"), b"a"), (chunk(b"b"), b"b")]);
    let (trees, trees_index) = pack(PackKind::Tree, &[(tree(b"a"), b"a"), (list, b"list")]);
    index.insert(data, &data_index).unwrap();
    index.insert(trees, &trees_index).unwrap();
    index.insert(trees, &trees_index).unwrap();
    assert_eq!(index.packs().unwrap(), BTreeSet::from([data, trees]));
    for (item, name, frame) in [
        (chunk(b"a"), data, 0),
        (chunk(b"b"), data, 1),
        (tree(b"a"), trees, 0),
        (list, trees, 1),
    ] {
        let location = index.locate(item).unwrap().unwrap();
        assert_eq!(
            (index.pack(location.pack).unwrap(), location.frame),
            (name, frame)
        );
    }
    let b = index.locate(chunk(b"b")).unwrap().unwrap();
    assert_eq!(index.frame(b).unwrap(), data_index.frames()[1]);
    let wanted = [chunk(b"a"), tree(b"a"), chunk(b"c")];
    let (packs, missing) = index.packs_of(wanted).unwrap();
    assert_eq!(
        (packs, missing),
        (BTreeSet::from([data, trees]), vec![chunk(b"c")])
    );

    index.clear().unwrap();
    assert_eq!(index.packs().unwrap(), BTreeSet::new());
    assert_eq!(index.locate(chunk(b"a")).unwrap(), None);
    assert!(index.frame(b).is_err());
    index.insert(trees, &trees_index).unwrap();
    assert!(index.locate(tree(b"a")).unwrap().is_some());
}

#[test]
fn is_reopened_as_it_was_and_busy_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let (name, packed) = pack(PackKind::Data, &[(chunk(b"a"), b"a")]);
    {
        let index = ChunkIndex::open(dir.path()).unwrap();
        index.insert(name, &packed).unwrap();
        assert!(matches!(
            ChunkIndex::open(dir.path()),
            Err(IndexError::Busy { .. })
        ));
    }
    let index = ChunkIndex::open(dir.path()).unwrap();
    assert!(index.locate(chunk(b"a")).unwrap().is_some());
}

#[test]
fn numbers_of_packs_are_never_given_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let index = ChunkIndex::open(dir.path()).unwrap();
    let (a, a_index) = pack(PackKind::Data, &[(chunk(b"a"), b"a")]);
    let (b, b_index) = pack(PackKind::Data, &[(chunk(b"b"), b"b")]);
    index.insert(a, &a_index).unwrap();
    let before = index.locate(chunk(b"a")).unwrap().unwrap();
    index.clear().unwrap();
    assert!(index.packs().unwrap().is_empty());
    index.insert(b, &b_index).unwrap();
    let after = index.locate(chunk(b"b")).unwrap().unwrap();
    assert_ne!(before.pack, after.pack);
    assert!(index.pack(before.pack).is_err());
    index.clear().unwrap();
    drop(index);
    let index = ChunkIndex::open(dir.path()).unwrap();
    index.insert(a, &a_index).unwrap();
    assert!(index.locate(chunk(b"a")).unwrap().unwrap().pack > after.pack);
}

#[test]
fn an_item_is_known_in_its_first_pack_and_in_the_last_ones() {
    let dir = tempfile::tempdir().unwrap();
    let index = ChunkIndex::open(dir.path()).unwrap();
    let packs: Vec<_> = (0..20_u8)
        .map(|n| pack(PackKind::Data, &[(chunk(b"a"), b"a"), (chunk(&[n]), &[n])]))
        .collect();
    for (name, packed) in &packs {
        index.insert(*name, packed).unwrap();
    }
    drop(index);
    let index = ChunkIndex::open(dir.path()).unwrap();
    let mut found = Vec::new();
    while let Some(at) = index.locate(chunk(b"a")).unwrap() {
        found.push(index.pack(at.pack).unwrap());
        index.note_gone(at.pack);
    }
    let expected = packs[13..].iter().rev().chain(&packs[..1]);
    let expected: Vec<_> = expected.map(|(name, _)| *name).collect();
    assert_eq!(found, expected);
    assert_eq!(index.packs_of([chunk(b"a")]).unwrap().1, [chunk(b"a")]);
    index.insert(packs[15].0, &packs[15].1).unwrap();
    let at = index.locate(chunk(b"a")).unwrap().unwrap();
    assert_eq!(index.pack(at.pack).unwrap(), packs[15].0);
}

#[test]
fn a_forgotten_pack_stays_so_and_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (a, a_index) = pack(PackKind::Data, &[(chunk(b"a"), b"a"), (chunk(b"b"), b"b")]);
    let (b, b_index) = pack(PackKind::Data, &[(chunk(b"b"), b"b")]);
    {
        let index = ChunkIndex::open(dir.path()).unwrap();
        index.insert(b, &b_index).unwrap();
        index.insert(a, &a_index).unwrap();
        index.forget(a).unwrap();
        index.forget(a).unwrap();
        assert!(index.locate(chunk(b"a")).unwrap().is_none());
    }
    let index = ChunkIndex::open(dir.path()).unwrap();
    assert!(index.locate(chunk(b"a")).unwrap().is_none());
    let at = index.locate(chunk(b"b")).unwrap().unwrap();
    assert_eq!(index.pack(at.pack).unwrap(), b);
    assert_eq!(index.packs().unwrap(), [b].into());
    assert!(!index.contains(a).unwrap());
    index.insert(a, &a_index).unwrap();
    let at = index.locate(chunk(b"a")).unwrap().unwrap();
    assert_eq!(index.pack(at.pack).unwrap(), a);
}
