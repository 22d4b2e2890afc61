//! Containers as snapshots, and snapshots as images of containerd.

use serde_json::{Value, json};

use super::scene::{Scene, until};
use crate::tar::Entry;

const NOT_FOUND: i32 = 10;

impl Scene {
    /// Makes an image of the store one of containerd.
    pub(super) fn register(&self, name: &str, rest: &[&str]) -> Value {
        let socket = self.path("c.sock").display().to_string();
        let register = ["image", "register", name, "--containerd"];
        let address = ["--containerd-address", &socket];
        self.node.json(&[&register[..], &address, rest].concat())
    }

    fn run(&self, image: &str, container: &str, script: &str) -> String {
        let run = ["run", "--rm", "--snapshotter", "nacre", image, container];
        self.ctr(&[&run[..], &["/bin/sh", "-c", script]].concat())
    }
}

#[test]
fn a_container_becomes_a_snapshot_and_that_an_image() {
    let scene = Scene::new("if-stored");
    scene.push(
        "app",
        &[
            &[Entry::file("file", "content")],
            &[Entry::file("gone", "x")],
        ],
    );
    scene.add("app");
    let image = scene.image("app");
    let fetched = scene.layers_fetched("app");
    let registered = scene.register("app:v1", &["--as", &image]);
    assert_eq!(registered["name"], json!(image));
    assert_eq!(registered["layers"], json!(2));
    assert_eq!(scene.run(&image, "first", "cat file"), "content");

    let run = ["run", "-d", "--snapshotter", "nacre", &image, "writer"];
    let script = "echo more > file; rm gone; echo new > new; while true; do sleep 1; done";
    scene.ctr(&[&run[..], &["/bin/sh", "-c", script]].concat());
    let create = ["snapshot", "create", "containerd:default/writer"];
    until("the container has written", || {
        let diff = scene.node.json(&create);
        // And the directories on which /dev, /proc, /run and /sys are mounted.
        diff["added"] == 5 && diff["modified"] == 1 && diff["removed"] == 1
    });
    let named = scene
        .node
        .json(&[&create[..], &["--name", "later"]].concat());
    assert_eq!(named["base"], registered["image"]);
    let was_frozen = |created: &Value| created["frozen_ms"].as_f64().unwrap() > 0.0;
    assert!(was_frozen(&named), "it could have written meanwhile");
    let stopped = ["tasks", "rm", "-f", "writer"];
    scene.ctr(&stopped);
    // Without a process as with one.
    let again = scene.node.json(&create);
    assert_eq!(again["tree"], named["tree"]);
    assert!(!was_frozen(&again));

    let registered = scene.register("later", &["--as", "mine:v1"]);
    assert_eq!(registered["layers"], json!(3));
    let shown = scene.run(
        "mine:v1",
        "second",
        "cat file new; test -e gone || echo gone",
    );
    assert_eq!(shown, "more\nnew\ngone\n");
    // It is the image that an export makes, and registering it twice changes nothing.
    let layout = format!("oci:{}:v1", scene.node.path("exported").display());
    let from = format!("docker://{image}");
    let export = ["snapshot", "export", "later", &layout, "--from", &from];
    assert_eq!(scene.node.json(&export)["digest"], registered["digest"]);
    let twice = scene.register("later", &["--as", "mine:v1"]);
    assert_eq!(twice["image"], registered["image"]);
    // The export has fetched each layer once, and nothing else any.
    assert_eq!(scene.layers_fetched("app"), fetched + 2);
    // What nothing names any more goes, snapshots and all.
    scene.ctr(&["containers", "rm", "writer"]);
    for name in [&*image, "mine:v1"] {
        scene.ctr(&["images", "rm", "--sync", name]);
    }
    until("no directory is left", || {
        let folder = scene.root().join("sn");
        std::fs::read_dir(folder).unwrap().count() == 0
    });
}

#[test]
fn what_cannot_be_is_refused() {
    let scene = Scene::new("if-stored");
    let create = |name: &str| ["snapshot", "create", name].map(ToOwned::to_owned);
    for (code, name) in [
        (NOT_FOUND, "containerd:default/none"),
        (NOT_FOUND, "containerd:none/c"),
        (2, "containerd:c"),
    ] {
        let create = create(name);
        let words: Vec<&str> = create.iter().map(String::as_str).collect();
        scene.node.fails(code, &words);
    }
    // What containerd unpacked has no tree to differ from.
    scene.push("plain", &[&[Entry::file("file", "content")]]);
    let image = scene.image("plain");
    let pull = ["images", "pull", "--plain-http", "--snapshotter", "nacre"];
    scene.ctr(&[&pull[..], &[&image]].concat());
    let run = ["run", "-d", "--snapshotter", "nacre", &image, "unpacked"];
    let script = "while true; do sleep 1; done";
    scene.ctr(&[&run[..], &["/bin/sh", "-c", script]].concat());
    let told = scene
        .node
        .fails(1, &["snapshot", "create", "containerd:default/unpacked"]);
    assert!(told.contains("attached from the store"), "{told}");
    // Nobody listens there.
    let nowhere = scene.node.path("none").display().to_string();
    scene.add("plain");
    let register = ["image", "register", "plain:v1", "--containerd"];
    let address = ["--containerd-address", &nowhere];
    let told = scene.node.fails(1, &[&register[..], &address].concat());
    assert!(told.contains("reach containerd"), "{told}");
}
