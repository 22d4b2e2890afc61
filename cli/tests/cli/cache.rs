//! The node's cache: its size, what is checked, and what goes.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::tar::{Entry, archive};

const USAGE: i32 = 2;
const CORRUPT: i32 = 12;

/// A node that has read an image with a large and a small file, and has nothing mounted.
fn node_with_cache(arguments: &[&str]) -> Node {
    let node = Node::new();
    let large: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let entries = [
        Entry::file("large", large.clone()),
        Entry::file("small", "small"),
    ];
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    layout::write(&node.path("layout"), &[layer], &json!({}));
    let source = format!("oci:{}:v1", node.path("layout").display());
    node.ok(&["image", "add", &source, "--name", "app"]);
    let mount = node.empty("mount");
    let target = mount.to_str().unwrap();
    node.ok(&[arguments, &["mount", "--mode", "fuse", "app", target]].concat());
    assert!(std::fs::read(mount.join("large")).unwrap() == large);
    assert_eq!(std::fs::read(mount.join("small")).unwrap(), b"small");
    node.ok(&["umount", target]);
    node
}

/// Ends the daemon and waits until it is gone.
fn end(node: &Node, signal: Signal) {
    let pid = node.daemon().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    while std::fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
        pause();
    }
}

fn stats(node: &Node) -> Value {
    loop {
        let stats = node.json(&["cache", "stats"]);
        if stats["counted"] == true {
            return stats;
        }
        pause();
    }
}

/// Returns where a content of `len` bytes is in the store of the cache.
fn cached(node: &Node, len: u64) -> PathBuf {
    for _ in 0..100 {
        for shard in std::fs::read_dir(node.path("root/cache/store")).unwrap() {
            for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
                let file = file.unwrap();
                if file.metadata().unwrap().len() == len {
                    return file.path();
                }
            }
        }
        // What was read is written behind its readers' backs.
        pause();
    }
    panic!("no cached content has {len} bytes");
}

#[test]
fn what_is_cached_is_counted_checked_and_pruned() {
    let node = node_with_cache(&[]);
    let (large, small) = (cached(&node, 2_800_000), cached(&node, 5));
    // A daemon that is killed on a machine that goes on loses nothing.
    end(&node, Signal::KILL);
    let found = stats(&node);
    assert_eq!(found["contents"], 2, "{found}");
    assert!(found["bytes"].as_u64().unwrap() >= 2_800_000, "{found}");
    assert!(found["quota"].as_u64() > found["bytes"].as_u64(), "{found}");
    assert!(large.exists() && small.exists());

    let right = node.json(&["cache", "verify"]);
    assert_eq!(right, json!({ "checked": 2, "corrupt": [] }));
    let rotten = std::fs::File::options().write(true).open(&large).unwrap();
    rotten.write_all_at(b"rot", 1_000_000).unwrap();
    let output = node.output(&["--json", "cache", "verify"]);
    assert_eq!(output.status.code(), Some(CORRUPT));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shard = large.parent().unwrap().file_name().unwrap();
    let rest = large.file_name().unwrap();
    let id = format!("{}{}", shard.to_str().unwrap(), rest.to_str().unwrap());
    assert_eq!(found, json!({ "checked": 2, "corrupt": [id] }));
    assert!(!large.exists() && small.exists());
    assert_eq!(stats(&node)["rotten"], 1);

    let usage = node.output(&["cache", "prune"]);
    assert_eq!(usage.status.code(), Some(USAGE));
    // Nothing was used in the last seconds by the next daemon.
    end(&node, Signal::TERM);
    let kept = node.json(&["cache", "prune", "--to", "1G"]);
    assert_eq!(kept, json!({ "contents": 0, "bytes": 0 }));
    let pruned = node.json(&["cache", "prune", "--all"]);
    assert_eq!(pruned, json!({ "contents": 1, "bytes": 4096 }));
    assert_eq!(stats(&node)["contents"], 0);
    assert!(!small.exists());
}

#[test]
fn its_size_is_a_setting_that_reaches_the_daemon() {
    let node = node_with_cache(&["--cache-size", "2M", "--cache-files", "50"]);
    let found = stats(&node);
    assert_eq!(
        (&found["quota"], &found["quota_files"]),
        (&json!(2 << 20), &json!(50))
    );
    // The large file takes at most half of it.
    assert!(found["bytes"].as_u64().unwrap() <= 2 << 20, "{found}");
    assert!(found["unstored"].as_u64().unwrap() > 0, "{found}");
    end(&node, Signal::TERM);

    let settings = node.path("settings.toml");
    let text = settings.to_str().unwrap();
    std::fs::write(&settings, "cache-size = \"3G\"\ncache-files = 70\n").unwrap();
    let found = node.json(&["--config", text, "cache", "stats"]);
    assert_eq!(
        (&found["quota"], &found["quota_files"]),
        (&json!(3_u64 << 30), &json!(70))
    );
    std::fs::write(&settings, "cache-size = \"3 parsecs\"\n").unwrap();
    node.fails(USAGE, &["--config", text, "cache", "stats"]);
}
