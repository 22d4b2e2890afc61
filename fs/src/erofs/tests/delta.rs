//! Images of changes, stacked over the image of what they change.

use std::collections::BTreeMap;

use nacre_blobstore::{Attributes, ContentId, Digest};

use super::mounted::{Mounted, Stack, assert_fsck_accepts, assert_shows, write_contents};
use super::{empty, image_of, linked, varied, with_xattrs};
use crate::Kind;
use crate::erofs::{
    ErofsError, ImageBuilder, ImageEntry, ImageInode, UnwrittenDirectory, takes_delta,
};
use crate::testing::model::{Model, ModelNode, ModelPath};

/// Writes what turns `base` into `target` as an image; directories at which `is_opaque` holds are
/// written whole and hide the base.
pub(super) fn delta(
    base: &Model,
    target: &Model,
    is_opaque: impl Fn(&ModelPath) -> bool,
) -> Result<Vec<u8>, ErofsError> {
    let (mut image, root) = ImageBuilder::new(*b"a delta's UUID..", &target.0[&vec![]].attributes);
    let mut pending = vec![(root, ModelPath::new(), Some(base))];
    while let Some((directory, path, base)) = pending.pop() {
        let attributes = Attributes::default();
        let mut entries = BTreeMap::new();
        let is_merged =
            |base: &&Model| base.0.get(&path).is_some_and(|n| n.kind == Kind::Directory);
        let base = base.filter(is_merged);
        for (name, _) in base.iter().flat_map(|base| base.children(&path)) {
            let child = [path.as_slice(), &[name.to_vec()]].concat();
            if !target.0.contains_key(&child) {
                entries.insert(name, entry(name, &attributes, ImageInode::Whiteout));
            }
        }
        for (name, node) in target.children(&path) {
            let child = [path.as_slice(), &[name.to_vec()]].concat();
            let unchanged = base.is_some_and(|base| base.0.get(&child) == Some(node));
            if unchanged && node.kind != Kind::Directory && node.group.is_none() {
                continue;
            }
            let inode = inode(node, is_opaque(&child));
            let mut entry = entry(name, &node.attributes, inode);
            entry.hard_link = node.group.map(|group| [group; 16]);
            entries.insert(name, entry);
        }
        let entries: Vec<_> = entries.into_values().collect();
        let directories = entries.iter().filter_map(|entry| match entry.inode {
            ImageInode::Directory { opaque } => Some((entry.name, opaque)),
            _ => None,
        });
        let written: Vec<UnwrittenDirectory> = image.write_directory(directory, &entries)?;
        for (directory, (name, opaque)) in written.into_iter().zip(directories) {
            let child = [path.as_slice(), &[name.to_vec()]].concat();
            pending.push((directory, child, base.filter(|_| !opaque)));
        }
    }
    Ok(image.finish())
}

const fn entry<'a>(
    name: &'a [u8],
    attributes: &'a Attributes,
    inode: ImageInode<'a>,
) -> ImageEntry<'a> {
    ImageEntry {
        name,
        attributes,
        inode,
        hard_link: None,
    }
}

fn inode(node: &ModelNode, opaque: bool) -> ImageInode<'_> {
    match node.kind {
        Kind::Directory => ImageInode::Directory { opaque },
        Kind::File => ImageInode::File {
            content: ContentId::new(Digest::of(&node.bytes)),
            size_bytes: node.bytes.len() as u64,
        },
        Kind::Symlink => ImageInode::Symlink(&node.bytes),
        Kind::CharDevice => ImageInode::CharDevice(node.device),
        Kind::BlockDevice => ImageInode::BlockDevice(node.device),
        Kind::Fifo => ImageInode::Fifo,
        Kind::Socket => ImageInode::Socket,
    }
}

/// Checks that the image of a delta over that of its base shows its target.
pub(super) async fn assert_stacks(
    base: &Model,
    target: &Model,
    is_opaque: impl Fn(&ModelPath) -> bool,
) {
    let delta = delta(base, target, is_opaque).unwrap();
    assert_fsck_accepts(&delta);
    let upper = Mounted::erofs(&delta);
    let lower = Mounted::erofs(&image_of(base).await.unwrap());
    let contents = tempfile::tempdir().unwrap();
    write_contents(contents.path(), base);
    write_contents(contents.path(), target);
    let overlay = Mounted::overlay(&[&upper, &lower], contents.path());
    assert_shows(&overlay.path(), target, Stack::Overlay);
}

