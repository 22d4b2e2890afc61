//! A snapshot has the very tree that the same files have when they are added as an image: hard
//! links, removed and replaced directories and all. Needs root, FUSE, runc and a static busybox.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::node::Node;
use crate::snapshots::{create, ended, node_with_box};
use crate::writes::{Change, Random};

/// Sequences, in the normal run and with `NACRE_TEST_LONG=1`.
const SEQUENCES: u64 = 10;
const SEQUENCES_LONG: u64 = 100;
/// Operations between two snapshots.
const OPERATIONS: usize = 40;

fn copy(arguments: &[&str], from: &Path, to: &Path) {
    let copied = Command::new("cp").args(arguments).args([from, to]).status();
    assert!(copied.unwrap().success(), "cp {arguments:?}");
}

/// Takes a snapshot, and adds a copy of what the sandbox shows as an image.
fn assert_same_tree(node: &Node, live: &Path, what: &str) {
    let snapshot = create(node, "s", &[]);
    let flat = node.path("flat");
    copy(&["-a"], live, &flat);
    let source = format!("dir:{}", flat.display());
    let added = node.json(&["image", "add", &source, "--name", "flat"]);
    fs::remove_dir_all(&flat).unwrap();
    if added["tree"] != snapshot["tree"] {
        let id = snapshot["snapshot"].as_str().unwrap();
        let mounts = [(id, node.empty("left")), ("flat", node.empty("right"))];
        for (name, target) in &mounts {
            node.ok(&["mount", name, target.to_str().unwrap()]);
        }
        let found = crate::compare::compare(&mounts[0].1, &mounts[1].1, &Default::default());
        for (_, target) in &mounts {
            node.ok(&["umount", target.to_str().unwrap()]);
        }
        found.unwrap().assert_equal(what);
        panic!("equal files have other trees: {what}");
    }
}

#[test]
fn a_snapshot_of_changed_links_is_what_a_copy_is_as_an_image() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    // `b/f0`, `b/linked` and `a/linked` are one inode of the image.
    let mut written = OpenOptions::new()
        .append(true)
        .open(at("a/linked"))
        .unwrap();
    written.write_all(b"more").unwrap();
    drop(written);
    assert_same_tree(&node, &live, "one name was written to");
    fs::remove_file(at("b/linked")).unwrap();
    assert_same_tree(&node, &live, "another was removed");
    fs::hard_link(at("a/f2"), at("b/across")).unwrap();
    fs::hard_link(at("a/f2"), at("a/c/across")).unwrap();
    assert_same_tree(&node, &live, "links across directories");
    copy(&["-al"], &at("a"), &at("copy"));
    assert_same_tree(&node, &live, "cp -al");
    rustix::fs::rename(at("copy/c"), at("moved")).unwrap();
    fs::remove_dir_all(at("copy")).unwrap();
    fs::create_dir_all(at("copy/c")).unwrap();
    assert_same_tree(&node, &live, "one of many names in what was moved");
    fs::remove_dir_all(at("a")).unwrap();
    fs::create_dir_all(at("a/c/d")).unwrap();
    assert_same_tree(&node, &live, "an empty directory in place of a full one");
    node.fsck();
}

#[test]
fn a_moved_directory_of_links_keeps_them() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    rustix::fs::rename(at("b"), at("a/c/b")).unwrap();
    assert_same_tree(&node, &live, "two of three names were moved");
    rustix::fs::rename(at("a/c"), at("c")).unwrap();
    fs::remove_file(at("c/b/f0")).unwrap();
    assert_same_tree(&node, &live, "moved again, and one is gone");
    fs::remove_file(at("a/linked")).unwrap();
    assert_same_tree(&node, &live, "one is left");
}

#[test]
fn snapshots_of_random_writes_are_what_copies_are_as_images() {
    let node = node_with_box();
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    for seed in 1..=if long { SEQUENCES_LONG } else { SEQUENCES } {
        let mut random = Random::seeded(seed + 1000);
        let live = ended(&node, "s", "kernel");
        let mut log = vec![format!("seed {seed}")];
        for _ in 0..2 {
            for _ in 0..OPERATIONS {
                let change = Change::random(&mut random);
                let done = change.apply(&live);
                log.push(format!("{change:.100?} -> {done:?}"));
            }
            assert_same_tree(&node, &live, &log.join("\n"));
        }
        node.ok(&["rm", "s"]);
    }
    node.fsck();
}
