//! Machines that start again.

use super::scene::{Scene, detach_all, until};
use crate::tar::Entry;

#[test]
fn after_a_reboot_everything_starts_again_without_the_store() {
    let mut scene = Scene::new("if-stored");
    scene.push("app", &[&[Entry::file("file", "content")]]);
    scene.add("app");
    let image = scene.image("app");
    let run = |scene: &Scene, name: &str, script: &str| {
        let cri = scene.cri();
        let pod = cri.pod(name, &scene.logs());
        cri.start(&pod, name, &image, &["/bin/sh", "-c", script]);
        until("the container writes", || {
            scene.output(name).contains("content")
        });
        pod.0
    };
    scene.cri().pull(&image).unwrap();
    run(&scene, "before", "cat file; echo; sleep 100000");
    let container = scene.ctr(&["-n", "k8s.io", "containers", "ls", "-q"]);
    let keys: Vec<_> = container.lines().map(ToOwned::to_owned).collect();
    assert_eq!(keys.len(), 2, "the pod and the container");

    // All processes and mounts are gone, and so is the store.
    for key in &keys {
        drop(scene.ctr_output(&["-n", "k8s.io", "tasks", "rm", "-f", key]));
    }
    scene.stop_containerd();
    scene.kill_keeper();
    scene.kill_daemon();
    detach_all(&scene.path("state"));
    detach_all(&scene.root());
    std::fs::remove_dir_all(scene.path("state")).unwrap();
    let (store, away) = (scene.root().join("store"), scene.root().join("away"));
    #[expect(clippy::disallowed_methods, reason = "nobody looks while it is moved")]
    std::fs::rename(&store, &away).unwrap();

    scene.start_daemon();
    scene.start_containerd();
    // The old containers' file systems are there again.
    for key in &keys {
        let mounts = [
            "-n",
            "k8s.io",
            "snapshots",
            "--snapshotter",
            "nacre",
            "mounts",
        ];
        scene.ctr(&[&mounts[..], &["/target", key]].concat());
    }
    let pod = run(&scene, "after", "cat file");
    scene.cri().remove_pod(&pod);
    #[expect(clippy::disallowed_methods, reason = "nobody looks while it is moved")]
    std::fs::rename(&away, &store).unwrap();
}
