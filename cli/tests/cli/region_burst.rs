//! A burst: nodes that have nothing start one image at once, through members of a region's cache
//! that have nothing, and the store is asked for what one start is. Needs root, FUSE, runc and a
//! static busybox.
//!
//! `scripts/region-burst.sh` sets `NACRE_BURST_SOURCE`, `_NODES`, `_MEMBERS` and `_COMMAND`, for a
//! real image on many nodes.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::compare::{Exceptions, compare};
use crate::files::box_with_files;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::region_nodes::Member;
use crate::tar::archive;

const NAME: &str = "burst:v1";
/// As many as a member takes for a burst.
const NODES: usize = 4;
const MEMBERS: usize = 2;
const FILES: u32 = 24;
/// Incompressible, and so long that some blocks of a member hold parts of two files.
const FILE_BYTES: usize = 700_000;
/// Every so many of the files are read.
const STEP: usize = 3;
/// Of each request to the store, so that nodes meet while it is under way.
const DELAY_MS: u32 = 40;
/// Blocks of a member.
const BLOCK_BYTES: u64 = 1 << 20;
/// Looks at what the store was asked for, until that many in a row find nothing new.
const POLLS_MAX: u32 = 1200;
const QUIET_POLLS: u32 = 40;

/// What starts, and where.
struct Scale {
    source: String,
    nodes: usize,
    members: usize,
    command: Vec<String>,
}

impl Scale {
    fn of_environment(home: &Node) -> Self {
        let set = |name: &str| env::var_os(name).map(|text| text.into_string().unwrap());
        let number = |name: &str, default: usize| {
            set(name).map_or(default, |text| text.parse().expect("a number"))
        };
        let command = set("NACRE_BURST_COMMAND").unwrap_or_else(script);
        Self {
            source: set("NACRE_BURST_SOURCE").unwrap_or_else(|| small_image(home)),
            nodes: number("NACRE_BURST_NODES", NODES),
            members: number("NACRE_BURST_MEMBERS", MEMBERS),
            command: ["sh", "-c", &command].map(str::to_owned).to_vec(),
        }
    }
}

fn small_image(home: &Node) -> String {
    let entries = box_with_files(FILES, FILE_BYTES);
    let path = home.path("layout");
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    layout::write(&path, &[layer], &json!({"Env": ["PATH=/bin"]}));
    format!("oci:{}:v1", path.display())
}

fn script() -> String {
    let numbers = (0..FILES).step_by(STEP);
    let files: Vec<String> = numbers.map(|n| format!("/data/f{n:02}")).collect();
    format!("cat {} >/dev/null", files.join(" "))
}

/// What the store was asked for, line by line of its journal.
#[derive(Debug)]
struct Asked {
    /// Blocks and whole objects, and how often members asked for each.
    of_members: BTreeMap<String, u32>,
    requests: usize,
    /// What nodes asked of it that members could have given.
    of_nodes: Vec<String>,
}

impl Asked {
    /// Returns what `other` did not ask for.
    fn beside(&self, other: &Self) -> Vec<&str> {
        let mine = self.of_members.keys();
        let beside = mine.filter(|block| !other.of_members.contains_key(*block));
        beside.map(String::as_str).collect()
    }
}

fn lines(journal: &Path) -> Vec<String> {
    // Nobody asked for anything as long as it is not there.
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Returns what a line says was read: one request may bring several blocks.
fn blocks(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["get", key, start, end] => {
            let number = |text: &str| text.parse::<u64>().unwrap();
            let blocks = number(start) / BLOCK_BYTES..number(end).div_ceil(BLOCK_BYTES);
            blocks.map(|block| format!("{key} {block}")).collect()
        }
        _ => vec![line.to_owned()],
    }
}

/// A region and its nodes, all of them empty, over a copy of the store.
struct Burst {
    place: Node,
    nodes: Vec<Node>,
    members: Vec<Member>,
    flags: Vec<String>,
}

impl Burst {
    fn new(store: &Path, nodes: usize, members: usize) -> Self {
        let place = Node::new();
        let mut copy = Command::new("cp");
        copy.arg("-a").args([store, &place.path("store")]);
        assert!(copy.status().unwrap().success());
        let url = |journal: &str| {
            let (store, journal) = (place.path("store"), place.path(journal));
            let (store, journal) = (store.display(), journal.display());
            format!("file://{store}?delay_ms={DELAY_MS}&journal={journal}")
        };
        let members: Vec<Member> = (0..members)
            .map(|_| Member::start(&place, &["--store", &url("members")], "1G"))
            .collect();
        let list: Vec<&str> = members.iter().map(|member| &*member.address).collect();
        let of_nodes = url("nodes");
        let flags = ["--store", &of_nodes, "--region-cache", &list.join(",")];
        Self {
            flags: flags.map(str::to_owned).to_vec(),
            nodes: (0..nodes).map(|_| Node::new()).collect(),
            members,
            place,
        }
    }

