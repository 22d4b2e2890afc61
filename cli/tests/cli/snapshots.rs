//! Snapshots show what their sandboxes show, whatever was done there; and keep their promises.
//! Needs root, FUSE, runc and a static busybox.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nacre_blobstore::CrashPoint;
use rustix::fs::{XattrFlags, lsetxattr};
use serde_json::{Value, json};

use crate::compare::{Exceptions, compare};
use crate::files::busybox;
use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, archive};
use crate::writes::{Change, Random, image};

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 10;
/// Sequences, in the normal run and with `NACRE_TEST_LONG=1`.
const SEQUENCES: u64 = 20;
const SEQUENCES_LONG: u64 = 200;
/// Operations between two snapshots.
const OPERATIONS: usize = 40;

/// Adds the image `box`: what random writes want, hard links, and busybox.
pub(crate) fn node_with_box() -> Node {
    let node = Node::new();
    add_box(&node);
    node
}

pub(crate) fn add_box(node: &Node) {
    let mut entries = image();
    entries.extend([
        Entry::directory("./bin/"),
        Entry::file("./bin/busybox", busybox()).mode(0o755),
        Entry::symlink("./bin/true", "busybox"),
        Entry::symlink("./bin/sleep", "busybox"),
        Entry::symlink("./bin/sh", "busybox"),
        Entry::hard_link("./b/linked", "b/f0"),
        Entry::hard_link("./a/linked", "b/f0"),
    ]);
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    layout::write(
        &node.path("layout"),
        &[layer],
        &json!({"Env": ["PATH=/bin"]}),
    );
    let source = format!("oci:{}:v1", node.path("layout").display());
    node.ok(&["image", "add", &source, "--name", "box"]);
}

/// Starts a sandbox that ends at once; returns where its root file system is.
pub(crate) fn ended(node: &Node, name: &str, mode: &str) -> PathBuf {
    node.ok(&["run", "--mode", mode, "--name", name, "box", "true"]);
    rootfs(node, name)
}

pub(crate) fn rootfs(node: &Node, sandbox: &str) -> PathBuf {
    node.path("root/sandboxes").join(sandbox).join("rootfs")
}

pub(crate) fn create(node: &Node, sandbox: &str, more: &[&str]) -> Value {
    node.json(&[&["snapshot", "create", sandbox], more].concat())
}

/// Compares a snapshot with a directory.
pub(crate) fn assert_shows(node: &Node, snapshot: &Value, live: &Path, what: &str) {
    assert_shows_but(&exceptions(), node, snapshot, live, what);
}

fn assert_shows_but(except: &Exceptions, node: &Node, snapshot: &Value, live: &Path, what: &str) {
    let mount = node.path("mount");
    fs::create_dir_all(&mount).unwrap();
    let (id, target) = (
        snapshot["snapshot"].as_str().unwrap(),
        mount.to_str().unwrap(),
    );
    node.ok(&["mount", id, target]);
    let found = compare(live, &mount, except).unwrap();
    node.ok(&["umount", target]);
    found.assert_equal(what);
}

/// A sandbox shows how many names an inode of its image had, whatever it did to one of them; its
/// snapshot, how many names there are.
pub(crate) fn exceptions() -> Exceptions {
    Exceptions {
        link_counts: true,
        ..Exceptions::default()
    }
}

#[test]
fn snapshots_of_random_writes_show_what_the_sandbox_shows() {
    let node = node_with_box();
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    for seed in 1..=if long { SEQUENCES_LONG } else { SEQUENCES } {
        let mut random = Random::seeded(seed);
        let mode = ["kernel", "fuse"][random.below(8) / 7];
        let live = ended(&node, "s", mode);
        let mut log = vec![format!("seed {seed}, {mode}")];
        for round in 0..2 {
            for _ in 0..OPERATIONS {
                let change = Change::random(&mut random);
                let done = change.apply(&live);
                let mut text = format!("{change:?}");
                text.truncate(100);
                log.push(format!("{text} -> {done:?}"));
            }
            let snapshot = create(&node, "s", &[]);
            let what = format!("round {round}: {}", log.join("\n"));
            // Over FUSE, overlayfs does not show that a lower file that was linked has two names.
            let except = Exceptions {
                same_inodes: mode == "fuse",
                ..exceptions()
            };
            assert_shows_but(&except, &node, &snapshot, &live, &what);
            let again = create(&node, "s", &[]);
            assert_eq!(again["unchanged"], true, "{what}");
            assert_eq!(again["tree"], snapshot["tree"], "{what}");
            assert_eq!(again["parent"], snapshot["snapshot"], "{what}");
        }
        node.ok(&["rm", "s"]);
    }
    node.fsck();
}

