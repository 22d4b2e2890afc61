//! Images that are damaged or that attack: refused with one line that says where, and nothing of
//! them is published.

use std::path::Path;

use serde_json::json;

use crate::layout::{self, Layer, Packing, blob_path, digest};
use crate::node::Node;
use crate::tar::{Entry, archive};

const CORRUPT: i32 = 12;
const NOT_FOUND: i32 = 10;

/// Writes a layout, lets `spoil` change it, and returns why nacre refuses the image.
fn refusal(code: i32, layers: &[Layer], spoil: impl FnOnce(&Path)) -> String {
    let node = Node::new();
    let layout = node.path("layout");
    layout::write(&layout, layers, &json!({}));
    spoil(&layout);
    let source = format!("oci:{}:v1", layout.display());
    let line = node.fails(code, &["image", "add", &source, "--name", "bad"]);
    assert!(
        line.starts_with(&format!("nacre: cannot add image {source}: ")),
        "{line}"
    );
    assert_eq!(
        node.json_lines(&["image", "ls"]),
        [] as [serde_json::Value; 0]
    );
    let found = node.fsck();
    assert_eq!((&found["refs"], &found["records"]), (&json!(0), &json!(0)));
    assert_eq!(
        found["bytes"], found["bytes_garbage"],
        "only garbage may be left"
    );
    line
}

fn refused_layers(layers: &[&[Entry]]) -> (Vec<Layer>, String) {
    let pack = |entries: &&[Entry]| Layer::new(&archive(entries), Packing::Gzip);
    let layers: Vec<Layer> = layers.iter().map(pack).collect();
    let line = refusal(CORRUPT, &layers, |_| ());
    (layers, line)
}

/// The error names the last layer and each of `parts`.
fn names(layers: &[Layer], line: &str, parts: &[&str]) {
    let digest = layers
        .last()
        .unwrap()
        .digest
        .strip_prefix("sha256:")
        .unwrap();
    for part in [&[digest], parts].concat() {
        assert!(line.contains(part), "{part:?} is not named: {line}");
    }
}

#[test]
fn paths_do_not_climb() {
    for path in ["../escape", "a/../../escape", "./.."] {
        let (layers, line) = refused_layers(&[&[Entry::file(path, "x")]]);
        names(&layers, &line, &[path]);
    }
}

#[test]
fn symlinks_are_no_parents() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let link: &[Entry] = &[Entry::symlink("out", target)];
    let through: &[Entry] = &[Entry::file("out/planted", "x")];
    let (layers, line) = refused_layers(&[link, through]);
    names(&layers, &line, &["out/planted", "symlink"]);
    let (layers, line) = refused_layers(&[&[link, through].concat()]);
    names(&layers, &line, &["out/planted", "symlink"]);
    assert_eq!(outside.path().read_dir().unwrap().count(), 0);
}

#[test]
fn files_are_no_parents() {
    let (layers, line) = refused_layers(&[&[Entry::file("a", "x"), Entry::file("a/b", "x")]]);
    names(&layers, &line, &["a/b"]);
}

#[test]
fn hard_links_have_targets() {
    let (layers, line) = refused_layers(&[&[Entry::hard_link("link", "nothing")]]);
    names(&layers, &line, &["\"link\"", "nothing"]);
    let (layers, line) = refused_layers(&[&[Entry::hard_link("link", "../../etc/passwd")]]);
    names(&layers, &line, &["link"]);
    let directory = Entry::directory("dir/");
    let (layers, line) = refused_layers(&[&[directory, Entry::hard_link("link", "dir")]]);
    names(&layers, &line, &["link", "dir"]);
}

fn good_layer(packing: Packing) -> Layer {
    Layer::new(
        &archive(&[Entry::file("file", vec![b'x'; 100_000])]),
        packing,
    )
}

#[test]
fn diff_ids_are_checked() {
    let other = digest(b"other");
    let layer = Layer {
        diff_id: other.clone(),
        ..good_layer(Packing::Gzip)
    };
    let found = good_layer(Packing::Gzip).diff_id;
    let line = refusal(CORRUPT, std::slice::from_ref(&layer), |_| ());
    names(&[layer], &line, &[&other, &found]);
}

#[test]
fn blobs_are_checked() {
    // The last byte of an archive is padding: only the digests tell.
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layer = good_layer(packing);
        let line = refusal(CORRUPT, std::slice::from_ref(&layer), |layout| {
            let path = blob_path(layout, &layer.digest);
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        });
        names(&[layer], &line, &[]);
    }
}

#[test]
fn truncated_blobs_are_refused() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layer = good_layer(packing);
        let line = refusal(CORRUPT, std::slice::from_ref(&layer), |layout| {
            let path = blob_path(layout, &layer.digest);
            std::fs::write(path, &layer.blob[..layer.blob.len() / 2]).unwrap();
        });
        names(&[layer], &line, &[]);
    }
}

#[test]
fn truncated_archives_are_refused() {
    // Digests and sizes agree: what was packed is half of a layer.
    for packing in [Packing::Gzip, Packing::Zstd] {
        let whole = good_layer(packing);
        let blob = whole.blob[..whole.blob.len() / 2].to_vec();
        let layer = Layer {
            digest: digest(&blob),
            blob,
            ..whole
        };
        let line = refusal(CORRUPT, std::slice::from_ref(&layer), |_| ());
        names(&[layer], &line, &[]);
    }
    let tar = archive(&[Entry::file("file", vec![b'x'; 100_000])]);
    let layer = Layer::new(&tar[..50_000], Packing::Gzip);
    let line = refusal(CORRUPT, std::slice::from_ref(&layer), |_| ());
    names(&[layer], &line, &["\"file\""]);
}

#[test]
fn headers_are_checked() {
    let mut tar = archive(&[Entry::file("first", "x"), Entry::file("second", "x")]);
    // The mode of the second entry, without its checksum.
    tar[1024 + 106] ^= 1;
    let layer = Layer::new(&tar, Packing::Plain);
    let line = refusal(CORRUPT, std::slice::from_ref(&layer), |_| ());
    names(&[layer], &line, &["checksum"]);
}

#[test]
fn missing_blobs_are_named() {
    let layer = good_layer(Packing::Gzip);
    let line = refusal(NOT_FOUND, std::slice::from_ref(&layer), |layout| {
        std::fs::remove_file(blob_path(layout, &layer.digest)).unwrap();
    });
    names(&[layer], &line, &[]);
}

#[test]
fn a_bad_image_does_not_take_the_name_of_a_good_one() {
    let node = Node::new();
    let (good, bad) = (node.path("good"), node.path("bad"));
    layout::write(&good, &[good_layer(Packing::Gzip)], &json!({}));
    let climbs = archive(&[Entry::file("../x", "x")]);
    layout::write(&bad, &[Layer::new(&climbs, Packing::Gzip)], &json!({}));
    let source = |layout: &Path| format!("oci:{}:v1", layout.display());
    let added = node.json(&["image", "add", &source(&good), "--name", "app"]);
    node.fails(CORRUPT, &["image", "add", &source(&bad), "--name", "app"]);
    let shown = node.json(&["image", "inspect", "app"]);
    assert_eq!(shown["image"], added["image"]);
    node.fsck();
}
