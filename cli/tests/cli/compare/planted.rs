//! Plants each kind of difference and looks whether the comparison names it. Needs root, for
//! devices, owners and trusted attributes.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lremovexattr, lsetxattr, makedev, mknodat};

use super::{Exceptions, compare};

const LARGE_BYTES: usize = 600 << 10;

fn set_mtime(path: &Path, nanoseconds: u64) {
    let time = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn make_node(path: &Path, kind: FileType, numbers: (u32, u32)) {
    let device = makedev(numbers.0, numbers.1);
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
}

fn write_at(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// One tree that has something of every kind; all its times are the same.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join("dir/large"), vec![7; LARGE_BYTES]).unwrap();
    fs::write(root.join("file"), "text").unwrap();
    fs::write(root.join("linked"), "one inode").unwrap();
    fs::write(root.join("twin"), "one inode").unwrap();
    fs::hard_link(root.join("linked"), root.join("linked-too")).unwrap();
    symlink("file", root.join("link")).unwrap();
    make_node(&root.join("null"), FileType::CharacterDevice, (1, 3));
    make_node(&root.join("disk"), FileType::BlockDevice, (8, 1));
    make_node(&root.join("pipe"), FileType::Fifo, (0, 0));
    lsetxattr(root.join("file"), "user.a", b"1\0", XattrFlags::CREATE).unwrap();
    lsetxattr(root.join("link"), "trusted.a", b"1", XattrFlags::CREATE).unwrap();
    settle(root);
}

/// Gives every time a value that does not depend on when the test ran.
fn settle(root: &Path) {
    let script = r#"find "$1" -exec touch --no-dereference --date @1234567890.123456789 {} +"#;
    let status = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(root)
        .status();
    assert!(status.unwrap().success());
}

type Change = fn(&Path);

/// A change, and what is to be said of it.
type Case<'a> = (Change, &'a [&'a str]);

fn assert_named(cases: &[Case<'_>]) {
    for (change, expected) in cases {
        assert_eq!(differences_after(*change, true), *expected);
    }
}

/// Makes two equal trees, changes one, and returns what the comparison says of it.
fn differences_after(change: Change, settled: bool) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let (left, right) = (scratch.path().join("left"), scratch.path().join("right"));
    plant(&left);
    plant(&right);
    change(&right);
    if settled {
        settle(&right);
    }
    let found = compare(&left, &right, &Exceptions::default()).unwrap();
    assert_eq!(found.differences, found.reported.len() as u64);
    found.reported
}

#[test]
fn equal_trees_are_equal() {
    assert_eq!(differences_after(|_| (), true), Vec::<String>::new());
}

#[test]
fn names_types_and_contents_are_compared() {
    assert_named(&[
        (
            |r| fs::remove_file(r.join("file")).unwrap(),
            &["/file: only on the left"],
        ),
        (
            |r| fs::write(r.join("new"), "").unwrap(),
            &["/new: only on the right"],
        ),
        (
            |r| {
                fs::remove_dir(r.join("dir/empty")).unwrap();
                fs::write(r.join("dir/empty"), "").unwrap();
            },
            &["/dir/empty: type directory | file"],
        ),
        (
            |r| write_at(&r.join("file"), 3),
            &["/file: content differs at byte 3"],
        ),
        (
            |r| write_at(&r.join("dir/large"), LARGE_BYTES - 1),
            &["/dir/large: content differs at byte 614399"],
        ),
        (
            |r| fs::write(r.join("file"), "texts").unwrap(),
            &["/file: size 4 | 5"],
        ),
    ]);
}

#[test]
fn attributes_are_compared() {
    assert_named(&[
        (
            |r| {
                let mode = fs::Permissions::from_mode(0o4755);
                fs::set_permissions(r.join("file"), mode).unwrap();
            },
            &["/file: mode 0644 | 4755"],
        ),
        (
            |r| {
                let mode = fs::Permissions::from_mode(0o1755);
                fs::set_permissions(r.join("dir"), mode).unwrap();
            },
            &["/dir: mode 0755 | 1755"],
        ),
        (
            |r| chown(r.join("file"), Some(7), None).unwrap(),
            &["/file: uid 0 | 7"],
        ),
        (
            |r| chown(r.join("dir"), None, Some(7)).unwrap(),
            &["/dir: gid 0 | 7"],
        ),
        (
            |r| {
                fs::remove_file(r.join("link")).unwrap();
                symlink("pipe", r.join("link")).unwrap();
                lsetxattr(r.join("link"), "trusted.a", b"1", XattrFlags::CREATE).unwrap();
            },
            &["/link: target file | pipe"],
        ),
        (
            |r| {
                fs::remove_file(r.join("null")).unwrap();
                make_node(&r.join("null"), FileType::CharacterDevice, (1, 5));
            },
            &["/null: device 1:3 | 1:5"],
        ),
        (
            |r| {
                fs::remove_file(r.join("disk")).unwrap();
                make_node(&r.join("disk"), FileType::CharacterDevice, (8, 1));
            },
            &["/disk: type block device | character device"],
        ),
        (
            |r| lsetxattr(r.join("file"), "user.a", b"1\x01", XattrFlags::REPLACE).unwrap(),
            &[r#"/file: xattr user.a "1\\x00" | "1\\x01""#],
        ),
        (
            |r| lremovexattr(r.join("link"), "trusted.a").unwrap(),
            &[r#"/link: xattr trusted.a "1" | none"#],
        ),
        (
            |r| lsetxattr(r.join("dir"), "user.b", b"", XattrFlags::CREATE).unwrap(),
            &[r#"/dir: xattr user.b none | """#],
        ),
    ]);
}

#[test]
fn links_are_compared() {
    assert_named(&[
        (
            |r| {
                fs::remove_file(r.join("linked-too")).unwrap();
                fs::hard_link(r.join("twin"), r.join("linked-too")).unwrap();
            },
            &[
                "/linked: links 2 | 1",
                "/linked-too: same inode as /linked | /linked-too",
                "/twin: links 1 | 2",
                "/twin: same inode as /twin | /linked-too",
            ],
        ),
        (
            |r| {
                fs::remove_file(r.join("linked-too")).unwrap();
                fs::write(r.join("linked-too"), "one inode").unwrap();
            },
            &[
                "/linked: links 2 | 1",
                "/linked-too: links 2 | 1",
                "/linked-too: same inode as /linked | /linked-too",
            ],
        ),
    ]);
}

#[test]
fn times_differ_by_their_nanoseconds() {
    let by_one = |root: &Path| set_mtime(&root.join("dir/large"), 1_234_567_890_123_456_788);
    let expected = "/dir/large: mtime 1234567890+123456789ns | 1234567890+123456788ns";
    assert_eq!(differences_after(by_one, false), [expected]);
}

#[test]
fn only_what_is_excepted_is_passed_over() {
    let scratch = tempfile::tempdir().unwrap();
    let (left, right) = (scratch.path().join("left"), scratch.path().join("right"));
    plant(&left);
    plant(&right);
    lsetxattr(right.join("dir"), "user.b", b"", XattrFlags::CREATE).unwrap();
    lsetxattr(right.join("dir"), "trusted.b", b"", XattrFlags::CREATE).unwrap();
    set_mtime(&right.join("dir"), 1);
    set_mtime(&right.join("dir/empty"), 1);
    let except = Exceptions {
        xattr_prefixes: vec!["user."],
        mtimes: vec!["dir"],
        ..Exceptions::default()
    };
    let found = compare(&left, &right, &except).unwrap();
    assert_eq!(
        found.reported,
        [
            r#"/dir: xattr trusted.b none | """#,
            "/dir/empty: mtime 1234567890+123456789ns | 0+000000001ns"
        ]
    );
}
