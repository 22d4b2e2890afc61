//! Images as the kernel shows them. These tests mount, so they need root, as `make test` has.

mod delta;
mod hostile;
mod mounted;
mod random;

use nacre_blobstore::{Attributes, Chunk, Device, Timestamp, Xattr};

use super::*;
use crate::Kind;
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode};
use mounted::{Mounted, Stack, assert_fsck_accepts, assert_shows, write_contents};

const CHUNK_BYTES: usize = 1 << 20;

async fn image_of(model: &Model) -> Result<Vec<u8>, ErofsError> {
    let reader = MemoryReader::default();
    let root = model.store(&reader, CHUNK_BYTES);
    metadata_image(root, &reader, &SmallContents::default()).await
}

/// Returns the image of a model with the bytes of its small files.
async fn image_with_small(model: &Model) -> Result<Vec<u8>, ErofsError> {
    let reader = MemoryReader::default();
    let root = model.store(&reader, CHUNK_BYTES);
    let mut small = SmallContents::default();
    for node in model.0.values().filter(|node| node.kind == Kind::File) {
        small.add(&Chunk::of(node.bytes.clone().into()));
    }
    metadata_image(root, &reader, &small).await
}

/// Checks the images of a model alone and under an overlay.
async fn assert_round_trip(model: &Model) {
    let contents = tempfile::tempdir().unwrap();
    write_contents(contents.path(), model);
    for (image, stack) in [
        (image_of(model).await, Stack::Image),
        (image_with_small(model).await, Stack::ImageWithSmall),
    ] {
        let image = image.unwrap();
        assert_fsck_accepts(&image);
        let mounted = Mounted::erofs(&image);
        assert_shows(&mounted.path(), model, stack);
        let overlay = Mounted::overlay(&[&mounted], contents.path());
        assert_shows(&overlay.path(), model, Stack::Overlay);
    }
}

fn with_xattrs(mut node: ModelNode, xattrs: &[(&str, &[u8])]) -> ModelNode {
    let mut xattrs: Vec<_> = (xattrs.iter())
        .map(|(name, value)| Xattr {
            name: name.as_bytes().into(),
            value: (*value).into(),
        })
        .collect();
    xattrs.sort();
    node.attributes.xattrs = xattrs;
    node
}

fn empty() -> Model {
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    model
}

/// Everything that an inode can be and have.
fn varied() -> Model {
    let mut model = Model::default();
    let mut root = with_xattrs(
        ModelNode::directory(0o1777),
        &[("user.root", b"\0\xff"), ("trusted.overlay.opaque", b"y")],
    );
    root.attributes.mtime = Timestamp {
        seconds: -1,
        nanoseconds: 999_999_999,
    };
    model.insert("/", root);
    model.insert("/d", ModelNode::directory(0o2750));
    model.insert("/d/empty", ModelNode::file(0o4755, ""));
    model.insert("/d/linked", linked());
    model.insert("/d/sub", ModelNode::directory(0));
    model.insert("/d/sub/linked too", linked());
    model.insert("/linked", linked());
    model.insert("/fifo", ModelNode::new(Kind::Fifo, 0o622, ""));
    model.insert("/socket", ModelNode::new(Kind::Socket, 0o777, ""));
    for (name, kind, major, minor) in [
        ("/null", Kind::CharDevice, 1, 3),
        ("/sda", Kind::BlockDevice, 8, 0),
        ("/zero", Kind::BlockDevice, 0, 0),
        ("/far", Kind::CharDevice, 0xfff, 0xf_ffff),
    ] {
        let mut node = ModelNode::new(kind, 0o660, "");
        node.device = Device { major, minor };
        model.insert(name, node);
    }
    for len in [1, 59, 3968, 3969, 4095] {
        let node = ModelNode::new(Kind::Symlink, 0o777, vec![b'x'; len]);
        model.insert(&format!("/symlink-{len}"), node);
    }
    for (i, seconds) in (0_u32..).zip([i64::MIN, -(1 << 40), 0, 1 << 33, i64::MAX]) {
        let mut node = ModelNode::file(0o600, "old");
        (node.attributes.uid, node.attributes.gid) = (u32::MAX - 1 - i, 70_000 + i);
        node.attributes.mtime = Timestamp {
            seconds,
            nanoseconds: i,
        };
        model.insert(&format!("/time-{i}"), node);
    }
    model
}