#[tokio::test]
async fn whiteouts_and_opaque_directories_hide_and_the_rest_shows_through() {
    let file = |bytes: &str| ModelNode::file(0o644, bytes);
    let mut base = varied();
    for directory in ["/gone", "/opaque", "/opaque/sub", "/merged", "/to-file"] {
        base.insert(directory, ModelNode::directory(0o755));
    }
    for path in [
        "/gone/f",
        "/opaque/old",
        "/opaque/sub/old",
        "/merged/a",
        "/merged/b",
    ] {
        base.insert(path, file(path));
    }
    base.insert("/changed", file("before"));
    base.insert("/to-file/f", file("below"));
    base.insert("/to-directory", file("above"));

    let mut target = base.clone();
    for path in [
        "/gone",
        "/gone/f",
        "/opaque/old",
        "/opaque/sub",
        "/opaque/sub/old",
    ] {
        target.0.remove(&Model::path(path));
    }
    for path in ["/merged/b", "/to-file/f", "/fifo", "/symlink-59", "/time-0"] {
        target.0.remove(&Model::path(path));
    }
    target.insert("/", ModelNode::directory(0o711));
    target.insert("/opaque/new", file("new"));
    target.insert(
        "/merged",
        with_xattrs(ModelNode::directory(0o700), &[("user.m", b"m")]),
    );
    target.insert("/merged/c", file("added"));
    target.insert("/changed", file("after, and longer"));
    target.insert("/to-file", file("a file now"));
    target.insert("/to-directory", ModelNode::directory(0o755));
    target.insert("/to-directory/f", file("a directory now"));
    target.insert("/sda", file(""));
    assert_stacks(&base, &target, |path| *path == Model::path("/opaque")).await;
}

#[test]
fn images_with_names_like_those_of_contents_take_no_delta() {
    let takes = |names: &[&'static str]| takes_delta(names.iter().map(|name| name.as_bytes()));
    assert!(takes(&["a", "abc", "AB", "ag", "usr", "a-"]));
    for name in ["ab", "00", "9f"] {
        assert!(!takes(&["usr", name]));
    }
}

/// Why [`takes_delta`] is needed; fails on a kernel that looks into data-only layers alone.
#[tokio::test]
async fn overlayfs_takes_what_is_below_a_delta_for_its_content() {
    let base_of = |path: &str| {
        let mut base = empty();
        base.insert(&path[..3], ModelNode::directory(0o755));
        base.insert(path, ModelNode::file(0o644, "wrong"));
        base
    };
    let mut target = empty();
    target.insert("/f", ModelNode::file(0o644, "right"));
    let content = target.content("/f").to_string();
    let shard = format!("/{}/other", &content[..2]);
    let same = format!("/{}/{}", &content[..2], &content[2..]);
    for (path, expected) in [(shard, None), (same, Some("wrong"))] {
        let base = base_of(&path);
        let upper = Mounted::erofs(&delta(&empty(), &target, |_| false).unwrap());
        let lower = Mounted::erofs(&image_of(&base).await.unwrap());
        let contents = tempfile::tempdir().unwrap();
        write_contents(contents.path(), &base);
        write_contents(contents.path(), &target);
        let overlay = Mounted::overlay(&[&upper, &lower], contents.path());
        let read = std::fs::read_to_string(overlay.path().join("f"));
        assert_eq!(read.ok().as_deref(), expected, "{path}");
    }
}

#[test]
fn entries_out_of_order_and_bad_names_are_refused() {
    let attributes = Attributes::default();
    let refused = |names: &[&[u8]]| {
        let (mut image, root) = ImageBuilder::new([0; 16], &attributes);
        let entries: Vec<_> = (names.iter())
            .map(|name| entry(name, &attributes, ImageInode::Fifo))
            .collect();
        image.write_directory(root, &entries).is_err()
    };
    assert!(!refused(&[b"a", b"aa", b"b"]));
    let long = [b'n'; 256];
    assert!(!refused(&[&long[..255]]));
    for names in [
        &[&b"b"[..], b"a"][..],
        &[b"a", b"a"],
        &[b""],
        &[b"."],
        &[b".."],
        &[b"a/b"],
        &[b"a\0"],
        &[&long],
    ] {
        assert!(refused(names), "{names:?}");
    }
}

#[test]
#[should_panic(expected = "every directory is to be written")]
fn an_image_with_a_directory_left_out_is_a_programming_error() {
    let (image, _root) = ImageBuilder::new([0; 16], &Attributes::default());
    image.finish();
}

#[tokio::test]
async fn reads_through_an_overlay_seek_and_map_the_content() {
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::os::unix::fs::FileExt as _;

    let bytes = crate::testing::model::pseudo_random(3 << 20, 1);
    let mut model = empty();
    model.insert("/large", ModelNode::file(0o644, bytes.clone()));
    model.insert("/linked", linked());
    let image = Mounted::erofs(&image_of(&model).await.unwrap());
    let contents = tempfile::tempdir().unwrap();
    write_contents(contents.path(), &model);
    let overlay = Mounted::overlay(&[&image], contents.path());
    let mut file = std::fs::File::open(overlay.path().join("large")).unwrap();
    assert_eq!(
        file.seek(SeekFrom::End(-10)).unwrap(),
        bytes.len() as u64 - 10
    );
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert_eq!(end, bytes[bytes.len() - 10..]);
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(data, 0);
    let mut middle = vec![0; 100_000];
    file.read_exact_at(&mut middle, 1 << 20).unwrap();
    assert_eq!(middle, bytes[1 << 20..][..100_000]);
}
