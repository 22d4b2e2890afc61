//! Real images of the store, pulled and run by each containerd: many of their files are read, and no
//! layer is. `NACRE_CORPUS` names OCI layouts, separated by colons (skipped without it);
//! `scripts/compare-images.sh` sets it.

use std::path::Path;

use super::release::Release;
use super::scene::{Scene, until};
use crate::corpus::tags;

/// A checksum of many files, without those that a container's runtime puts there.
const READ_MANY: [&str; 3] = [
    "/bin/sh",
    "-c",
    "cd /; for d in *; do case $d in dev|etc|proc|run|sys|tmp) ;; *) find $d -type f ;; esac; done |
     sort | head -n 2000 | tr '\\n' '\\0' | xargs -0 cat | sha256sum",
];

/// Pulls an image of the store and runs it, in a pod and by `ctr`.
fn start(scene: &Scene, layout: &Path, is_told_by_ctr: bool) {
    let name = layout.file_name().unwrap().to_str().unwrap();
    let tag = tags(layout).swap_remove(0);
    scene.push_from(&format!("oci:{}:{tag}", layout.display()), name);
    scene.add(name);
    let image = scene.image(name);
    let stored = scene.layers_fetched(name);
    assert!(stored > 0, "by the addition to the store");

    let cri = scene.cri();
    cri.pull(&image).unwrap();
    let pod = cri.pod(name, &scene.logs());
    cri.start(&pod, name, &image, &READ_MANY);
    until("the container ends", || !scene.output(name).is_empty());
    let by_cri = scene.layers_fetched(name) - stored;
    cri.remove_pod(&pod.0);

    let run = ["run", "--rm", "--snapshotter", "nacre", &image, name];
    let run = || scene.ctr(&[&run[..], &READ_MANY].concat());
    let mut by_register = None;
    if !is_told_by_ctr {
        scene.register(&format!("{name}:v1"), &["--as", &image]);
        assert_eq!(run().trim(), scene.output(name), "what both have read");
        by_register = Some(scene.layers_fetched(name) - stored - by_cri);
        scene.ctr(&["images", "rm", "--sync", &image]);
    }
    let before = scene.layers_fetched(name);
    let pull = ["image", "pull", "--plain-http", "--snapshotter", "nacre"];
    scene.ctr(&[&pull[..], &[&image]].concat());
    assert_eq!(run().trim(), scene.output(name), "what both have read");
    let by_ctr = scene.layers_fetched(name) - before;
    println!(
        "{name}:{tag}: {stored} layers; asked for by CRI {by_cri}, by ctr {by_ctr}, by ctr of what was \
         registered {by_register:?}"
    );
    assert_eq!(by_cri, 0);
    assert_eq!(by_register.unwrap_or(0), 0);
    // Otherwise containerd unpacks the image, as what is not stored.
    assert!(by_ctr == 0 || !is_told_by_ctr);
}

#[test]
fn no_layer_of_a_stored_image_is_asked_for() {
    let Some(corpus) = std::env::var_os("NACRE_CORPUS") else {
        println!("SKIPPED: NACRE_CORPUS is not set");
        return;
    };
    // `ctr` of 1.6 never says of which image a layer is, so it fetches all when it pulls. It runs what was
    // registered.
    let latest = Release::latest().map(|latest| (latest, true));
    let releases = [Some((Release::Debian, false)), latest];
    for (release, is_told_by_ctr) in releases.into_iter().flatten() {
        println!("{release:?}");
        let scene = Scene::with(release, "if-stored");
        for layout in std::env::split_paths(&corpus) {
            start(&scene, &layout, is_told_by_ctr);
        }
    }
}
