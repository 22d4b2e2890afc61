//! A daemon that is killed again and again while containerd pulls and runs.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cri::Pod;
use super::release::Release;
use super::scene::Scene;
use crate::node::pause;
use crate::tar::Entry;

/// Pulls and runs, and kills among them: in the normal run and with `NACRE_TEST_LONG=1`.
const SHORT: (usize, usize) = (20, 3);
const LONG: (usize, usize) = (200, 30);
/// Who pulls and runs, each its own images.
const WORKERS: usize = 4;
const IMAGES_EACH: usize = 5;
const LAYERS: usize = 5;
/// Files that the container that must notice nothing reads, one after the other.
const FILES: usize = 400;
/// How often something is tried again, as the kubelet does it.
const ATTEMPTS_MAX: usize = 60;
/// Polls for what a container writes.
const OUTPUT_POLLS_MAX: usize = 200;
/// Polls until mounts that nothing uses are taken away.
const SWEEP_POLLS_MAX: usize = 3000;

fn image_name(worker: usize, image: usize) -> String {
    format!("app-{worker}-{image}")
}

/// Pushes all images; of each worker's the even ones are in the store.
fn fill(scene: &Scene) {
    for worker in 0..WORKERS {
        for image in 0..IMAGES_EACH {
            let name = image_name(worker, image);
            let layer = |number: usize| {
                let content = format!("{name}.{number}");
                vec![Entry::file(&format!("file{number}"), content)]
            };
            let layers: Vec<_> = (0..LAYERS).map(layer).collect();
            let layers: Vec<&[Entry]> = layers.iter().map(Vec::as_slice).collect();
            scene.push(&name, &layers);
            if image % 2 == 0 {
                scene.add(&name);
            }
        }
    }
    let files: Vec<_> = (0..FILES)
        .map(|n| Entry::file(&format!("d/{n}"), n.to_string()))
        .collect();
    scene.push("watch", &[&[Entry::directory("d")], &files]);
    scene.add("watch");
}

/// Pulls an image, runs it, and removes both.
fn pull_and_run(
    scene: &Scene,
    pod: &(String, Pod),
    name: &str,
    run: &str,
) -> Result<(), Box<dyn Error>> {
    let (cri, image) = (scene.cri(), scene.image(name));
    cri.pull(&image)?;
    let command = ["/bin/sh", "-c", "cat file*; echo x > file0; cat file0"];
    let container = cri.try_start(pod, run, &image, &command)?;
    let expected: String = (0..LAYERS).map(|n| format!("{name}.{n}")).collect();
    let expected = format!("{expected}x");
    let written = (0..OUTPUT_POLLS_MAX).any(|_| {
        pause();
        scene.output(run) == expected
    });
    if !written {
        return Err(format!("{run} has written {:?}", scene.output(run)).into());
    }
    cri.remove(&container)?;
    Ok(cri.remove_image(&image)?)
}

/// Does one worker's share, and returns what could not be done however often it was tried.
fn work(
    scene: &Scene,
    (worker, pod): &(usize, (String, Pod)),
    items: usize,
    done: &AtomicUsize,
) -> Vec<String> {
    let mut failed = Vec::new();
    for item in 0..items {
        let name = image_name(*worker, item % IMAGES_EACH);
        let mut last = String::new();
        let is_done = (0..ATTEMPTS_MAX).any(|attempt| {
            let run = format!("{worker}-{item}-{attempt}");
            let tried = pull_and_run(scene, pod, &name, &run);
            if let Err(error) = &tried {
                last = error.to_string();
                pause();
            }
            tried.is_ok()
        });
        if !is_done {
            failed.push(format!("{name}: {last}"));
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

/// Kills the daemon, evenly spread over the work, each time at another moment of what is under way.
fn kill_among(scene: &Scene, kills: usize, items: usize, done: &AtomicUsize) {
    for kill in 0..kills {
        while done.load(Ordering::Relaxed) < kill * items / kills {
            pause();
        }
        // Primes, so that the moments differ.
        for _ in 0..kill * 7 % 11 {
            pause();
        }
        scene.kill_daemon();
        scene.start_daemon();
    }
}

#[test]
fn a_daemon_killed_while_containerd_pulls_is_not_noticed_and_leaves_nothing() {
    is_not_noticed_when_killed(&Scene::new("if-stored"));
}

#[test]
fn a_daemon_killed_while_containerd_2_pulls_is_not_noticed_either() {
    if let Some(latest) = Release::latest() {
        is_not_noticed_when_killed(&Scene::with(latest, "if-stored"));
    }
}

fn is_not_noticed_when_killed(scene: &Scene) {
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let (items, kills) = if long { LONG } else { SHORT };
    fill(scene);
    let (cri, watched) = (scene.cri(), scene.image("watch"));
    let pod = cri.pod("watch", &scene.logs());
    cri.pull(&watched).unwrap();
    // Most of what it opens it has not read before; it says what is wrong, and nothing else.
    let watch = "while :; do for f in d/*; do \
        [ \"$(cat $f)\" = \"${f#d/}\" ] || echo wrong $f; sleep 0.05; done; done";
    cri.start(&pod, "watch", &watched, &["/bin/sh", "-c", watch]);

    let done = AtomicUsize::new(0);
    let failed = std::thread::scope(|scope| {
        let done = &done;
        let pod = |worker| (worker, cri.pod(&format!("pod-{worker}"), &scene.logs()));
        let shares: Vec<_> = (0..WORKERS).map(pod).collect();
        let work = |share| scope.spawn(move || work(scene, &share, items / WORKERS, done));
        let workers: Vec<_> = shares.into_iter().map(work).collect();
        kill_among(scene, kills, items, done);
        let failed = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap());
        failed.collect::<Vec<_>>()
    });
    assert_eq!(failed, [""; 0]);
    assert_eq!(scene.output("watch"), "");
    assert_eq!(scene.keepers().len(), 1);

    remove_all(scene);
    // Mounts of metadata that nothing uses are taken away after a minute.
    let polls = if long { SWEEP_POLLS_MAX } else { 0 };
    let mut left = scene.left();
    for _ in 0..polls {
        if left.is_empty() {
            break;
        }
        pause();
        left = scene.left();
    }
    left.retain(|what| long || !what.contains("/erofs/"));
    assert_eq!(left, [""; 0]);
}

/// Removes all pods and images, and waits for containerd's collection of garbage.
fn remove_all(scene: &Scene) {
    let cri = scene.cri();
    for pod in cri.pods() {
        cri.remove_pod(&pod);
    }
    let list = ["-n", "k8s.io", "images", "ls", "-q"];
    for image in scene.ctr(&list).lines() {
        scene.ctr(&["-n", "k8s.io", "images", "rm", "--sync", image]);
    }
    let leases = scene.ctr(&["-n", "k8s.io", "leases", "ls", "-q"]);
    assert_eq!(leases, "", "nothing holds what is left");
    scene.collect();
}
