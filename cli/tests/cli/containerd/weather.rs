//! Registries, stores and disks that fail in the middle of a pull.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use rustix::fs::statvfs;

use super::cri::snapshot_names;
use super::faulty::{Fault, FaultyRegistry};
use super::release::Release;
use super::scene::{Scene, behind_a_proxy, until};
use crate::node::Node;
use crate::tar::Entry;

/// What a node of a small disk has, and what is left of it for an image that needs more.
const DISK_BYTES: u64 = 128 << 20;
const FREE_BYTES: u64 = 16 << 20;
const LARGE_BYTES: usize = 32 << 20;
/// Snapshots that are asked for while the disk is full.
const SNAPSHOTS: usize = 64;

/// Three layers that no other image has.
fn layers(name: &str) -> [Vec<Entry>; 3] {
    [1, 2, 3].map(|layer| vec![Entry::file(&format!("f{layer}"), format!("{name}.{layer}"))])
}

const SHOW: [&str; 3] = ["/bin/sh", "-c", "cat f1 f2 f3"];

/// Writes the image `name` for a registry that fails, and returns its reference there.
fn offer(scene: &Scene, registry: &FaultyRegistry, name: &str) -> String {
    let layers = layers(name);
    let layers: Vec<&[Entry]> = layers.iter().map(Vec::as_slice).collect();
    scene.write_layout(name, &layers);
    format!("{}/{name}:v1", registry.address)
}

/// Runs the image `name`.
fn run(scene: &Scene, name: &str, image: &str) {
    let cri = scene.cri();
    let pod = cri.pod(name, &scene.logs());
    cri.start(&pod, name, image, &SHOW);
    let expected = format!("{name}.1{name}.2{name}.3");
    until("the container writes", || scene.output(name) == expected);
    cri.remove_pod(&pod.0);
}

fn until_nothing_is_left(scene: &Scene) {
    until("nothing is left", || {
        scene.collect();
        scene.left().is_empty()
    });
    assert_eq!(scene.nacre_ok(&["--json", "image", "ls"]), "");
}

#[test]
fn a_pull_that_fails_half_way_leaves_nothing_and_succeeds_when_it_can() {
    for policy in ["if-stored", "always"] {
        let scene = Scene::new(policy);
        let registry = FaultyRegistry::start(scene.node.path("layout"));
        let faults = [
            ("down", Fault::Down),
            ("expires", Fault::Expires(4)),
            ("damaged", Fault::Damaged),
        ];
        for (name, fault) in faults {
            let image = offer(&scene, &registry, name);
            registry.fail(fault);
            scene.cri().pull(&image).unwrap_err();
            until_nothing_is_left(&scene);
        }
        let has_tried = scene.stats()["images_add_failed"] != 0;
        assert_eq!(has_tried, policy == "always");
        assert_eq!(scene.stats()["images_added"], 0);
        registry.fail(Fault::None);
        for (name, _) in faults {
            let image = format!("{}/{name}:v1", registry.address);
            scene.cri().pull(&image).unwrap();
            run(&scene, name, &image);
        }
    }
}

#[test]
fn what_containerd_alone_may_read_is_unpacked_by_it() {
    let scene = Scene::new("always");
    let registry = FaultyRegistry::start(scene.node.path("layout"));
    let image = offer(&scene, &registry, "private");
    registry.fail(Fault::Private);
    scene.cri().pull(&image).unwrap_err();
    until_nothing_is_left(&scene);
    scene.cri().pull_as(&image, ("user", "secret")).unwrap();
    let stats = scene.stats();
    assert_eq!(stats["images_add_failed"], 1, "and not once a layer");
    assert_eq!(stats["layers_ordinary_failed"], 3);
    assert_eq!(stats["layers_attached"], 0);
    run(&scene, "private", &image);
}

#[test]
fn a_stored_image_needs_no_layer_of_its_registry() {
    let scene = Scene::new("if-stored");
    let registry = FaultyRegistry::start(scene.node.path("layout"));
    let image = offer(&scene, &registry, "app");
    scene.nacre_ok(&["image", "add", &format!("docker://{image}")]);
    registry.fail(Fault::NoLayers);
    scene.cri().pull(&image).unwrap();
    run(&scene, "app", &image);
}

