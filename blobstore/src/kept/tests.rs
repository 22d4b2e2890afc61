use super::*;
use crate::{Attributes, ChunkId, Entry, Node};

const LARGE: u64 = 1 << 30;

/// A tree that no compression makes small.
fn tree(number: u32) -> (TreeId, Vec<u8>) {
    let target: Vec<u8> = (0..100)
        .flat_map(|part: u32| {
            *Digest::of(&[number, part].map(u32::to_le_bytes).concat()).as_bytes()
        })
        .filter(|byte| *byte != 0)
        .collect();
    let entry = Entry {
        name: b"link"[..].into(),
        attributes: Attributes::default(),
        node: Node::Symlink(target.into()),
        hard_link: None,
    };
    Tree::new(vec![entry]).unwrap().encode().unwrap()
}

fn list() -> ChunkList {
    let id = Digest::of(b"content");
    ChunkList::new(ContentId::new(id), [(ChunkId::new(id), 7)]).unwrap()
}

#[test]
fn what_is_kept_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    let (id, bytes) = tree(1);
    let list = list();
    assert_eq!(kept.tree(id), None);
    assert_eq!(kept.chunk_list(list.content()), None);
    kept.keep_tree(id, &bytes);
    kept.keep_chunk_list(list.content(), &list.encode().unwrap());
    kept.sync();
    drop(kept);
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    assert_eq!(kept.tree(id).unwrap().0.encode().unwrap().0, id);
    assert_eq!(kept.chunk_list(list.content()), Some(list));
    assert_eq!(kept.tree(tree(2).0), None);
}

#[test]
fn what_is_not_what_its_id_says_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    let (id, bytes) = tree(1);
    kept.keep_tree(id, &tree(2).1);
    assert_eq!(kept.tree(id), None);
    kept.keep_tree(id, &bytes);
    assert!(kept.tree(id).is_some(), "it can be kept again");

    let list = list();
    let key = key(b'L', list.content().digest());
    let mut damaged = list.encode().unwrap();
    damaged.extend(Digest::of(b"other").as_bytes());
    kept.put(&key, &damaged);
    assert_eq!(kept.chunk_list(list.content()), None);
    for stored in [&b""[..], b"\xff\xff\xff\xff", b"\x01\x00\x00\x00nonsense"] {
        kept.put_stored(&key, stored);
        assert_eq!(kept.chunk_list(list.content()), None);
    }
}

#[test]
fn a_damaged_database_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    drop(KeptItems::open(folder.path(), LARGE).unwrap());
    fs::write(folder.path().join("1/CURRENT"), "nonsense").unwrap();
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    let (id, bytes) = tree(1);
    kept.keep_tree(id, &bytes);
    assert!(kept.tree(id).is_some());
}

#[test]
fn what_is_open_elsewhere_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    let (id, bytes) = tree(1);
    kept.keep_tree(id, &bytes);
    assert!(KeptItems::open(folder.path(), LARGE).is_err());
    drop(kept);
    let kept = KeptItems::open(folder.path(), LARGE).unwrap();
    assert!(kept.tree(id).is_some());
}

#[test]
fn the_oldest_go_when_there_is_too_much_and_what_is_read_stays() {
    const TREES: u32 = 400;
    let folder = tempfile::tempdir().unwrap();
    let bytes_max = 64 * tree(0).1.len() as u64;
    let kept = KeptItems::open(folder.path(), bytes_max).unwrap();
    let used = tree(0);
    kept.keep_tree(used.0, &used.1);
    for number in 1..TREES {
        let (id, bytes) = tree(number);
        kept.keep_tree(id, &bytes);
        assert!(kept.tree(used.0).is_some(), "after {number}");
    }
    let left = (1..TREES).filter(|number| kept.tree(tree(*number).0).is_some());
    assert!((16..=64).contains(&left.count()));
    assert!(kept.tree(tree(TREES - 1).0).is_some());
    assert_eq!(numbers(folder.path()).unwrap().len(), 2);
    drop(kept);
    // With both generations, and none of an earlier run.
    fs::create_dir(folder.path().join("0")).unwrap();
    let kept = KeptItems::open(folder.path(), bytes_max).unwrap();
    assert!(kept.tree(used.0).is_some());
    assert_eq!(numbers(folder.path()).unwrap().len(), 2);
}
