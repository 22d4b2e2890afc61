//! Long lines of snapshots: each made after the one before it, by one sandbox or by forks of forks.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::compare::compare;
use crate::files::noise;
use crate::node::Node;
use crate::snapshots::{assert_shows, create, ended, exceptions, node_with_box};

/// Snapshots of a line, in the normal run and with `NACRE_TEST_LONG=1`.
const STEPS: usize = 40;
const STEPS_LONG: usize = 200;
/// Small packs that a snapshot names beside those of its image, and what one snapshot adds.
const PACKS_MAX: u64 = 32 + 2;

fn steps() -> usize {
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    if long { STEPS_LONG } else { STEPS }
}

/// Writes what a step of an agent may: one new file, one that changes, one that goes.
fn write(live: &Path, step: usize) {
    fs::write(live.join(format!("a/step{step}")), format!("step {step}")).unwrap();
    fs::write(live.join("b/last"), format!("{step}")).unwrap();
    if step >= 9 && step.is_multiple_of(9) {
        fs::remove_file(live.join(format!("a/step{}", step - 3))).unwrap();
    }
}

fn packs(node: &Node, snapshot: &Value) -> u64 {
    let id = snapshot["snapshot"].as_str().unwrap();
    let shown = node.json(&["snapshot", "inspect", id]);
    shown["packs"].as_u64().unwrap()
}

fn assert_shows_on_another_node(node: &Node, snapshot: &Value, live: &Path) {
    let other = Node::new();
    let mount = other.empty("mount");
    let store = format!("file://{}", node.path("root/store").display());
    let id = snapshot["snapshot"].as_str().unwrap();
    let target = mount.to_str().unwrap();
    other.ok(&["--store", &store, "mount", id, target]);
    let found = compare(live, &mount, &exceptions()).unwrap();
    other.ok(&["--store", &store, "umount", target]);
    found.assert_equal("on another node");
}

#[test]
fn the_last_of_many_snapshots_of_a_sandbox_names_few_packs_that_hold_all_of_it() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let first = create(&node, "s", &[]);
    let of_image = packs(&node, &first);
    // Longer than a chunk, and never changed: its packs are not folded for nothing.
    fs::write(live.join("large"), vec![7; 3 << 20]).unwrap();
    let (mut folds, mut before) = (0, of_image);
    let mut snapshot = first;
    for step in 0..steps() {
        write(&live, step);
        snapshot = create(&node, "s", &[]);
        let now = packs(&node, &snapshot);
        assert!(now <= of_image + PACKS_MAX, "step {step}: {now} packs");
        folds += usize::from(now < before);
        before = now;
    }
    assert!(folds > 0, "never folded");
    assert_shows(&node, &snapshot, &live, "on its node");
    assert_shows_on_another_node(&node, &snapshot, &live);
    node.fsck();
}

#[test]
fn the_last_of_many_forks_of_forks_names_few_packs_that_hold_all_of_it() {
    let node = node_with_box();
    let mut live = ended(&node, "s0", "kernel");
    let of_image = packs(&node, &create(&node, "s0", &[]));
    let mut snapshot = Value::Null;
    for step in 0..steps() {
        write(&live, step);
        let name = format!("s{step}");
        snapshot = create(&node, &name, &["--name", "last"]);
        let now = packs(&node, &snapshot);
        assert!(now <= of_image + PACKS_MAX, "step {step}: {now} packs");
        let next = format!("s{}", step + 1);
        node.ok(&["run", "--name", &next, "last", "true"]);
        node.ok(&["rm", &name]);
        live = crate::snapshots::rootfs(&node, &next);
    }
    assert_shows_on_another_node(&node, &snapshot, &live);
    // What only older ones named may be collected.
    node.ok(&["store", "gc", "--hold", "0s"]);
    assert_shows_on_another_node(&node, &snapshot, &live);
    node.fsck();
}

#[test]
fn a_line_whose_image_is_gone_goes_on() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    create(&node, "s", &["--name", "kept"]);
    node.ok(&["image", "rm", "box"]);
    for step in 0..STEPS {
        write(&live, step);
        create(&node, "s", &["--name", "kept"]);
    }
    node.ok(&["store", "gc", "--hold", "0s"]);
    let last = node.json(&["snapshot", "inspect", "kept"]);
    assert_shows_on_another_node(&node, &last, &live);
    node.fsck();
}

#[test]
fn another_node_fetches_what_it_reads_and_little_more() {
    const UNREAD_BYTES: usize = 48 << 20;
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("unread"), noise(0, UNREAD_BYTES)).unwrap();
    fs::write(live.join("read"), "read").unwrap();
    let snapshot = create(&node, "s", &["--wait", "durable"]);

    let other = Node::new();
    let mount = other.empty("mount");
    let store = format!("file://{}", node.path("root/store").display());
    let id = snapshot["snapshot"].as_str().unwrap();
    let target = mount.to_str().unwrap();
    other.ok(&["--store", &store, "mount", id, target]);
    assert_eq!(fs::read_to_string(mount.join("read")).unwrap(), "read");
    let stats = other.json(&["--store", &store, "cache", "stats"]);
    let fetched = stats["origin"]["bytes"].as_u64().unwrap();
    other.ok(&["--store", &store, "umount", target]);
    let bound = UNREAD_BYTES as u64 / 3;
    assert!((1..bound).contains(&fetched), "{fetched} bytes");
}