#[test]
fn every_kind_of_change_is_kept() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    // Attributes alone, then under another name, then in another directory.
    for (path, to) in [("a/f0", "a/moved"), ("a/f1", "b/moved"), ("b/f0", "b/f9")] {
        fs::set_permissions(at(path), fs::Permissions::from_mode(0o640)).unwrap();
        rustix::fs::rename(at(path), at(to)).unwrap();
    }
    // Directories: below another, over an old name, twice.
    rustix::fs::rename(at("a/c"), at("b/c")).unwrap();
    rustix::fs::rename(at("b/c"), at("c")).unwrap();
    fs::create_dir(at("a/c")).unwrap();
    fs::write(at("a/c/only"), "new").unwrap();
    fs::write(at("c/d/f0"), "in what was moved").unwrap();
    // A directory that hides the one that was there.
    fs::remove_dir_all(at("b/d")).unwrap_or(());
    fs::create_dir_all(at("b/d/f0")).unwrap();
    // Links, devices, a hole, attributes that look like overlayfs' own.
    fs::hard_link(at("a/f2"), at("linked-too")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let hole = fs::File::create(at("hole")).unwrap();
    hole.set_len(5 << 20).unwrap();
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.overlay.x",
        "user.x",
    ] {
        lsetxattr(at("a"), name, b"y", XattrFlags::empty()).unwrap();
    }
    let snapshot = create(&node, "s", &["--name", "all"]);
    assert_eq!(snapshot["skipped"], json!([]));
    assert_shows(&node, &snapshot, &live, "all kinds of changes");
    node.fsck();
}

#[test]
fn sockets_and_what_is_excluded_are_left_out() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let socket = UnixListener::bind(live.join("a/socket")).unwrap();
    fs::write(live.join("a/x.log"), "left out").unwrap();
    fs::remove_file(live.join("a/f1")).unwrap();
    fs::write(live.join("b/kept"), "kept").unwrap();
    let snapshot = create(&node, "s", &["--exclude", "*.log", "--exclude", "/a/f1"]);
    drop(socket);
    assert!(
        fs::metadata(live.join("a/socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
    assert_eq!(snapshot["skipped"], json!(["/a/socket"]));
    let mount = node.empty("mount");
    node.ok(&[
        "mount",
        snapshot["snapshot"].as_str().unwrap(),
        mount.to_str().unwrap(),
    ]);
    assert!(mount.join("b/kept").exists() && mount.join("a/f1").exists());
    assert!(!mount.join("a/socket").exists() && !mount.join("a/x.log").exists());
    node.ok(&["umount", mount.to_str().unwrap()]);
}

#[test]
fn a_new_owner_and_a_new_name_store_no_data() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    for name in ["large", "f0", "f1"] {
        std::os::unix::fs::lchown(live.join("a").join(name), Some(7), Some(7)).unwrap();
    }
    rustix::fs::rename(live.join("a"), live.join("moved")).unwrap();
    let snapshot = create(&node, "s", &[]);
    let stored = snapshot["bytes_uploaded"].as_u64().unwrap();
    assert!(stored < 100_000, "{stored}");
    assert_eq!(snapshot["bytes_changed"], 0);
    assert_shows(&node, &snapshot, &live, "moved");
}

#[test]
fn a_directory_snapshot_is_the_directory_with_what_the_image_had_there() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("a/c/new"), "new").unwrap();
    fs::write(live.join("elsewhere"), "new").unwrap();
    for path in ["/a", "/a/c/", "/b"] {
        let snapshot = create(&node, "s", &["--path", path]);
        assert_shows(&node, &snapshot, &live.join(&path[1..]), path);
        let shown = node.json(&[
            "snapshot",
            "inspect",
            snapshot["snapshot"].as_str().unwrap(),
        ]);
        assert_eq!(shown["kind"], "directory");
    }
    node.fails(NOT_FOUND, &["snapshot", "create", "s", "--path", "/none"]);
    node.fails(NOT_FOUND, &["snapshot", "create", "s", "--path", "/a/f0"]);
    node.fails(USAGE, &["snapshot", "create", "s", "--path", "a/../b"]);
    node.fails(NOT_FOUND, &["snapshot", "create", "none"]);
}