fn linked() -> ModelNode {
    let mut node = with_xattrs(ModelNode::file(0o644, "shared"), &[("user.x", b"1")]);
    node.group = Some(7);
    node
}

#[tokio::test]
async fn every_kind_and_attribute_comes_out_equal() {
    assert_round_trip(&varied()).await;
    assert_round_trip(&empty()).await;
}

#[tokio::test]
async fn xattrs_of_any_size_come_out_equal() {
    let mut model = empty();
    let acl = |tags: &[u8]| {
        let entry = |tag: &u8| {
            let id = if *tag == 2 { 1000 } else { u32::MAX };
            [&[*tag, 0, 5, 0], id.to_le_bytes().as_slice()].concat()
        };
        [
            &[2, 0, 0, 0],
            tags.iter().flat_map(entry).collect::<Vec<_>>().as_slice(),
        ]
        .concat()
    };
    let directory = with_xattrs(
        ModelNode::directory(0o750),
        &[
            ("system.posix_acl_access", &acl(&[1, 2, 4, 16, 32])),
            ("system.posix_acl_default", &acl(&[1, 4, 32])),
            ("trusted.overlay.overlay.opaque", b"y"),
            ("trusted.overlay.redirect", b"/elsewhere"),
            ("trusted.\u{e9}", b""),
        ],
    );
    model.insert("/directory", directory);
    // A version 2 capability: all of them, effective.
    let capability = [&[1, 0, 0, 2][..], &[0xff; 8], &[0; 8]].concat();
    let file = with_xattrs(
        ModelNode::file(0o755, "x"),
        &[
            ("security.capability", &capability),
            ("security.ima", &[0; 33]),
        ],
    );
    model.insert("/capable", file);
    for len in [0, 1, 3800, 3900, 4096, 5000, 65_535] {
        let value: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let long = format!("user.{}", "n".repeat(250));
        let xattrs = [("user.v", &value[..]), (&long, b"long")];
        for (kind, bytes) in [(Kind::File, "f"), (Kind::Directory, "")] {
            let node = with_xattrs(ModelNode::new(kind, 0o700, bytes), &xattrs);
            model.insert(&format!("/{kind:?}-{len}"), node);
        }
        let link = ModelNode::new(Kind::Symlink, 0o777, vec![b't'; 200]);
        let node = with_xattrs(link, &[("trusted.v", &value)]);
        model.insert(&format!("/link-{len}"), node);
    }
    let names: Vec<_> = (0..900).map(|i| format!("user.{i:04}")).collect();
    let many: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), &b"some value"[..]))
        .collect();
    model.insert("/many", with_xattrs(ModelNode::file(0o600, "m"), &many));
    assert_round_trip(&model).await;
}

/// Of all sizes around the limit, at all places of a block, and one behind attributes that leave it no room.
#[tokio::test]
async fn small_files_are_read_from_the_image() {
    let mut model = empty();
    let sizes = [1, 2, 31, 32, 33, 500, 1023, 1024, 1025, 5000];
    for (i, size) in sizes.iter().cycle().take(400).enumerate() {
        let bytes: Vec<u8> = format!("{i} ").bytes().cycle().take(*size).collect();
        model.insert(&format!("/{i}"), ModelNode::file(0o644, bytes));
    }
    let crowded = with_xattrs(
        ModelNode::file(0o644, vec![b'c'; 1000]),
        &[("user.v", &[1; 3500])],
    );
    model.insert("/crowded", crowded);
    assert_round_trip(&model).await;

    let (small, mounted) = (image_with_small(&model).await.unwrap(), tempfile::tempdir());
    let overlay = Mounted::overlay(&[&Mounted::erofs(&small)], mounted.unwrap().path());
    let read = |name: &str| std::fs::read(overlay.path().join(name));
    assert_eq!(
        read("crowded").unwrap(),
        vec![b'c'; 1000],
        "no layer has it"
    );
    assert!(read("8").is_err(), "1,025 bytes are not in the image");
}

