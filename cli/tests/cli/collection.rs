//! Collection takes what no name needs, and nothing else. Needs root, FUSE, runc and a static
//! busybox.

use std::fs;

use serde_json::Value;

use crate::node::{Node, pause};
use crate::snapshots::{assert_shows, create, ended, node_with_box};

const CORRUPT: i32 = 12;
/// Collections after which a second has passed for sure.
const ROUNDS_MAX: u32 = 1000;

/// Condemns, and deletes what was condemned.
fn collect(node: &Node) -> Value {
    node.ok(&["store", "gc", "--hold", "0s"]);
    node.json(&["store", "gc", "--hold", "0s"])
}

#[test]
fn a_snapshot_keeps_what_its_image_had() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("new"), "written").unwrap();
    let snapshot = create(&node, "s", &["--name", "kept", "--ttl", "never"]);
    node.ok(&["image", "rm", "box"]);
    collect(&node);
    node.fsck();
    assert_shows(&node, &snapshot, &live, "after collection");
}

#[test]
fn the_names_of_snapshots_go_when_their_time_is_over() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("new"), vec![7; 100_000]).unwrap();
    create(
        &node,
        "s",
        &["--name", "brief", "--ttl", "1s", "--key", "k"],
    );
    create(&node, "s", &["--name", "kept", "--ttl", "never"]);
    let names = || {
        let listed = node.json_lines(&["snapshot", "ls"]);
        let names = listed.iter().map(|snapshot| snapshot["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert!(names().contains(&"brief".into()));
    let mut rounds = 0;
    while names().contains(&"brief".into()) {
        assert!(rounds < ROUNDS_MAX, "the name is still there");
        collect(&node);
        pause();
        rounds += 1;
    }
    assert_eq!(names(), [Value::from("kept")]);
    node.fsck();
}

#[test]
fn a_sandbox_whose_image_was_collected_gives_no_snapshot_that_lacks_something() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("new"), "written").unwrap();
    node.ok(&["image", "rm", "box"]);
    let collected = collect(&node);
    assert!(collected["deleted"].as_u64() > Some(0), "{collected}");
    let output = node.output(&["snapshot", "create", "s", "--name", "lost"]);
    assert!(!output.status.success(), "made a snapshot of nothing");
    assert!(node.json_lines(&["snapshot", "ls"]).is_empty());
    node.fsck();
}

#[test]
fn a_damaged_ref_ends_collection_before_anything_is_deleted() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("new"), "garbage soon").unwrap();
    let snapshot = create(&node, "s", &[]);
    node.ok(&["snapshot", "rm", snapshot["snapshot"].as_str().unwrap()]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    let refs = fs::read_dir(node.path("root/store/refs/images")).unwrap();
    let files: Vec<_> = refs.map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else {
        panic!("{files:?}")
    };
    let whole = fs::read(file).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    fs::write(file, &damaged).unwrap();
    let output = node.output(&["store", "gc", "--hold", "0s"]);
    assert_eq!(output.status.code(), Some(CORRUPT));
    let errors = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = errors.lines().collect();
    assert!(lines[0].contains("ref images/box"), "{errors}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains("nothing was deleted"));
    fs::write(file, &whole).unwrap();
    assert_ne!(node.fsck()["condemned"], serde_json::json!([]));
    let collected = node.json(&["store", "gc", "--hold", "0s"]);
    assert!(collected["deleted"].as_u64() > Some(0), "{collected}");
    node.fsck();
}