#[test]
fn a_registry_that_goes_silent_ends_in_the_fallback() {
    if std::env::var_os("NACRE_TEST_LONG").is_none() {
        return;
    }
    let scene = Scene::new("always");
    let registry = FaultyRegistry::start(scene.node.path("layout"));
    let image = offer(&scene, &registry, "app");
    registry.fail(Fault::Silent);
    scene.cri().pull(&image).unwrap_err();
    registry.fail(Fault::None);
    scene.cri().pull(&image).unwrap();
    run(&scene, "app", &image);
}

#[test]
fn without_a_store_images_are_unpacked_and_with_it_again_attached() {
    for policy in ["if-stored", "always"] {
        let node = Node::new();
        let Some((proxy, environment)) = behind_a_proxy(&node) else {
            return;
        };
        let scene = Scene::on(node, Release::Debian, policy, environment);
        for name in ["first", "second"] {
            let layers = layers(name);
            let layers: Vec<&[Entry]> = layers.iter().map(Vec::as_slice).collect();
            scene.push(name, &layers);
            scene.add(name);
        }
        proxy.dead.store(true, Ordering::Relaxed);
        scene.cri().pull(&scene.image("first")).unwrap();
        assert_eq!(scene.stats()["layers_ordinary_failed"], 3);
        assert_eq!(scene.stats()["layers_attached"], 0);
        run(&scene, "first", &scene.image("first"));
        proxy.dead.store(false, Ordering::Relaxed);
        let second = scene.image("second");
        until("the store is asked again", || {
            let attached = || scene.stats()["layers_attached"].as_u64().unwrap();
            let before = attached();
            scene.cri().pull(&second).unwrap();
            let is_attached = attached() == before + 3;
            if !is_attached {
                scene.cri().remove_image(&second).unwrap();
                scene.collect();
            }
            is_attached
        });
        run(&scene, "second", &second);
    }
}

/// Writes to a file until a disk has no more than `free` bytes.
fn fill(file: &Path, free: u64) {
    let mut filler = fs::File::options()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    let block = vec![7; 4096];
    loop {
        let disk = statvfs(file).unwrap();
        if disk.f_bfree * disk.f_frsize <= free || filler.write_all(&block).is_err() {
            return;
        }
    }
}

/// Makes a small disk of its own the root of a node.
fn with_small_disk(node: &Node) {
    let (image, root) = (node.path("disk"), node.empty("root"));
    fs::File::create(&image)
        .and_then(|file| file.set_len(DISK_BYTES))
        .unwrap();
    for command in [
        Command::new("mkfs.ext4").arg("-q").arg(&image),
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &root]),
    ] {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_full_disk_fails_pulls_and_snapshots_until_it_has_space() {
    for policy in ["if-stored", "always"] {
        let node = Node::new();
        with_small_disk(&node);
        let store = format!("file://{}", node.path("store").display());
        let environment = vec![("NACRE_STORE", store)];
        let scene = Scene::on(node, Release::Debian, policy, environment);
        let large = Entry::file("large", vec![1; LARGE_BYTES]);
        scene.push("large", &[&[large]]);
        let (cri, image) = (scene.cri(), scene.image("large"));
        // The node's own files are there.
        assert_eq!(scene.left(), [""; 0]);
        let filler = scene.root().join("filler");
        fill(&filler, FREE_BYTES);
        // With "always" the image is in the store by then, or is not.
        let pulled = cri.pull(&image);
        assert!(pulled.is_err() || scene.stats()["layers_attached"] == 1);
        drop(cri.remove_image(&image));
        until("nothing is left", || {
            scene.collect();
            scene.left().is_empty()
        });

        fill(&filler, 0);
        let key = |n: usize| format!("k{n}");
        let prepare = |n: usize| {
            let prepare = ["snapshots", "--snapshotter", "nacre", "prepare", &key(n)];
            scene.ctr_output(&prepare).status.success()
        };
        let made = (0..SNAPSHOTS).filter(|n| prepare(*n)).count();
        assert!(made < SNAPSHOTS, "the disk is full");
        fs::remove_file(&filler).unwrap();
        assert!(prepare(SNAPSHOTS), "there is space again");
        let names = snapshot_names(&scene.root().join("snapshotter.sock"));
        assert_eq!(names.len(), made + 1, "what was refused is not there");
        scene.cri().pull(&image).unwrap();
    }
}
