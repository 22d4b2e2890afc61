//! What a start reads is recorded, and the next node has it before it is asked for.

use serde_json::{Value, json};

use crate::files::box_with_files;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::tar::archive;

const FILES: u32 = 60;
/// Every so many of the files are read.
const STEP: usize = 6;
/// Incompressible, so that some two share a frame.
const FILE_BYTES: usize = 120_000;
/// Starts until each of four parts of a trace was checked four times; that it takes more is no chance.
const STARTS_MAX: u32 = 100;
/// Looks at the counters until they rest.
const POLLS_MAX: u32 = 400;
const QUIET_POLLS: u32 = 12;

/// Adds an image `box:v1` of busybox and some files to the store of `node`.
fn add_box(node: &Node) {
    let entries = box_with_files(FILES, FILE_BYTES);
    let layout = node.path("layout");
    let layer = Layer::new(&archive(&entries), Packing::Plain);
    layout::write(&layout, &[layer], &json!({"Env": ["PATH=/bin"]}));
    let source = format!("oci:{}:v1", layout.display());
    node.ok(&["image", "add", &source, "--name", "box:v1"]);
}

/// A script that reads some of the files, and what it prints.
fn script() -> (String, usize) {
    let files: Vec<String> = (0..FILES)
        .step_by(STEP)
        .map(|number| format!("/data/f{number:02}"))
        .collect();
    (format!("cat {}", files.join(" ")), files.len() * FILE_BYTES)
}

/// Runs a script in a sandbox, which prints so many bytes.
pub(crate) fn run_script(node: &Node, flags: &[&str], image: &str, script: &str, bytes: usize) {
    let run = ["run", "--rm", image, "sh", "-c", script];
    let output = node.output(&[flags, &run].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.len(), bytes);
}

fn origin_reads(node: &Node, store: &str) -> u64 {
    let stats = node.json(&["--store", store, "cache", "stats"]);
    stats["origin"]["reads"].as_u64().unwrap()
}

/// Opens an image on a node that has nothing, and waits until nothing more is fetched for it. Returns
/// how often the store was asked.
fn open_and_wait(node: &Node, store: &str, image: &str) -> u64 {
    let view = node.empty("view");
    let view = view.to_str().unwrap();
    node.ok(&["--store", store, "mount", image, view]);
    let (mut reads, mut quiet) = (0, 0);
    for _ in 0..POLLS_MAX {
        let now = origin_reads(node, store);
        quiet = if now == reads { quiet + 1 } else { 0 };
        reads = now;
        if quiet == QUIET_POLLS {
            break;
        }
        pause();
    }
    node.ok(&["--store", store, "umount", view]);
    reads
}

/// Runs a script on a node that has only opened the image, and returns how often the store was asked,
/// for the opening and for the run.
pub(crate) fn cold_start(store: &str, image: &str, script: &str, bytes: usize) -> (u64, u64) {
    let node = Node::new();
    let opened = open_and_wait(&node, store, image);
    run_script(&node, &["--store", store], image, script, bytes);
    (opened, origin_reads(&node, store) - opened)
}

#[test]
fn a_recorded_start_is_ahead_of_the_next_and_a_boot_pack_more_so() {
    let home = Node::new();
    add_box(&home);
    let store = format!("file://{}", home.path("root/store").display());
    let (script, bytes) = script();
    let start = || cold_start(&store, "box:v1", &script, bytes);
    let (_, without) = start();
    // The node that did this has stored what it saw by now.
    let trace = |node: &Node| node.json(&["trace", "show", "box:v1"]);
    let seen = trace(&home);
    assert_eq!(seen["starts"], 1, "{seen}");
    assert!(without >= 6, "{without} reads");

    let recorded = home.output(&["trace", "record", "box:v1", "sh", "-c", &script]);
    assert!(recorded.status.success(), "{recorded:?}");
    assert_eq!(recorded.stdout.len(), bytes);
    let shown = trace(&home);
    let entries = shown["entries"].as_array().unwrap();
    let traced = |path: &str| entries.iter().any(|entry| entry["what"] == path);
    for number in 0..FILES {
        let path = format!("/data/f{number:02}");
        assert_eq!(
            traced(&path),
            (number as usize).is_multiple_of(STEP),
            "{path}: {shown}"
        );
    }
    assert!(traced("/bin/busybox"));

    let (opened, with) = start();
    assert!(with <= 2, "{with} reads after {opened}, {without} without");

    let optimized = home.json(&["image", "optimize", "box:v1"]);
    assert_eq!(optimized["packs"], 1, "{optimized}");
    let fsck = home.fsck();
    let garbage = fsck["garbage"].as_array().unwrap();
    let is_pack = |key: &Value| key.as_str().unwrap().starts_with("packs/");
    assert!(!garbage.iter().any(is_pack), "{fsck}");
    let (opened, with) = start();
    assert!(opened <= 8, "{opened} reads");
    assert!(with <= 2, "{with} reads");
    assert_eq!(trace(&home)["boot_packs"], 1);
}

