//! What a file names is brought to the node with it, where no start was recorded.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::files::{box_with_files, noise};
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::tar::{Entry, archive};

/// Files between the two, more than are ever guessed, each in a frame of its own.
const FILES: u32 = 60;
const FILE_BYTES: usize = 120_000;
const POLLS_MAX: u32 = 1200;
/// Polls of the store's journal that find nothing new, until all is there that comes by itself.
const QUIET_POLLS: u32 = 40;

/// Adds an image with a module that needs another one.
fn add_modules(home: &Node) {
    let mut entries = vec![
        Entry::directory("app/"),
        Entry::file("app/main.js", "require('./needed');\n"),
    ];
    entries.extend(box_with_files(FILES, FILE_BYTES));
    entries.push(Entry::file("app/needed.js", noise(7, FILE_BYTES)));
    let layer = Layer::new(&archive(&entries), Packing::Plain);
    let layout = home.path("layout");
    layout::write(&layout, &[layer], &json!({}));
    let source = format!("oci:{}:v1", layout.display());
    home.ok(&["image", "add", &source, "--name", "box:v1"]);
}

/// Waits until the store was asked for something that begins with `key`, and then for nothing more.
fn rest(journal: &Path, key: &str) {
    let (mut seen, mut quiet) = (0, 0);
    for _ in 0..POLLS_MAX {
        let text = fs::read_to_string(journal).unwrap_or_default();
        let is_new = text.len() != seen || !text.contains(&format!("get {key}"));
        (seen, quiet) = (text.len(), if is_new { 0 } else { quiet + 1 });
        if quiet == QUIET_POLLS {
            return;
        }
        pause();
    }
    panic!("the store was not asked for {key}");
}

#[test]
fn a_file_that_another_one_names_is_there_when_that_was_read() {
    for mode in ["kernel", "fuse"] {
        // Each its own store: what the first reads is a recorded start for the second.
        let (home, node) = (Node::new(), Node::new());
        add_modules(&home);
        let (store, away) = (home.path("root/store"), home.path("root/away"));
        let (view, journal) = (node.empty("view"), node.path("journal"));
        let url = format!("file://{}?journal={}", store.display(), journal.display());
        let on = |arguments: &[&str]| node.ok(&[&["--store", &url], arguments].concat());
        on(&["mount", "--mode", mode, "box:v1", view.to_str().unwrap()]);
        rest(&journal, "metadata/");
        let read = |name: &str| fs::read(view.join(name));
        assert_eq!(read("app/main.js").unwrap(), b"require('./needed');\n");
        rest(&journal, "packs/");

        #[expect(clippy::disallowed_methods, reason = "nobody looks while it is moved")]
        fs::rename(&store, &away).unwrap();
        let (needed, other) = (read("app/needed.js"), read("data/f30"));
        #[expect(clippy::disallowed_methods, reason = "nobody looks while it is moved")]
        fs::rename(&away, &store).unwrap();
        assert_eq!(needed.unwrap(), noise(7, FILE_BYTES), "{mode}");
        assert!(other.is_err(), "{mode}: all files came");
        on(&["umount", view.to_str().unwrap()]);
    }
}
