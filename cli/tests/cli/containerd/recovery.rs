//! Daemons that are killed, and machines that start again.

use super::scene::{Scene, detach_all, until};
use crate::tar::Entry;

const ROUNDS: u32 = 5;

#[test]
fn a_killed_daemon_is_not_noticed_and_leaves_nothing() {
    let mut scene = Scene::new("if-stored");
    scene.push("app", &[&[Entry::file("file", "content")]]);
    scene.add("app");
    let (cri, image) = (scene.cri(), scene.image("app"));
    let pod = cri.pod("pod", &scene.logs());
    // Goes on reading and writing all the time.
    let watch = "while cat file > copy; do sleep 0.1; done; echo failed";
    cri.pull(&image).unwrap();
    cri.start(&pod, "watch", &image, &["/bin/sh", "-c", watch]);
    for round in 0..ROUNDS {
        // In the middle of whatever is asked of it.
        let mut runs: Vec<_> = (0..8)
            .map(|n| {
                let key = format!("k{round}-{n}");
                let mut command = std::process::Command::new("ctr");
                command.arg("-a").arg(scene.path("c.sock"));
                command.args(["-n", "k8s.io", "snapshots", "--snapshotter", "nacre"]);
                command.args(["prepare", &key]);
                command.stdout(std::process::Stdio::null());
                command.stderr(std::process::Stdio::null());
                command.spawn().unwrap()
            })
            .collect();
        scene.kill_daemon();
        scene.start_daemon();
        for run in &mut runs {
            run.wait().unwrap();
        }
        let name = format!("after-{round}");
        until("containerd has found the next one", || {
            let list = ["-n", "k8s.io", "snapshots", "--snapshotter", "nacre", "ls"];
            scene.ctr_output(&list).status.success()
        });
        cri.start(&pod, &name, &image, &["/bin/sh", "-c", "cat file"]);
        until("the container ends", || scene.output(&name) == "content");
    }
    assert_eq!(scene.output("watch"), "");
    cri.remove_pod(&pod.0);
    // What containerd knows is what is there, once it has collected its garbage.
    let list = ["-n", "k8s.io", "snapshots", "--snapshotter", "nacre", "ls"];
    let listed = scene.ctr(&list);
    for line in listed.lines().skip(1).filter(|line| line.starts_with('k')) {
        let key = line.split_whitespace().next().unwrap();
        let remove = [
            "-n",
            "k8s.io",
            "snapshots",
            "--snapshotter",
            "nacre",
            "rm",
            key,
        ];
        scene.ctr(&remove);
    }
    scene.ctr(&["-n", "k8s.io", "images", "rm", "--sync", &image]);
    until("no directory is left but the pod's image", || {
        let folder = scene.root().join("sn");
        std::fs::read_dir(folder).unwrap().count() == 1
    });
}

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