#[tokio::test]
async fn large_directories_are_searched_in_the_order_of_bytes() {
    let mut model = empty();
    let file = |len: usize| ModelNode::file(0o644, vec![b'x'; len]);
    for i in 0..3000 {
        let name = format!("{i:04}{}", "x".repeat(i % 252));
        model.insert(&name, file(i % 3));
    }
    model.insert("/sub", ModelNode::directory(0o755));
    for i in 0..300 {
        model.insert(&format!("/sub/{i}"), ModelNode::directory(0o700));
        model.insert(&format!("/sub/{i}/f"), file(1));
    }
    // Around the dots, and every byte that a name can have.
    for name in ["-", "+", ".!", ".-", "...", "..!", "..a", ".a", " "] {
        model.insert(name, file(1));
    }
    for byte in (1..=u8::MAX).filter(|byte| !b"./".contains(byte)) {
        model.0.insert(vec![vec![byte]], file(2));
        model.0.insert(vec![vec![b'a', byte, byte]], file(0));
    }
    assert_round_trip(&model).await;
}

/// Inodes that end anywhere in the last block, with nothing behind them.
#[tokio::test]
async fn images_may_end_after_any_inode() {
    let mut model = empty();
    for i in 0..130 {
        model.insert(&format!("/{i}"), ModelNode::new(Kind::Fifo, 0o600, ""));
        assert_fsck_accepts(&image_of(&model).await.unwrap());
    }
    assert_round_trip(&model).await;
}

#[tokio::test]
async fn deep_trees_are_mounted_and_deeper_ones_refused() {
    let mut model = empty();
    let mut path = Vec::new();
    for _ in 0..200 {
        path.push(b"deep".to_vec());
        model.0.insert(path.clone(), ModelNode::directory(0o755));
    }
    assert_round_trip(&model).await;

    let reader = MemoryReader::default();
    let attributes = Attributes::default();
    let mut below = reader.add_tree(Tree::default()).unwrap();
    for _ in 0..=DIRECTORY_DEPTH_MAX {
        let entry = nacre_blobstore::Entry {
            name: b"d"[..].into(),
            attributes: attributes.clone(),
            node: Node::Directory(below),
            hard_link: None,
        };
        below = reader.add_tree(Tree::new(vec![entry]).unwrap()).unwrap();
    }
    let root = reader
        .add_tree(Tree::root(attributes, below).unwrap())
        .unwrap();
    let error = refused(root, &reader).await;
    assert!(
        error
            .to_string()
            .ends_with("deeper than DIRECTORY_DEPTH_MAX"),
        "{error}"
    );
}

#[tokio::test]
async fn equal_trees_make_equal_images_pinned_for_ever() {
    let image = image_of(&varied()).await.unwrap();
    assert_eq!(image, image_of(&varied()).await.unwrap());
    assert_eq!(
        blake3::hash(&image).to_hex().as_str(),
        "80ad6a459e1fa6c411b2a24892ec17cf9866f320455ff5ba57ac974a26e1aaa4"
    );
    let image = image_with_small(&varied()).await.unwrap();
    assert_eq!(
        blake3::hash(&image).to_hex().as_str(),
        "be8fa6a90740cead51263208de37401f7e8521e1124b54744ba8ad711aa8da66"
    );
}

async fn refused(root: TreeId, reader: &MemoryReader) -> ErofsError {
    let image = metadata_image(root, reader, &SmallContents::default()).await;
    image.unwrap_err()
}

