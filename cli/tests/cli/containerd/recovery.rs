//! Machines that start again.

use std::sync::atomic::Ordering;

use super::release::Release;
use super::scene::{Scene, behind_a_proxy, detach_all, until};
use crate::node::Node;
use crate::tar::Entry;

/// Of more than one chunk, so that it is on the node in part.
const LARGE_BYTES: usize = 12 << 20;
/// Reads files at several depths and the start of the large one, and lists a directory.
const READ: &str = "cat file a/b/deep; ls a; dd if=a/large bs=4096 count=1 2>/dev/null | head -c 4; \
    test -e a/none || echo none";
const SHOWN: &str = "contentdeep\nb\nlarge\nxxxxnone";

/// Begins with what [`READ`] shows; no two chunks are equal.
fn large() -> Vec<u8> {
    let next = |state: &mut u32, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state.to_le_bytes()[3])
    };
    let random = (0..LARGE_BYTES).scan(1, next);
    b"xxxx".iter().copied().chain(random).collect()
}

impl Scene {
    /// Pushes and adds an image with what [`READ`] reads, in two layers.
    fn add_read(&self, name: &str) {
        let low = [
            Entry::file("file", "content"),
            Entry::directory("a"),
            Entry::file("a/large", large()),
        ];
        let high = [Entry::directory("a/b"), Entry::file("a/b/deep", "deep\n")];
        self.push(name, &[&low, &high]);
        self.add(name);
    }

    /// Starts a container in a pod of its own, waits for what it shows, and returns the pod.
    fn run_read(&self, image: &str, name: &str, rest: &str) -> String {
        let cri = self.cri();
        let pod = cri.pod(name, &self.logs());
        let script = format!("{READ}{rest}");
        cri.start(&pod, name, image, &["/bin/sh", "-c", &script]);
        until("the container writes", || self.output(name) == SHOWN);
        pod.0
    }

    fn keys(&self) -> Vec<String> {
        let listed = self.ctr(&["-n", "k8s.io", "containers", "ls", "-q"]);
        listed.lines().map(ToOwned::to_owned).collect()
    }

    /// Ends all processes and takes all mounts away, as a reboot does.
    fn shut_down(&mut self) {
        for key in &self.keys() {
            drop(self.ctr_output(&["-n", "k8s.io", "tasks", "rm", "-f", key]));
        }
        self.stop_containerd();
        self.kill_keeper();
        self.kill_daemon();
        detach_all(&self.path("state"));
        detach_all(&self.root());
        std::fs::remove_dir_all(self.path("state")).unwrap();
    }

    /// Takes the store away, or brings it back.
    fn cut_off(&self, is_away: bool) {
        let (store, away) = (self.root().join("store"), self.root().join("away"));
        let (from, to) = if is_away {
            (store, away)
        } else {
            (away, store)
        };
        #[expect(clippy::disallowed_methods, reason = "nobody looks while it is moved")]
        std::fs::rename(from, to).unwrap();
    }
}

fn after_a_reboot_everything_starts_again(mut scene: Scene, cut_off: impl Fn(&Scene, bool)) {
    scene.add_read("app");
    let image = scene.image("app");
    scene.cri().pull(&image).unwrap();
    scene.run_read(&image, "before", "; sleep 100000");
    let keys = scene.keys();
    assert_eq!(keys.len(), 2, "the pod and the container");
    assert_eq!(scene.stats()["layers_attached"], 2);

    scene.shut_down();
    cut_off(&scene, true);
    scene.start_daemon();
    scene.start_containerd();
    // The old containers' file systems are there again.
    for key in &keys {
        let snapshots = ["-n", "k8s.io", "snapshots", "--snapshotter", "nacre"];
        scene.ctr(&[&snapshots[..], &["mounts", "/target", key]].concat());
    }
    let pod = scene.run_read(&image, "after", "");
    scene.cri().remove_pod(&pod);
    cut_off(&scene, false);
}

fn starts_again_without_the_store(release: Release) {
    let scene = Scene::with(release, "if-stored");
    after_a_reboot_everything_starts_again(scene, Scene::cut_off);
}

#[test]
fn after_a_reboot_everything_starts_again_without_the_store() {
    starts_again_without_the_store(Release::Debian);
}

#[test]
fn after_a_reboot_everything_starts_again_without_the_store_with_the_latest() {
    if let Some(latest) = Release::latest() {
        starts_again_without_the_store(latest);
    }
}

#[test]
fn after_a_reboot_everything_starts_again_beside_a_store_that_is_silent() {
    for release in [Some(Release::Debian), Release::latest()] {
        let node = Node::new();
        let Some((proxy, environment)) = behind_a_proxy(&node) else {
            return;
        };
        if let Some(release) = release {
            let scene = Scene::on(node, release, "if-stored", environment);
            after_a_reboot_everything_starts_again(scene, |_, is_silent| {
                proxy.dead.store(is_silent, Ordering::Relaxed);
            });
        }
    }
}