    fn on<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let flags = self.flags.iter().map(String::as_str);
        flags.chain(arguments.iter().copied()).collect()
    }

    /// Starts the command on all nodes at once, and returns what the store was asked for.
    fn start(&self, command: &[String]) -> Asked {
        for node in &self.nodes {
            node.json(&self.on(&["cache", "stats"]));
        }
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let run = self.on(&[&["run", "--rm", NAME], &command[..]].concat());
        let spawn = |node: &Node| {
            let mut run = node.command(&run);
            run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        };
        let runs: Vec<_> = self.nodes.iter().map(|node| spawn(node).unwrap()).collect();
        for run in runs {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        self.rest();
        self.asked()
    }

    /// Waits until members have fetched what was asked ahead.
    fn rest(&self) {
        let (mut seen, mut quiet) = (0, 0);
        for _ in 0..POLLS_MAX {
            let now = lines(&self.place.path("members")).len();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
            if quiet == QUIET_POLLS {
                return;
            }
            pause();
        }
        panic!("members do not come to rest");
    }

    /// Returns what the nodes' clients of the region counted, together.
    fn counted(&self, what: &str) -> u64 {
        let stats = self
            .nodes
            .iter()
            .map(|node| node.json(&self.on(&["cache", "stats"])));
        stats
            .map(|stats| stats["region_cache"][what].as_u64().unwrap())
            .sum()
    }

    fn asked(&self) -> Asked {
        let of_members = lines(&self.place.path("members"));
        let mut counts = BTreeMap::new();
        for block in of_members.iter().flat_map(|line| blocks(line)) {
            *counts.entry(block).or_default() += 1;
        }
        let folders = ["packs", "trees", "index", "records", "metadata"];
        let in_region = |line: &String| {
            let key = line.strip_prefix("get ");
            key.is_some_and(|key| folders.iter().any(|folder| key.starts_with(folder)))
        };
        let of_nodes = lines(&self.place.path("nodes"));
        Asked {
            requests: of_members.len(),
            of_members: counts,
            of_nodes: of_nodes.into_iter().filter(in_region).collect(),
        }
    }

    /// Compares what each node shows with the same image on a node without a region.
    fn compare(&self, store: &Path) {
        let direct = Node::new();
        let store = format!("file://{}", store.display());
        let expected = direct.empty("expected");
        direct.ok(&["--store", &store, "mount", NAME, expected.to_str().unwrap()]);
        for (number, node) in self.nodes.iter().enumerate() {
            let shown = node.empty("shown");
            node.ok(&self.on(&["mount", NAME, shown.to_str().unwrap()]));
            let found = compare(&expected, &shown, &Exceptions::default()).unwrap();
            found.assert_equal(&format!("node {number}"));
            println!(
                "node {number}: {} names, {} bytes, no difference",
                found.entries, found.bytes
            );
            node.ok(&self.on(&["umount", shown.to_str().unwrap()]));
            node.ok(&self.on(&["cache", "prune", "--all"]));
        }
        assert!(!self.members.is_empty());
        direct.ok(&["--store", &store, "umount", expected.to_str().unwrap()]);
    }
}

/// Adds the image to a store, with the trace of a start and of nothing else.
fn prepared(home: &Node, scale: &Scale) -> PathBuf {
    let store = home.path("root/store");
    let add = ["image", "add", &scale.source, "--name", NAME];
    home.ok(&add);
    let command = scale.command.iter().map(String::as_str);
    let record: Vec<&str> = ["trace", "record", NAME]
        .into_iter()
        .chain(command)
        .collect();
    home.ok(&record);
    store
}

#[test]
fn a_burst_costs_the_store_what_one_start_does() {
    let home = Node::new();
    let scale = Scale::of_environment(&home);
    let store = prepared(&home, &scale);
    let mut before: Option<Asked> = None;
    for (nodes, members) in [(1, 1), (1, scale.members), (scale.nodes, scale.members)] {
        let burst = Burst::new(&store, nodes, members);
        let asked = burst.start(&scale.command);
        let what = format!("{nodes} nodes, {members} members");
        println!(
            "{what}: {} requests for {} blocks and objects",
            asked.requests,
            asked.of_members.len()
        );
        let again: Vec<_> = asked
            .of_members
            .iter()
            .filter(|(_, times)| **times > 1)
            .collect();
        // A node whose member is silent for 3 s, as on a busy machine, may ask a second one.
        let doubts = burst.counted("doubted") + burst.counted("relieved");
        println!("{what}: {doubts} doubts, more than once: {again:?}");
        assert!(again.is_empty() || doubts > 0, "{what}: read again");
        assert!(
            asked.of_nodes.is_empty() || doubts > 0,
            "{what}: {:?}",
            asked.of_nodes
        );
        if let Some(before) = &before {
            let more = asked.beside(before);
            let fewer = before.beside(&asked);
            println!("{what}: more than before: {more:?}, fewer: {fewer:?}");
            assert!(more.is_empty() && fewer.is_empty(), "{what}");
        }
        if nodes == scale.nodes {
            // Of the image, and of its trace: both have records.
            let told = if nodes < NODES { 0 } else { 2 };
            assert_eq!(
                burst.counted("bursts"),
                told,
                "nodes were told of the burst"
            );
            burst.compare(&store);
        }
        before = Some(asked);
    }
}