#[test]
fn a_key_is_answered_with_what_it_made_first() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("f"), "1").unwrap();
    let first = create(&node, "s", &["--key", "step 1", "--name", "one"]);
    fs::write(live.join("f"), "22").unwrap();
    let again = create(&node, "s", &["--key", "step 1", "--name", "one"]);
    assert_eq!(again["snapshot"], first["snapshot"]);
    let other = create(&node, "s", &["--key", "step 2"]);
    assert_ne!(other["tree"], first["tree"]);
    node.ok(&["snapshot", "rm", "one"]);
    let anew = create(&node, "s", &["--key", "step 1"]);
    assert_eq!(
        anew["tree"], other["tree"],
        "the key went with its snapshot"
    );
}

#[test]
fn names_are_given_moved_and_taken_away() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let first = create(
        &node,
        "s",
        &["--name", "a", "--ttl", "never", "--label", "k=v"],
    );
    fs::write(live.join("f"), "1").unwrap();
    let second = create(&node, "s", &["--ttl", "1h"]);
    let shown = node.json(&["snapshot", "inspect", "a"]);
    assert_eq!(shown["snapshot"], first["snapshot"]);
    assert_eq!(
        (&shown["expires_ms"], &shown["labels"]),
        (&json!(null), &json!({"k": "v"}))
    );
    let id = second["snapshot"].as_str().unwrap();
    node.ok(&["snapshot", "tag", id, "a"]);
    let shown = node.json(&["snapshot", "inspect", "a"]);
    assert_eq!(shown["snapshot"], second["snapshot"]);
    let lives_ms = shown["expires_ms"].as_u64().unwrap() - shown["created_ms"].as_u64().unwrap();
    assert_eq!(lives_ms, 3_600_000);
    assert_eq!(node.json_lines(&["snapshot", "ls"]).len(), 2);
    node.ok(&["snapshot", "rm", id]);
    assert_eq!(node.json_lines(&["snapshot", "ls"]).len(), 0);
    node.fails(NOT_FOUND, &["snapshot", "inspect", "a"]);
    node.fails(NOT_FOUND, &["snapshot", "rm", "a"]);
    let soon = node.output(&["snapshot", "create", "s", "--ttl", "soon"]);
    assert_eq!(soon.status.code(), Some(USAGE));
    node.fails(USAGE, &["snapshot", "create", "s", "--name", id]);
}

#[test]
fn a_running_sandbox_goes_on_after_it_was_frozen() {
    let node = node_with_box();
    let script = "i=0; while true; do i=$((i+1)); echo $i > /count; done";
    node.ok(&["run", "-d", "--name", "s", "box", "sh", "-c", script]);
    let live = rootfs(&node, "s");
    let count = || fs::read_to_string(live.join("count")).unwrap_or_default();
    while count().is_empty() {
        crate::node::pause();
    }
    for _ in 0..5 {
        let snapshot = create(&node, "s", &[]);
        assert!(snapshot["frozen_ms"].as_f64().unwrap() > 0.0);
        let before = count();
        while count() == before {
            crate::node::pause();
        }
    }
    assert_eq!(fs::read_dir(node.path("root/frozen")).unwrap().count(), 0);
    node.ok(&["rm", "-f", "s"]);
}

