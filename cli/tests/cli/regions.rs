//! Two regions, each with a store of its own: what was made in one is used in the other by its id.
//! Needs root, FUSE, runc and a static busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::compare::compare;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::proxy::Proxy;
use crate::region_nodes::{MEMORY, Member};
use crate::snapshots::{create, ended, exceptions, node_with_box};
use crate::tar::{Entry, archive};

const FAILED: i32 = 1;
const NOT_FOUND: i32 = 10;
/// Looks at a daemon.
const POLLS_MAX: u32 = 400;
/// Of each request to a region that is far away: a mount is answered before indexes come.
const FAR_MS: u32 = 300;
/// What may come from another region.
const FOLDERS: [&str; 5] = ["index", "metadata", "packs", "records", "trees"];

/// A node with a member, and a link to the store of another region, which can be cut. So can the
/// node's connection with its member.
struct Second {
    node: Node,
    _member: Member,
    proxy: Proxy,
    home: PathBuf,
    flags: Vec<String>,
}

impl Second {
    fn new(home: &Path) -> Self {
        Self::at(home, 0)
    }

    /// As [`Self::new`], with so many milliseconds for each request to the other region.
    fn at(home: &Path, delay_ms: u32) -> Self {
        let node = Node::new();
        node.empty("link");
        let url = |name: &str| format!("file://{}", node.path(name).display());
        let (own, link) = (url("own"), url("link"));
        let link = match delay_ms {
            0 => link,
            delay_ms => format!("{link}?delay_ms={delay_ms}"),
        };
        let stores = [
            "--store",
            &own,
            "--home-store",
            &link,
            "--store-timeout",
            "2",
        ];
        let member = Member::start(&node, &stores, MEMORY);
        let proxy = Proxy::to(&member.address);
        let near = proxy.address.to_string();
        let flags = [&stores[..], &["--region-cache", &near]].concat();
        let second = Self {
            flags: flags.into_iter().map(str::to_owned).collect(),
            home: home.to_owned(),
            _member: member,
            proxy,
            node,
        };
        second.heal();
        second
    }

