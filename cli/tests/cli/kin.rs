//! What was never started borrows the traces of what is like it.

use serde_json::{Value, json};

use crate::files::{box_with_files, noise};
use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, archive};
use crate::trace::{cold_start, run_script};

const FILES: u32 = 60;
/// Incompressible, so that few share a frame.
const FILE_BYTES: usize = 120_000;
/// Of these a start reads some, which are far from each other.
const SCRIPT: &str = "cat /data/f00 /data/f10 /data/f20 /data/f30 /data/f40 /data/f50";
const SCRIPT_BYTES: usize = 6 * FILE_BYTES;

/// Adds an image of these layers to the store of `node`.
fn add(node: &Node, name: &str, layers: &[Layer]) {
    let layout = node.path(name);
    layout::write(&layout, layers, &json!({"Env": ["PATH=/bin"]}));
    let source = format!("oci:{}:v1", layout.display());
    node.ok(&["image", "add", &source, "--name", name]);
}

/// Adds images `base`, and of its layer and one of their own `red`, `blue` and `green`, which have
/// one file `/own`.
fn add_images(node: &Node) {
    let entries = box_with_files(FILES, FILE_BYTES);
    let base = Layer::new(&archive(&entries), Packing::Plain);
    // First, so that its packs are its own.
    add(node, "base", std::slice::from_ref(&base));
    for (seed, name) in [(1000, "red"), (1001, "blue"), (1002, "green")] {
        let own = archive(&[Entry::file("own", noise(seed, FILE_BYTES))]);
        let own = Layer::new(&own, Packing::Plain);
        add(node, name, &[base.clone(), own]);
    }
}

/// The paths that the trace of an image names; what has none in it by its id.
fn traced(node: &Node, image: &str) -> Vec<String> {
    let shown = node.json(&["trace", "show", image]);
    let entries = shown["entries"].as_array().unwrap();
    let what = |entry: &Value| entry["what"].as_str().unwrap().to_owned();
    entries.iter().map(what).collect()
}

#[test]
fn an_image_that_was_never_started_borrows_from_those_with_its_layers() {
    let home = Node::new();
    add_images(&home);
    let store = format!("file://{}", home.path("root/store").display());
    let with_own = format!("{SCRIPT} /own");
    let bytes = SCRIPT_BYTES + FILE_BYTES;
    let (_, without) = cold_start(&store, "red", &with_own, bytes);
    assert!(without >= 6, "{without} reads");

    // All that they have in common is there, and their own files are not.
    let (opened, with) = cold_start(&store, "blue", SCRIPT, SCRIPT_BYTES);
    assert!(with <= 1, "{with} reads after {opened}, {without} without");
    home.fails(10, &["trace", "show", "blue"]);

    // What it borrowed becomes its own trace, but for what only the other one has.
    let (opened, with) = cold_start(&store, "blue", &with_own, bytes);
    assert!((1..=3).contains(&with), "{with} reads after {opened}");
    let shown = traced(&home, "blue");
    assert!(shown.iter().all(|what| what.starts_with('/')), "{shown:?}");
    for path in ["/own", "/data/f00", "/data/f50"] {
        assert!(shown.iter().any(|what| what == path), "{path}: {shown:?}");
    }
    let red = traced(&home, "red");
    assert!(red.iter().any(|what| what == "/own"), "{red:?}");
}

#[test]
fn a_snapshot_borrows_from_its_image() {
    let home = Node::new();
    add_images(&home);
    let store = format!("file://{}", home.path("root/store").display());
    let flags = ["--store", &store];
    let node = Node::new();
    run_script(&node, &flags, "green", SCRIPT, SCRIPT_BYTES);
    drop(node);

    let node = Node::new();
    let in_store = |arguments: &[&str]| node.ok(&[&flags, arguments].concat());
    in_store(&["run", "--name", "s", "green", "sh", "-c", "echo x > /own"]);
    in_store(&[
        "snapshot", "create", "s", "--name", "later", "--wait", "durable",
    ]);
    drop(node);
    let (opened, with) = cold_start(&store, "later", SCRIPT, SCRIPT_BYTES);
    assert!(with <= 1, "{with} reads after {opened}");
}