async fn refusal(model: &Model) -> String {
    match image_of(model).await.unwrap_err() {
        ErofsError::Unrepresentable { path, reason } => format!("{}: {reason}", path.display()),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn what_no_image_can_hold_is_refused_by_its_path() {
    let xattr =
        |name: &str, len: usize| with_xattrs(ModelNode::file(0o644, "x"), &[(name, &vec![1; len])]);
    let char_device = |major, minor| {
        let device = Device { major, minor };
        ModelNode {
            device,
            ..ModelNode::new(Kind::CharDevice, 0o600, "")
        }
    };
    let mut unowned = ModelNode::directory(0o755);
    unowned.attributes.uid = u32::MAX;
    let long_name = format!("trusted.overlay.{}", "n".repeat(239));
    let names: Vec<_> = (0..5).map(|i| format!("user.{i}")).collect();
    let too_much: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), &[0; 65_000][..]))
        .collect();
    let too_much = with_xattrs(ModelNode::file(0o644, ""), &too_much);
    for (node, reason) in [
        (
            xattr("user.v", 65_536),
            "an xattr value of more than 65,535 bytes",
        ),
        (
            xattr("system.nfs4_acl", 1),
            "an xattr outside the namespaces of EROFS",
        ),
        (xattr("user.", 1), "an xattr with an empty name"),
        (
            xattr("system.posix_acl_access", 5),
            "a POSIX ACL that the kernel cannot parse",
        ),
        (
            xattr(&long_name, 1),
            "an xattr name that is too long once it is escaped",
        ),
        (too_much, "more than 262,148 bytes of xattrs"),
        (
            char_device(0, 0),
            "a character device 0:0, which overlayfs takes for a whiteout",
        ),
        (
            char_device(4096, 0),
            "a device number that Linux does not have",
        ),
        (
            char_device(0, 1 << 20),
            "a device number that Linux does not have",
        ),
        (unowned, "an owner that Linux does not have"),
    ] {
        let mut model = empty();
        model.insert("/dir", ModelNode::directory(0o755));
        model.insert("/dir/x", node);
        assert_eq!(refusal(&model).await, format!("/dir/x: {reason}"));
    }
}

#[tokio::test]
async fn a_root_and_a_group_that_are_wrong_are_refused_by_their_path() {
    let mut model = empty();
    model.insert("/", with_xattrs(ModelNode::directory(0), &[("other", b"")]));
    assert_eq!(
        refusal(&model).await,
        "/: an xattr outside the namespaces of EROFS"
    );
    let mut model = empty();
    model.insert("/a", linked());
    model.insert(
        "/b",
        ModelNode {
            bytes: b"other".to_vec(),
            ..linked()
        },
    );
    let reason = "names of one hard-link group differ in attributes or kind";
    assert_eq!(refusal(&model).await, format!("/b: {reason}"));
}

#[tokio::test]
async fn trees_that_are_no_roots_or_cannot_be_read_are_errors() {
    let reader = MemoryReader::default();
    let model = varied();
    let root = model.store(&reader, CHUNK_BYTES);
    let directory = model.subtree("/d");
    let not_root = refused(directory, &reader).await;
    assert!(matches!(not_root, ErofsError::NotRoot(id) if id == directory));
    // A root where a directory should be.
    let twice = reader
        .add_tree(Tree::root(Attributes::default(), root).unwrap())
        .unwrap();
    let nested = refused(twice, &reader).await;
    assert!(
        matches!(nested, ErofsError::Unrepresentable { .. }),
        "{nested}"
    );
    reader.corrupt(*directory.digest());
    let unread = refused(root, &reader).await;
    assert!(matches!(
        unread,
        ErofsError::Read(ReadError::Corrupt { .. })
    ));
}

/// Some hundred bytes of trees that describe 2^40 directories.
#[tokio::test]
async fn a_tree_that_doubles_at_each_level_is_refused_before_memory_ends() {
    let reader = MemoryReader::default();
    let attributes = Attributes::default();
    let mut below = reader.add_tree(Tree::default()).unwrap();
    for _ in 0..40 {
        let entry = |name: &[u8; 1]| nacre_blobstore::Entry {
            name: name[..].into(),
            attributes: attributes.clone(),
            node: Node::Directory(below),
            hard_link: None,
        };
        below = reader
            .add_tree(Tree::new(vec![entry(b"a"), entry(b"b")]).unwrap())
            .unwrap();
    }
    let root = reader
        .add_tree(Tree::root(attributes, below).unwrap())
        .unwrap();
    let error = refused(root, &reader).await;
    assert!(
        error.to_string().ends_with("more entries than ENTRIES_MAX"),
        "{error}"
    );
}