#[test]
fn what_one_start_alone_read_is_not_brought_to_all_others() {
    let home = Node::new();
    add_box(&home);
    let store = format!("file://{}", home.path("root/store").display());
    // The daemon of a node that goes away stores what it saw.
    let all = FILES as usize * FILE_BYTES;
    let flags = ["--store", &store];
    run_script(&Node::new(), &flags, "box:v1", "cat /data/*", all);
    let (script, bytes) = script();
    let wanted = || {
        let shown = home.json(&["trace", "show", "box:v1"]);
        let entries = shown["entries"].as_array().unwrap().clone();
        let is_file = |entry: &&Value| entry["what"].as_str().unwrap().starts_with("/data/");
        let files = entries.iter().filter(is_file);
        let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap();
        let is_wanted = |entry: &&Value| number(entry, "unread") <= 3 * number(entry, "starts");
        files.filter(is_wanted).count()
    };
    assert_eq!(wanted(), FILES as usize);
    let some = (FILES as usize).div_ceil(STEP);
    // Each start is checked for a part of the trace, which chance tells.
    for _ in 0..STARTS_MAX {
        let flags = ["--store", &store, "--check-one-in", "1"];
        run_script(&Node::new(), &flags, "box:v1", &script, bytes);
        if wanted() == some {
            break;
        }
    }
    assert_eq!(wanted(), some);
    let node = Node::new();
    open_and_wait(&node, &store, "box:v1");
    let cached = node.json(&["--store", &store, "cache", "stats"])["contents"].clone();
    assert!(
        (some as u64..2 * some as u64).contains(&cached.as_u64().unwrap()),
        "{cached} contents"
    );
}

#[test]
fn traces_are_shown_exported_and_imported() {
    let node = Node::new();
    add_box(&node);
    let line = node.fails(10, &["trace", "show", "box:v1"]);
    assert!(line.contains("no start of it was recorded"), "{line}");
    node.fails(10, &["image", "optimize", "box:v1"]);
    node.fails(10, &["trace", "record", "none:v1"]);
    let code = node.output(&["trace", "record", "box:v1", "sh", "-c", "exit 7"]);
    assert_eq!(code.status.code(), Some(7), "{code:?}");

    let text = node.ok(&["trace", "show", "box:v1"]);
    assert!(text.contains("/bin/busybox"), "{text}");
    let page = node.path("trace.html");
    let page = page.to_str().unwrap();
    node.ok(&["trace", "show", "box:v1", "--html", page]);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(
        html.contains("/bin/busybox") && !html.contains("<script"),
        "{html}"
    );

    let file = node.path("trace");
    let path = file.to_str().unwrap();
    node.ok(&["trace", "export", "box:v1", path]);
    assert_eq!(
        node.json(&["trace", "import", "box:v1", path])["news"],
        false
    );
    let other = Node::new();
    add_box(&other);
    assert_eq!(
        other.json(&["trace", "import", "box:v1", path])["news"],
        true
    );
    let entries = |node: &Node| node.json(&["trace", "show", "box:v1"])["entries"].clone();
    assert_eq!(entries(&other), entries(&node));
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[70] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    node.fails(12, &["trace", "import", "box:v1", path]);
}