    fn on<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let flags = self.flags.iter().map(String::as_str);
        flags.chain(arguments.iter().copied()).collect()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.node.json(&self.on(arguments))
    }

    /// Waits until the daemon has the indexes of all packs, which come behind the answer to a mount.
    fn knows_packs(&self) {
        let knows = (0..POLLS_MAX).any(|_| {
            pause();
            self.json(&["info"])["daemon"]["packs_awaited"] == 0
        });
        assert!(knows, "indexes do not come");
    }

    /// Makes the home store one that answers nothing: its folders are links to themselves.
    fn cut(&self) {
        self.lead_to(Path::new(""));
    }

    /// Makes the member as well answer nothing, and say nothing.
    fn cut_all(&self) {
        self.cut();
        self.proxy.dead.store(true, Ordering::Relaxed);
    }

    fn heal(&self) {
        self.proxy.dead.store(false, Ordering::Relaxed);
        self.lead_to(&self.home);
    }

    fn lead_to(&self, store: &Path) {
        for folder in FOLDERS {
            let link = self.node.path("link").join(folder);
            if link.is_symlink() {
                fs::remove_file(&link).unwrap();
            }
            symlink(store.join(folder), link).unwrap();
        }
    }

    /// Compares a snapshot with a directory.
    fn shows(&self, snapshot: &str, live: &Path, what: &str) {
        let mount = self.node.path("mount");
        fs::create_dir_all(&mount).unwrap();
        self.json(&["mount", snapshot, mount.to_str().unwrap()]);
        let found = compare(live, &mount, &exceptions()).unwrap();
        found.assert_equal(what);
        self.json(&["umount", mount.to_str().unwrap()]);
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

/// Adds an image of one file that no start reads, and returns its id.
fn add_large(home: &Node, body: &[u8]) -> String {
    let layer = Layer::new(&archive(&[Entry::file("large", body)]), Packing::Plain);
    layout::write(&home.path("large"), &[layer], &json!({}));
    let source = format!("oci:{}:v1", home.path("large").display());
    let added = home.json(&["image", "add", &source, "--name", "large"]);
    text(&added, "image").to_owned()
}

#[test]
fn a_snapshot_is_forked_in_another_region_by_its_id_alone() {
    let home = node_with_box();
    let live = ended(&home, "s", "kernel");
    fs::write(live.join("a/written"), "in the first region").unwrap();
    let first = create(&home, "s", &["--name", "first"]);
    let second = Second::new(&home.path("root/store"));
    let id = text(&first, "snapshot");
    second
        .node
        .fails(NOT_FOUND, &second.on(&["fork", "first", "true"]));
    let forked = second.json(&["fork", id, "-n", "2", "sleep", "1000"]);
    let forks: Vec<&str> = (0..2)
        .map(|n| text(&forked["sandboxes"][n], "sandbox"))
        .collect();
    second.shows(id, &live, "the first region's snapshot");
    // What is made of it here needs the other region no more.
    let root = |name: &str| second.node.path("root/sandboxes").join(name).join("rootfs");
    fs::write(root(forks[1]).join("a/written"), "in the second region").unwrap();
    let made = second.json(&["snapshot", "create", forks[1], "--name", "here"]);
    assert_eq!(text(&made, "durability"), "durable");
    second.cut();
    second.shows("here", &root(forks[1]), "without the link");
    let read = ["exec", forks[0], "/bin/busybox", "cat", "/a/written"];
    assert_eq!(second.node.ok(&second.on(&read)), "in the first region");
    second.json(&["fork", "here", "true"]);
    let own = format!("file://{}", second.node.path("own").display());
    let checked = second
        .node
        .json(&["--store", &own, "store", "fsck", "--read-data"]);
    assert_eq!(checked["problems"], json!([]));
    // Names are each region's own: the other one has not heard of this.
    home.fails(NOT_FOUND, &["snapshot", "inspect", "here"]);
}

#[test]
fn without_the_link_what_is_here_works_and_the_rest_says_why_and_heals() {
    let home = node_with_box();
    let body: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let large = add_large(&home, &body);
    let live = ended(&home, "s", "kernel");
    let used = create(&home, "s", &[]);
    fs::write(live.join("a/written"), "not used here yet").unwrap();
    let unused = create(&home, "s", &[]);
    let second = Second::new(&home.path("root/store"));
    let (used, unused) = (text(&used, "snapshot"), text(&unused, "snapshot"));
    let primed = second.json(&["region", "prime", used, "--all"]);
    assert_eq!(primed["failed"], 0, "{primed}");
    // Its names are here, and none of its bytes.
    let mount = second.node.empty("large");
    let target = mount.to_str().unwrap();
    second.json(&["mount", &large, target]);
    second.knows_packs();
    second.cut();
    let fresh = Node::new();
    fresh.ok(&second.on(&["fork", used, "true"]));
    let line = second
        .node
        .fails(FAILED, &second.on(&["fork", unused, "true"]));
    assert!(line.contains("home region"), "{line}");
    let error = fs::read(mount.join("large")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(Errno::IO.raw_os_error()),
        "{error}"
    );
    second.heal();
    assert!(fs::read(mount.join("large")).unwrap() == body);
    second.json(&["fork", unused, "true"]);
    second.shows(unused, &live, "healed");
    second.json(&["umount", target]);
}

/// Returns what a read of a file ends with, which must not take several times as long as it may.
fn read_in_time(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = std::thread::spawn(move || fs::read(path));
    for _ in 0..POLLS_MAX {
        if read.is_finished() {
            return read.join().unwrap();
        }
        pause();
    }
    panic!("a read does not end");
}

#[test]
fn a_read_right_after_a_mount_ends_in_time_without_the_link() {
    let body: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let home = Node::new();
    let large = add_large(&home, &body);
    for mode in ["kernel", "fuse"] {
        for is_silent in [false, true] {
            let second = Second::at(&home.path("root/store"), FAR_MS);
            let mount = second.node.empty("large");
            let target = mount.to_str().unwrap();
            second.json(&["mount", "--mode", mode, &large, target]);
            // The indexes of its packs are on their way.
            if is_silent {
                second.cut_all();
            } else {
                second.cut();
            }
            let error = read_in_time(&mount.join("large")).unwrap_err();
            let is_eio = error.raw_os_error() == Some(Errno::IO.raw_os_error());
            assert!(is_eio, "{mode}, {is_silent}: {error}");
            second.heal();
            // A request that nobody answers may still be waited for.
            let healed = (0..POLLS_MAX).any(|_| {
                let read = read_in_time(&mount.join("large"));
                read.is_ok_and(|read| read == body)
            });
            assert!(healed, "{mode}, {is_silent}");
            second.json(&["umount", target]);
        }
    }
}

#[test]
fn what_is_to_stay_in_its_region_is_not_to_be_had_in_another() {
    let home = node_with_box();
    let live = ended(&home, "s", "kernel");
    let made = create(&home, "s", &[]);
    let id = text(&made, "snapshot");
    let second = Second::new(&home.path("root/store"));
    let stays = ["--region-prefix", "eu", "--home-except", "eu/"];
    let node = Node::new();
    let flags = second.flags.iter().map(String::as_str).chain(stays);
    let fork: Vec<&str> = flags.chain(["fork", id, "true"]).collect();
    node.fails(NOT_FOUND, &fork);
    second.shows(id, &live, "without the rule");
}
