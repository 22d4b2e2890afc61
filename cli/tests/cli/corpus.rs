//! A corpus of real images: what umoci unpacks and what nacre mounts are the same.
//!
//! `NACRE_CORPUS` names OCI layouts, separated by colons (skipped without it);
//! `scripts/compare-images.sh` sets it. Needs disk for one unpacked image in `TMPDIR`.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::compare::{Exceptions, compare};
use crate::images::umoci_unpack;
use crate::layout::{blob_path, digest};
use crate::node::Node;
use crate::snapshots::{create, exceptions, rootfs};
use crate::writes::{Change, Random};

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn tags(layout: &Path) -> Vec<String> {
    let index = read_json(&layout.join("index.json"));
    let tag = |manifest: &Value| {
        let tag = &manifest["annotations"]["org.opencontainers.image.ref.name"];
        tag.as_str().map(str::to_owned)
    };
    index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(tag)
        .collect()
}

/// Makes a layout of one image whose zstd layers are plain: umoci 0.4 knows no zstd.
fn without_zstd(layout: &Path, tag: &str, into: &Path) {
    let mut index = read_json(&layout.join("index.json"));
    let manifests = index["manifests"].as_array_mut().unwrap();
    manifests.retain(|m| m["annotations"]["org.opencontainers.image.ref.name"] == tag);
    let mut manifest = read_json(&blob_path(layout, manifests[0]["digest"].as_str().unwrap()));
    std::fs::create_dir_all(into.join("blobs/sha256")).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    std::fs::copy(blob_path(layout, &config), blob_path(into, &config)).unwrap();
    let diff_ids = read_json(&blob_path(layout, &config))["rootfs"]["diff_ids"].clone();
    for (number, layer) in manifest["layers"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        let blob = blob_path(layout, layer["digest"].as_str().unwrap());
        if !layer["mediaType"].as_str().unwrap().ends_with("zstd") {
            std::os::unix::fs::symlink(
                &blob,
                into.join("blobs/sha256").join(blob.file_name().unwrap()),
            )
            .unwrap();
            continue;
        }
        let plain = blob_path(into, diff_ids[number].as_str().unwrap());
        zstd::stream::copy_decode(File::open(blob).unwrap(), File::create(&plain).unwrap())
            .unwrap();
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        layer["digest"] = diff_ids[number].clone();
        layer["size"] = plain.metadata().unwrap().len().into();
    }
    let bytes = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(blob_path(into, &digest(&bytes)), &bytes).unwrap();
    manifests[0]["digest"] = digest(&bytes).into();
    manifests[0]["size"] = bytes.len().into();
    std::fs::write(into.join("index.json"), index.to_string()).unwrap();
    std::fs::copy(layout.join("oci-layout"), into.join("oci-layout")).unwrap();
}

/// Returns the number of differences.
fn compare_image(node: &Node, layout: &Path, tag: &str) -> u64 {
    let (plain, unpacked, view) = (node.path("plain"), node.path("unpacked"), node.path("view"));
    without_zstd(layout, tag, &plain);
    umoci_unpack(&plain, tag, &unpacked);
    std::fs::remove_dir_all(&plain).unwrap();

    let source = format!("oci:{}:{tag}", layout.display());
    let added = node.json(&["image", "add", &source, "--name", "corpus"]);
    std::fs::create_dir(&view).unwrap();
    let mut differences = 0;
    for mode in ["kernel", "fuse"] {
        node.ok(&["mount", "--mode", mode, "corpus", view.to_str().unwrap()]);
        let found = compare(&unpacked, &view, &Exceptions::default()).unwrap();
        node.ok(&["umount", view.to_str().unwrap()]);
        println!(
            "{}:{tag} ({mode}): {} names, {} bytes; added in {:.1} s; {} differences",
            layout.display(),
            found.entries,
            found.bytes,
            added["seconds"].as_f64().unwrap(),
            found.differences
        );
        for line in &found.reported {
            println!("    {line}");
        }
        assert!(found.entries > 1, "nothing was compared");
        differences += found.differences;
    }
    std::fs::remove_dir(&view).unwrap();
    std::fs::remove_dir_all(&unpacked).unwrap();
    differences
}

#[test]
fn real_images_are_mounted_as_umoci_unpacks_them() {
    let Some(corpus) = std::env::var_os("NACRE_CORPUS") else {
        println!("SKIPPED: NACRE_CORPUS is not set");
        return;
    };
    let node = Node::new();
    let mut differences = 0;
    let mut images = 0;
    for layout in std::env::split_paths(&corpus) {
        let layout: PathBuf = layout.canonicalize().unwrap();
        for tag in tags(&layout) {
            differences += compare_image(&node, &layout, &tag);
            images += 1;
        }
    }
    println!("{images} images, {differences} differences");
    node.fsck();
    assert!(images > 0, "no image was compared");
    assert_eq!(differences, 0);
}

/// What is done to each image before it is captured.
fn write_a_lot(live: &Path) {
    let mut random = Random::seeded(5);
    for _ in 0..400 {
        // Some are not possible.
        Change::random(&mut random).apply(live).unwrap_or(());
    }
    for number in 0..1000 {
        let path = live.join(format!("usr/written-{number}"));
        std::fs::write(path, format!("{number}")).unwrap();
    }
    // Busybox has little to move.
    let mut directories = ["usr/share", "etc"].into_iter();
    let moved = directories.find(|name| live.join(name).is_dir()).unwrap();
    rustix::fs::rename(live.join(moved), live.join("usr/moved")).unwrap();
}

#[test]
fn snapshots_of_real_images_are_the_same_on_another_node() {
    let Some(corpus) = std::env::var_os("NACRE_CORPUS") else {
        println!("SKIPPED: NACRE_CORPUS is not set");
        return;
    };
    for layout in std::env::split_paths(&corpus) {
        let (node, other) = (Node::new(), Node::new());
        let layout: PathBuf = layout.canonicalize().unwrap();
        let tag = tags(&layout).swap_remove(0);
        let source = format!("oci:{}:{tag}", layout.display());
        node.ok(&["image", "add", &source, "--name", "corpus"]);
        node.ok(&["run", "--name", "s", "corpus", "true"]);
        let live = rootfs(&node, "s");
        write_a_lot(&live);
        let snapshot = create(&node, "s", &["--wait", "durable"]);
        let mount = other.empty("mount");
        let store = format!("file://{}", node.path("root/store").display());
        let id = snapshot["snapshot"].as_str().unwrap();
        let on_other = |arguments: &[&str]| other.ok(&[&["--store", &store], arguments].concat());
        let fetched = || {
            let stats = on_other(&["--json", "cache", "stats"]);
            let stats: Value = serde_json::from_str(&stats).unwrap();
            stats["origin"]["bytes"].as_u64().unwrap()
        };
        on_other(&["mount", id, mount.to_str().unwrap()]);
        let mounted = fetched();
        let read = std::fs::read(mount.join("usr/written-7")).unwrap();
        let (read, one) = (String::from_utf8(read).unwrap(), fetched());
        let found = compare(&live, &mount, &exceptions()).unwrap();
        println!(
            "{}:{tag}: {} names, {} bytes, {} differences; fetched {mounted} bytes by the mount, \
             {one} after one file was read, {} at the end",
            layout.display(),
            found.entries,
            found.bytes,
            found.differences,
            fetched()
        );
        on_other(&["umount", mount.to_str().unwrap()]);
        assert_eq!(read, "7");
        found.assert_equal("on another node");
    }
}
