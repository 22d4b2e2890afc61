//! A small image of two files, one of several frames, for tests of what happens between a node and its store.

use std::path::Path;

use serde_json::json;

use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, archive};

const LARGE_LEN: usize = 3 << 20;

/// Bytes of the large file. They differ from place to place, so that no part of them can stand in for
/// another.
pub(crate) fn large_bytes() -> Vec<u8> {
    let words = (0..LARGE_LEN / 4).map(|word| u32::try_from(word).unwrap());
    words
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// Writes a layout of the image, and returns it as a source.
pub(crate) fn source(node: &Node) -> String {
    let entries = [
        Entry::file("large", large_bytes()),
        Entry::file("small", "small"),
    ];
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    layout::write(&node.path("layout"), &[layer], &json!({}));
    format!("oci:{}:v1", node.path("layout").display())
}

/// Reads both files of a mount, and compares them.
pub(crate) fn read_both(mount: &Path) {
    let read = std::fs::read(mount.join("large")).unwrap();
    assert!(read == large_bytes(), "large differs");
    assert_eq!(std::fs::read(mount.join("small")).unwrap(), b"small");
}
