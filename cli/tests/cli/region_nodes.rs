//! Nodes behind a region's cache, and regions behind another one. Needs root and FUSE.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::node::{Node, pause};
use crate::two_files::{read_both, source};

const NOT_FOUND: i32 = 10;
const USAGE: i32 = 2;
const START_POLLS_MAX: u32 = 400;
const MEMBERS: usize = 2;
pub(crate) const MEMORY: &str = "128M";

/// A member that is killed with the test.
pub(crate) struct Member {
    process: Child,
    pub(crate) address: String,
}

impl Member {
    /// Starts a member with the flags that say which store it has.
    pub(crate) fn start(node: &Node, flags: &[&str], memory: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let address = free.unwrap().to_string();
        let serve = ["region", "serve", "--listen", &address, "--memory", memory];
        let arguments = [flags, &serve].concat();
        let mut command = node.command(&arguments);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let member = Self {
            process: process.unwrap(),
            address,
        };
        let answers = (0..START_POLLS_MAX).any(|_| {
            pause();
            TcpStream::connect(&member.address).is_ok()
        });
        assert!(answers, "the member does not answer");
        member
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // An error says that it has ended already.
        self.process.kill().unwrap_or(());
        drop(self.process.wait());
    }
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_node_reads_through_members_and_without_them() {
    let node = Node::new();
    let store = format!("file://{}", node.path("store").display());
    let members = [(); MEMBERS].map(|()| Member::start(&node, &["--store", &store], MEMORY));
    let list = format!("{},http://{}", members[0].address, members[1].address);
    let flags = ["--store", &store, "--region-cache", &list];
    let on = |arguments: &[&str]| node.json(&[&flags[..], arguments].concat());
    on(&["image", "add", &source(&node), "--name", "app"]);
    let mount = node.empty("mount");
    let at = mount.to_str().unwrap();
    on(&["mount", "app", at]);
    read_both(&mount);
    let stats = on(&["cache", "stats"]);
    assert!(number(&stats["region"]["bytes"]) > 0, "{stats}");
    assert_eq!(number(&stats["origin"]["bytes"]), 0, "{stats}");
    let region = &stats["region_cache"];
    assert_eq!(number(&region["members"]), 2);
    // It was written through, so no member had to ask the store.
    assert_eq!(number(&region["origin"]), 0, "{region}");
    let primed = on(&["region", "prime", "app", "--all"]);
    assert_eq!(number(&primed["failed"]), 0, "{primed}");
    assert!(number(&primed["bytes"]) > 0 && primed["traced"].is_boolean());
    let missing = [&flags[..], &["region", "prime", "none"]].concat();
    node.fails(NOT_FOUND, &missing);
    // Without members all comes from the store.
    drop(members);
    on(&["umount", at]);
    on(&["cache", "prune", "--all"]);
    on(&["mount", "app", at]);
    read_both(&mount);
    assert_eq!(on(&["store", "fsck", "--read-data"])["problems"], json!([]));
    on(&["umount", at]);
}

#[test]
fn lists_of_members_are_checked() {
    let node = Node::new();
    for list in ["host", "host:port", "http://host:1/path", "dns:host"] {
        node.fails(USAGE, &["--region-cache", list, "info"]);
    }
    let line = node.fails(USAGE, &["region", "prime", "app"]);
    assert!(line.contains("no region cache"), "{line}");
}

#[test]
fn another_region_s_images_are_used_by_their_ids_and_kept() {
    let node = Node::new();
    let url = |name: &str| format!("file://{}", node.path(name).display());
    let (home, own) = (url("home"), url("own"));
    let added = node.json(&[
        "--store",
        &home,
        "image",
        "add",
        &source(&node),
        "--name",
        "app",
    ]);
    let id = added["image"].as_str().unwrap();
    let flags = ["--store", &own, "--home-store", &home];
    let on = |arguments: &[&str]| node.json(&[&flags[..], arguments].concat());
    let mount = node.empty("mount");
    let at = mount.to_str().unwrap();
    on(&["mount", id, at]);
    read_both(&mount);
    on(&["umount", at]);
    // Names are each region's own.
    node.fails(NOT_FOUND, &[&flags[..], &["mount", "app", at]].concat());
    // What was read is here before long.
    let here = (0..START_POLLS_MAX).any(|_| {
        pause();
        let stats = node.json(&["--store", &own, "store", "stats"]);
        number(&stats["packs"]) > 0
    });
    assert!(here, "nothing was copied");
}
