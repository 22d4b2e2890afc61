//! Pulling and running.

use serde_json::Value;

use super::release::Release;
use super::scene::{Scene, until};
use crate::tar::Entry;

/// Layers of three: a file that the second has changed and the third has removed.
fn layers() -> [Vec<Entry>; 3] {
    [
        vec![
            Entry::file("first", "1"),
            Entry::file("changed", "1"),
            Entry::file("gone", "1"),
        ],
        vec![Entry::file("changed", "2")],
        vec![Entry::file(".wh.gone", ""), Entry::file("third", "3")],
    ]
}

fn push(scene: &Scene, name: &str) {
    let layers = layers();
    let layers: Vec<&[Entry]> = layers.iter().map(Vec::as_slice).collect();
    scene.push(name, &layers);
}

const SHOW: [&str; 3] = [
    "/bin/sh",
    "-c",
    "cat first changed third; test -e gone || echo hidden; echo new > new; cat new",
];
const SHOWN: &str = "123hidden\nnew";

#[test]
fn ctr_pulls_and_runs_what_the_store_has_not_got() {
    let scene = Scene::new("if-stored");
    push(&scene, "app");
    let image = scene.image("app");
    let pull = ["image", "pull", "--plain-http", "--snapshotter", "nacre"];
    scene.ctr(&[&pull[..], &[&image]].concat());
    // Not as in another test: the shims of all containerds have runc keep its containers in one folder.
    let run = ["run", "--rm", "--snapshotter", "nacre", &image, "pulled"];
    let output = scene.ctr(&[&run[..], &SHOW].concat());
    assert_eq!(output.trim(), SHOWN);
    scene.ctr(&["image", "rm", "--sync", &image]);
    until("nothing is left", || {
        scene
            .ctr(&["snapshots", "--snapshotter", "nacre", "ls"])
            .lines()
            .count()
            == 1
    });
}

#[test]
fn a_pod_of_a_stored_image_starts_without_a_layer_of_it() {
    stored_image_in_a_pod(&Scene::new("if-stored"));
}

#[test]
fn with_containerd_2_too() {
    if let Some(latest) = Release::latest() {
        stored_image_in_a_pod(&Scene::with(latest, "if-stored"));
    }
}

fn stored_image_in_a_pod(scene: &Scene) {
    push(scene, "app");
    scene.add("app");
    let before = scene.layers_fetched("app");
    assert_eq!(before, 3, "by the addition to the store");
    let (cri, image) = (scene.cri(), scene.image("app"));
    cri.pull(&image).unwrap();
    let pod = cri.pod("pod", &scene.logs());
    cri.start(&pod, "app", &image, &SHOW);
    until("the container ends", || scene.output("app") == SHOWN);
    assert_eq!(scene.layers_fetched("app"), before);
    assert_eq!(scene.stats()["layers_attached"], 3);

    let list = ["-n", "k8s.io", "snapshots", "--snapshotter", "nacre", "ls"];
    let committed = scene.ctr(&list);
    let attached: Vec<&str> = committed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("sha256:"))
        .collect();
    // The three, and the pod's own, which was unpacked.
    assert_eq!(attached.len(), 4, "{committed}");
    let info = |name: &str| -> Value {
        let info = [
            "-n",
            "k8s.io",
            "snapshots",
            "--snapshotter",
            "nacre",
            "info",
        ];
        serde_json::from_str(&scene.ctr(&[&info[..], &[name]].concat())).unwrap()
    };
    let label = |name: &&str| info(name)["Labels"]["containerd.io/snapshot/nacre.mode"].clone();
    let labels = attached.iter().map(label);
    assert_eq!(labels.filter(|label| label == "kernel").count(), 3);

    // A second time, and from what is on the node.
    cri.start(&pod, "again", &image, &SHOW);
    until("the container ends", || scene.output("again") == SHOWN);
    cri.remove_pod(&pod.0);
}

#[test]
fn the_transfer_service_of_containerd_2_attaches_what_is_stored() {
    let Some(latest) = Release::latest() else {
        return;
    };
    let scene = Scene::with(latest, "if-stored");
    push(&scene, "app");
    scene.add("app");
    let before = scene.layers_fetched("app");
    let image = scene.image("app");
    let pull = ["image", "pull", "--plain-http", "--snapshotter", "nacre"];
    scene.ctr(&[&pull[..], &[&image]].concat());
    assert_eq!(scene.layers_fetched("app"), before);
    assert_eq!(scene.stats()["layers_attached"], 3);
    let run = ["run", "--rm", "--snapshotter", "nacre", &image, "attached"];
    let output = scene.ctr(&[&run[..], &SHOW].concat());
    assert_eq!(output.trim(), SHOWN);
    // What is not stored is unpacked by the same service.
    scene.push("other", &[&[Entry::file("first", "other")]]);
    let other = scene.image("other");
    scene.ctr(&[&pull[..], &[&other]].concat());
    assert_eq!(scene.layers_fetched("other"), 1);
    let run = [
        "run",
        "--rm",
        "--snapshotter",
        "nacre",
        &other,
        "other",
        "/bin/sh",
        "-c",
    ];
    assert_eq!(scene.ctr(&[&run[..], &["cat first"]].concat()), "other");
}

#[test]
fn an_image_that_is_not_stored_is_unpacked_by_containerd_and_that_is_told() {
    let scene = Scene::new("if-stored");
    push(&scene, "app");
    let (cri, image) = (scene.cri(), scene.image("app"));
    cri.pull(&image).unwrap();
    assert_eq!(scene.layers_fetched("app"), 3);
    assert_eq!(scene.stats()["layers_attached"], 0);
    assert_eq!(scene.stats()["layers_ordinary_unknown"], 3);
    let pod = cri.pod("pod", &scene.logs());
    cri.start(&pod, "app", &image, &SHOW);
    until("the container ends", || scene.output("app") == SHOWN);
    cri.remove_pod(&pod.0);
}

#[test]
fn with_always_an_image_is_added_when_it_is_pulled_and_read_once() {
    let scene = Scene::new("always");
    push(&scene, "app");
    let (cri, image) = (scene.cri(), scene.image("app"));
    cri.pull(&image).unwrap();
    assert_eq!(scene.layers_fetched("app"), 3, "each once, by nacre");
    assert_eq!(scene.stats()["layers_attached"], 3);
    assert_eq!(scene.stats()["images_added"], 1);
    let pod = cri.pod("pod", &scene.logs());
    cri.start(&pod, "app", &image, &SHOW);
    until("the container ends", || scene.output("app") == SHOWN);
    assert!(scene.node.ok(&["image", "ls"]).contains("app"));
    cri.remove_pod(&pod.0);
}

#[test]
fn with_never_nothing_is_attached() {
    let scene = Scene::new("never");
    push(&scene, "app");
    scene.add("app");
    scene.cri().pull(&scene.image("app")).unwrap();
    assert_eq!(scene.stats()["layers_attached"], 0);
    assert_eq!(scene.layers_fetched("app"), 6);
}
