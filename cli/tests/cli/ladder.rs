//! Snapshots that are usable before they are uploaded, and daemons that die while they are. Needs
//! root, FUSE, runc and a static busybox.

use std::fs;
use std::path::Path;

use nacre_blobstore::CrashPoint;
use serde_json::json;

use crate::compare::compare;
use crate::node::Node;
use crate::snapshots::{
    CAPTURE_POINTS, assert_shows, create, ended, exceptions, node_with_box, rootfs,
};

/// Every point of a snapshot that is answered before it is durable.
fn points() -> Vec<CrashPoint> {
    CAPTURE_POINTS
        .into_iter()
        .chain(CrashPoint::PENDING)
        .collect()
}

/// Mounts a snapshot on a node that has nothing but the store.
fn shows_elsewhere(node: &Node, name: &str, live: &Path, what: &str) {
    let store = format!("file://{}", node.path("root/store").display());
    let other = Node::new();
    let mount = other.empty("mount");
    let target = mount.to_str().unwrap();
    other.ok(&["--store", &store, "mount", name, target]);
    let found = compare(live, &mount, &exceptions()).unwrap();
    other.ok(&["--store", &store, "umount", target]);
    found.assert_equal(what);
}

#[test]
fn a_local_snapshot_becomes_durable_by_itself() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("a/written"), "here").unwrap();
    let local = create(&node, "s", &["--wait", "local", "--name", "n"]);
    assert_eq!(local["durability"], "local");
    assert_shows(&node, &local, &live, "before it is durable");
    let waited = node.json(&["snapshot", "wait", "n"]);
    assert_eq!(waited["durability"], "durable");
    let shown = node.json(&["snapshot", "inspect", "n"]);
    assert_eq!(shown["durability"], "durable");
    assert_eq!(
        (&shown["error"], &shown["bytes_pending"]),
        (&json!(null), &json!(0))
    );
    shows_elsewhere(&node, "n", &live, "on another node");
    node.fails(10, &["snapshot", "wait", "none"]);
    let durable = create(&node, "s", &["--wait", "region"]);
    assert_eq!(durable["durability"], "durable");
    let forked = node.json(&["fork", "s", "true"]);
    let id = forked["snapshot"].as_str().unwrap();
    node.ok(&["snapshot", "wait", id]);
    node.ok(&["snapshot", "rm", id]);
    node.fsck();
}

#[test]
fn a_daemon_may_be_killed_at_every_point_of_a_pending_snapshot() {
    for point in points() {
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
        let asked = ["--key", "k", "--name", "n"];
        let local = [
            &["--json", "snapshot", "create", "s", "--wait", "local"],
            &asked[..],
        ];
        // Answered or not: the daemon dies before, or in the background after.
        let first = node.output(&local.concat());
        assert!(!mortal.wait().unwrap().success(), "{point:?}");
        let again = create(&node, "s", &[&["--wait", "durable"], &asked[..]].concat());
        assert_eq!(again["durability"], "durable", "{point:?}");
        if first.status.success() {
            let first: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
            assert_eq!(first["snapshot"], again["snapshot"], "{point:?}");
        }
        node.ok(&["snapshot", "wait", "n"]);
        let listed = node.json_lines(&["snapshot", "ls"]);
        assert_eq!(listed.len(), 1, "{point:?}: {listed:?}");
        assert_eq!(listed[0]["durability"], "durable", "{point:?}");
        assert_shows(&node, &again, &live, point.name());
        shows_elsewhere(&node, "n", &live, point.name());
        assert!(
            !nacre_snapshotter::has_pending(&node.path("root")),
            "{point:?}"
        );
        node.fsck();
        node.ok(&["exec", "s", "true"]);
    }
}
