use proptest::prelude::*;

use super::*;
use crate::Digest;

fn entry(name: &[u8], node: Node) -> Entry {
    Entry {
        name: name.into(),
        attributes: Attributes::default(),
        node,
        hard_link: None,
    }
}

fn file() -> Node {
    Node::File {
        content: ContentId::new(Digest::of(b"content")),
        size_bytes: 7,
    }
}

fn sample() -> Tree {
    let attributes = Attributes {
        mode: 0o4755,
        uid: 4_294_967_294,
        gid: 1 << 21,
        mtime: Timestamp {
            seconds: -1,
            nanoseconds: 999_999_999,
        },
        xattrs: vec![Xattr {
            name: (*b"security.capability").into(),
            value: [0, 1, 2].into(),
        }],
    };
    let device = Device {
        major: 8,
        minor: 1 << 19,
    };
    let link = HardLink {
        group: [7; 16],
        count: 2,
    };
    Tree::new(vec![
        Entry {
            attributes,
            hard_link: Some(link),
            ..entry(b"suid", file())
        },
        entry(b"dir", Node::Directory(TreeId::new(Digest::of(b"tree")))),
        entry(b"link", Node::Symlink((*b"target").into())),
        entry(b"char", Node::CharDevice(device)),
        entry(b"block", Node::BlockDevice(device)),
        entry(b"fifo", Node::Fifo),
        entry(b"socket", Node::Socket),
        entry("n\u{e9}\u{1f980}".as_bytes(), file()),
        entry(b"\xff\x01", file()),
    ])
    .unwrap()
}

/// Trees written once are read by all later versions: this id must never change.
#[test]
fn golden_id() {
    let (id, bytes) = sample().encode().unwrap();
    assert_eq!(Tree::decode(id, &bytes), Ok(sample()));
    assert_eq!(
        id.to_string(),
        "e764a5575841f1dc4fbf08441bddea67cca1ad730b424c511a091b2affd33031"
    );
}

#[test]
fn lookup_finds_each_entry_and_no_other() {
    let tree = sample();
    for (at, entry) in tree.entries().iter().enumerate() {
        assert_eq!(tree.get(&entry.name), Some((at, entry)));
    }
    assert_eq!(tree.get(b"absent"), None);
}

#[test]
fn a_root_wraps_one_directory() {
    let id = TreeId::new(Digest::of(b"tree"));
    let root = Tree::root(
        Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
        id,
    )
    .unwrap();
    let (root_id, bytes) = root.encode().unwrap();
    let decoded = Tree::decode(root_id, &bytes).unwrap();
    assert_eq!(
        decoded.as_root().map(|(a, tree)| (a.mode, tree)),
        Some((0o755, id))
    );
    assert_eq!(sample().as_root(), None);
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let with = |change: fn(&mut Entry)| {
        let mut bad = entry(b"name", file());
        change(&mut bad);
        Tree::new(vec![bad])
    };
    let xattr = |name: &[u8]| Xattr {
        name: name.into(),
        value: [].into(),
    };
    let cases: Vec<Result<Tree, TreeError>> = vec![
        with(|e| e.name = [].into()),
        with(|e| e.name = [b'a'; 256].into()),
        with(|e| e.name = (*b"a/b").into()),
        with(|e| e.name = (*b"a\0").into()),
        with(|e| e.name = (*b"..").into()),
        with(|e| e.name = (*b".").into()),
        with(|e| e.attributes.mode = 0o10000),
        with(|e| e.attributes.mtime.nanoseconds = 1_000_000_000),
        with(|e| e.node = Node::Symlink([].into())),
        with(|e| e.node = Node::Symlink(vec![b'a'; 4096].into())),
        with(|e| {
            e.node = Node::Directory(TreeId::new(Digest::of(b"t")));
            e.hard_link = Some(HardLink {
                group: [0; 16],
                count: 2,
            });
        }),
        Tree::new(vec![entry(b"same", file()), entry(b"same", Node::Fifo)]),
        Tree::new(vec![Entry {
            attributes: Attributes {
                xattrs: vec![xattr(b"b"), xattr(b"a")],
                ..Attributes::default()
            },
            ..entry(b"name", file())
        }]),
    ];
    for case in cases {
        assert!(
            matches!(case, Err(TreeError::InvalidEntry { .. })),
            "{case:?}"
        );
    }
}

#[test]
fn a_count_of_xattrs_beyond_linux_is_refused_before_room_is_made() {
    let mut bytes = Tree::new(vec![entry(b"f", Node::Fifo)])
        .unwrap()
        .encode()
        .unwrap()
        .1;
    assert_eq!(
        bytes.pop(),
        Some(0),
        "the entry ends with its number of xattrs"
    );
    // 32,769 as a uvarint, and as many empty xattrs.
    bytes.extend([0x81, 0x80, 0x02]);
    bytes.resize(bytes.len() + 3 * 32_769, 0);
    assert_eq!(
        Tree::decode_unnamed(&bytes),
        Err(TreeError::Malformed("too many xattrs"))
    );
}

proptest! {
    /// Whatever decodes is canonical: it encodes to the same bytes.
    #[test]
    fn decoding_is_canonical_and_never_panics(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let (_, mut bytes) = sample().encode().unwrap();
        let len = bytes.len();
        bytes[at % len] = byte;
        if let Ok(tree) = Tree::decode_unnamed(&bytes) {
            prop_assert_eq!(&tree.encode().unwrap().1, &bytes);
        }
        prop_assert!(Tree::decode_unnamed(&bytes[..cut % len]).is_err());
    }
}