#[test]
fn forks_start_where_their_source_stands_and_go_their_own_ways() {
    let node = node_with_box();
    node.ok(&["run", "-d", "--name", "s", "box", "sleep", "1000"]);
    fs::write(rootfs(&node, "s").join("a/state"), "forked").unwrap();
    let forked = node.json(&["fork", "s", "-n", "3", "--name", "f", "sleep", "1000"]);
    let sandboxes = forked["sandboxes"].as_array().unwrap();
    assert_eq!(sandboxes.len(), 3);
    let captures = node.json_lines(&["snapshot", "ls"]).len();
    assert_eq!(captures, 1, "captured once for all");
    let seconds = |sandbox: &Value, key: &str| sandbox[key].as_f64().unwrap();
    let last_root = sandboxes
        .iter()
        .map(|sandbox| seconds(sandbox, "seconds_to_root"))
        .fold(0.0, f64::max);
    for sandbox in sandboxes {
        assert!(seconds(sandbox, "seconds_to_start") > last_root, "{forked}");
    }
    for number in 1..=3 {
        let name = format!("f-{number}");
        let live = rootfs(&node, &name);
        assert_eq!(fs::read_to_string(live.join("a/state")).unwrap(), "forked");
        fs::write(live.join("a/state"), &name).unwrap();
    }
    let first = fs::read_to_string(rootfs(&node, "f-1").join("a/state")).unwrap();
    assert_eq!(first, "f-1");
    // A fork of a fork, and one of whose names is taken: that one's failure is its own.
    let output = node.output(&[
        "--json", "fork", "f-1", "-n", "2", "--name", "f", "sleep", "9",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(failed["sandboxes"][0]["error"].is_string(), "{failed}");
    let second = node.json(&["fork", "f-1", "--name", "g", "sleep", "1000"]);
    assert!(second["sandboxes"][0]["seconds_to_start"].as_f64().unwrap() > 0.0);
    let state = fs::read_to_string(rootfs(&node, "g-1").join("a/state")).unwrap();
    assert_eq!(state, "f-1");
    for name in ["s", "f-1", "f-2", "f-3", "g-1"] {
        node.ok(&["rm", "-f", name]);
    }
    node.fsck();
}

#[test]
fn another_node_shows_a_snapshot_as_soon_as_it_is_made() {
    let (node, other) = (node_with_box(), Node::new());
    let live = ended(&node, "s", "kernel");
    let mut random = Random::seeded(77);
    for _ in 0..200 {
        // Some are not possible.
        Change::random(&mut random).apply(&live).unwrap_or(());
    }
    let snapshot = create(&node, "s", &["--wait", "durable"]);
    let mount = other.empty("mount");
    let store = format!("file://{}", node.path("root/store").display());
    let (id, target) = (
        snapshot["snapshot"].as_str().unwrap(),
        mount.to_str().unwrap(),
    );
    other.ok(&["--store", &store, "mount", id, target]);
    let found = compare(&live, &mount, &exceptions()).unwrap();
    other.ok(&["--store", &store, "umount", target]);
    found.assert_equal("on another node");
}

/// The points of a capture and of its record.
pub(crate) const CAPTURE_POINTS: [CrashPoint; 6] = [
    CrashPoint::PackPutBefore,
    CrashPoint::PackPutAfter,
    CrashPoint::IndexPutAfter,
    CrashPoint::DataFinished,
    CrashPoint::TreesFinished,
    CrashPoint::RecordPutAfter,
];

#[test]
fn a_daemon_may_be_killed_at_every_point_of_a_snapshot() {
    for point in CAPTURE_POINTS.into_iter().chain([CrashPoint::RefChanged]) {
        let node = node_with_box();
        node.ok(&["run", "-d", "--name", "s", "box", "sleep", "1000"]);
        // This daemon dies there, and its keeper starts one that does not.
        let mut mortal = node
            .command(&["daemon", "--takeover"])
            .env("NACRE_CRASH_AT", point.name())
            .spawn()
            .unwrap();
        while node.daemon() != i32::try_from(mortal.id()).ok() {
            crate::node::pause();
        }
        let live = rootfs(&node, "s");
        fs::write(live.join("a/written"), "before the crash").unwrap();
        rustix::fs::rename(live.join("a/c"), live.join("c")).unwrap();
        let asked = ["snapshot", "create", "s", "--key", "k", "--name", "n"];
        let killed = node.output(&asked);
        assert_eq!(killed.status.code(), Some(1), "{point:?}: {killed:?}");
        assert!(!mortal.wait().unwrap().success(), "{point:?}");
        let named = point == CrashPoint::RefChanged;
        let listed = node.json_lines(&["snapshot", "ls"]);
        assert_eq!(listed.len(), usize::from(named), "{point:?}");
        node.fsck();
        let snapshot = create(&node, "s", &asked[3..]);
        assert_shows(&node, &snapshot, &live, point.name());
        assert_eq!(node.json_lines(&["snapshot", "ls"]).len(), 1, "{point:?}");
        node.fsck();
        node.ok(&["exec", "s", "true"]);
    }
}
