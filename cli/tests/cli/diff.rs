//! `nacre snapshot diff` lists what a full comparison finds. Needs root, FUSE, runc, a static busybox
//! and git.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{XattrFlags, lsetxattr};
use serde_json::{Value, json};

use crate::compare::{kind, xattrs};
use crate::node::Node;
use crate::snapshots::{create, ended, node_with_box};
use crate::writes::{Change, Random};

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 10;
const SEQUENCES: u64 = 8;
const SEQUENCES_LONG: u64 = 100;
const OPERATIONS: usize = 40;

/// What an image says of a path, as text to be compared, and the parts that differences name.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: &'static str,
    attributes: String,
    /// Content, target or device.
    content: String,
    bytes: u64,
}

/// Describes all below a directory, by absolute path.
fn survey(root: &Path) -> BTreeMap<String, Facts> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (mut content, mut bytes) = (metadata.rdev().to_string(), 0);
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                pending.push(entry.unwrap().path());
            }
        } else if metadata.is_symlink() {
            content = fs::read_link(&path).unwrap().display().to_string();
        } else if metadata.is_file() {
            content = blake3::hash(&fs::read(&path).unwrap()).to_string();
            bytes = metadata.len();
        }
        let facts = Facts {
            kind: kind(&metadata),
            attributes: format!(
                "{:o} {} {} {} {} {:?}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                xattrs(&path).unwrap()
            ),
            content,
            bytes,
        };
        let below = path.strip_prefix(root).unwrap();
        found.insert(format!("/{}", below.display()), facts);
    }
    found
}

/// A difference without what says how it came about.
type Line = (String, String, String, u64);

fn expected(before: &BTreeMap<String, Facts>, after: &BTreeMap<String, Facts>) -> Vec<Line> {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let line = |path: &String| {
        let (old, new) = (before.get(path), after.get(path));
        let (op, bytes) = match (old, new) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) if old.kind == new.kind && old.content == new.content => {
                ("modified", 0)
            }
            (Some(old), Some(new)) if new.kind == "file" || old.kind != "file" => {
                ("modified", new.bytes)
            }
            (Some(old), Some(_)) => ("modified", old.bytes),
            (None, Some(new)) => ("added", new.bytes),
            (Some(old), None) => ("removed", old.bytes),
            (None, None) => return None,
        };
        let kind = new.or(old)?.kind;
        Some((op.to_owned(), path.clone(), kind.to_owned(), bytes))
    };
    paths.into_iter().filter_map(line).collect()
}

/// The differences, sorted by path, without those that are of links alone, and the summary.
fn listed(node: &Node, before: &str, after: &str) -> (Vec<Line>, Value) {
    let mut lines = node.json_lines(&["snapshot", "diff", before, after]);
    let summary = lines.pop().unwrap();
    assert_eq!(summary["op"], "summary");
    for op in ["added", "modified", "removed"] {
        let count = lines.iter().filter(|line| line["op"] == op).count();
        assert_eq!(summary[op], count, "{summary}");
    }
    lines.retain(|line| line["changed"] != json!(["links"]));
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let line = |line: &Value| {
        let bytes = line["bytes"].as_u64().unwrap();
        (
            text(line, "op"),
            text(line, "path"),
            text(line, "kind"),
            bytes,
        )
    };
    let mut lines: Vec<_> = lines.iter().map(line).collect();
    lines.sort_by(|a, b| a.1.cmp(&b.1));
    (lines, summary)
}

fn surveyed(node: &Node, name: &str) -> BTreeMap<String, Facts> {
    let mount = node.path("survey");
    fs::create_dir_all(&mount).unwrap();
    let target = mount.to_str().unwrap();
    node.ok(&["mount", name, target]);
    let found = survey(&mount);
    node.ok(&["umount", target]);
    found
}

#[test]
fn differences_of_random_writes_are_those_of_a_full_comparison() {
    let node = node_with_box();
    let image = surveyed(&node, "box");
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let mut all = 0;
    for seed in 1..=if long { SEQUENCES_LONG } else { SEQUENCES } {
        let live = ended(&node, "s", "kernel");
        let mut random = Random::seeded(seed + 1000);
        for _ in 0..OPERATIONS {
            // Some are not possible.
            Change::random(&mut random).apply(&live).unwrap_or(());
        }
        let snapshot = create(&node, "s", &["--name", "now"]);
        let now = surveyed(&node, "now");
        let (lines, _) = listed(&node, "box", "now");
        assert_eq!(lines, expected(&image, &now), "seed {seed}");
        let (lines, _) = listed(&node, snapshot["snapshot"].as_str().unwrap(), "box");
        assert_eq!(lines, expected(&now, &image), "seed {seed}, backwards");
        all += lines.len();
        let (lines, summary) = listed(&node, "now", "now");
        assert_eq!((lines, &summary["modified"]), (Vec::new(), &json!(0)));
        node.ok(&["rm", "s"]);
    }
    assert!(all > 100, "the writes changed hardly anything: {all}");
}

#[test]
fn each_kind_of_change_is_named() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    fs::write(at("a/new"), "12345").unwrap();
    fs::remove_file(at("a/f0")).unwrap();
    fs::set_permissions(at("a/f1"), fs::Permissions::from_mode(0o600)).unwrap();
    lsetxattr(at("a/f2"), "user.x", b"y", XattrFlags::empty()).unwrap();
    fs::remove_file(at("b/f1")).unwrap();
    symlink("elsewhere", at("b/f1")).unwrap();
    rustix::fs::rename(at("a/c/d"), at("a/c/e")).unwrap();
    fs::write(
        at("b").join(std::ffi::OsStr::from_bytes(b"bad\xff\nname")),
        "x",
    )
    .unwrap();
    create(&node, "s", &["--name", "now"]);
    let lines = node.json_lines(&["snapshot", "diff", "box", "now"]);
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).cloned();
    let expect = |path: &str, expected: Value| assert_eq!(of(path), Some(expected), "{path}");
    expect(
        "/a/new",
        json!({"op": "added", "path": "/a/new", "kind": "file", "bytes": 5}),
    );
    expect(
        "/a/f1",
        json!({"op": "modified", "path": "/a/f1", "kind": "file", "bytes": 0, "changed": ["mode"]}),
    );
    expect(
        "/a/f2",
        json!({"op": "modified", "path": "/a/f2", "kind": "file", "bytes": 0,
            "changed": ["xattrs"]}),
    );
    expect(
        "/a/c/d",
        json!({"op": "removed", "path": "/a/c/d", "kind": "directory", "bytes": 0}),
    );
    assert_eq!(of("/b/f1").unwrap()["changed"], json!(["kind"]));
    assert_eq!(of("/a/c/e/f0").unwrap()["op"], "added");
    assert_eq!(of("/a/c/d/f0").unwrap()["op"], "removed");
    assert_eq!(of("/a/c/f0"), None);
    let odd = of("/b/bad\u{fffd}\nname").unwrap();
    assert_eq!(odd["path_base64"], "L2IvYmFk/wpuYW1l");

    let text = node.ok(&["snapshot", "diff", "box", "now"]);
    for line in ["A /a/new", "D /a/f0", "M /a/f1", r#"A "/b/bad\377\nname""#] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    let stat = node.json(&["snapshot", "diff", "--stat", "box", "now"]);
    let summary = lines.last().unwrap();
    for key in [
        "added",
        "modified",
        "removed",
        "bytes_added",
        "bytes_removed",
    ] {
        assert_eq!(stat[key], summary[key], "{key}");
    }
    let stat = node.ok(&["snapshot", "diff", "--stat", "box", "now"]);
    assert_eq!(stat.lines().count(), 1, "{stat}");
}

#[test]
fn parts_are_compared_with_parts() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    // With the directories that a sandbox mounts things on.
    create(&node, "s", &["--name", "then"]);
    fs::write(live.join("a/c/f0"), "changed").unwrap();
    create(&node, "s", &["--name", "now"]);
    create(&node, "s", &["--name", "part", "--path", "/a"]);
    let paths = |before: &str, after: &str| -> Vec<String> {
        let (lines, _) = listed(&node, before, after);
        lines.into_iter().map(|line| line.1).collect()
    };
    assert_eq!(paths("then", "now"), ["/a/c/f0"]);
    assert_eq!(paths("box:latest:/a", "now:/a/"), ["/a/c/f0"]);
    assert_eq!(paths("box:/a", "part"), ["/c/f0"]);
    assert_eq!(paths("box:/a/c/f0", "now:/a/c/f0"), ["/a/c/f0"]);
    assert_eq!(paths("box:/a/c/f0", "part:/c/f0"), ["/f0"]);
    assert_eq!(paths("box:/b", "now:/b"), [""; 0]);
    // The links of a part have other first names than in the whole.
    let linked = node.json_lines(&["snapshot", "diff", "box:/a/linked", "now:/b/f0"]);
    assert_eq!(linked.len(), 1, "{linked:?}");
    for (bad, code, what) in [
        ("none", NOT_FOUND, "none"),
        ("box:/none", NOT_FOUND, "box has nothing at /none"),
        ("box:/a/f0/x", NOT_FOUND, "/a/f0/x"),
        ("box:/a/../b", USAGE, ".."),
    ] {
        for sides in [[bad, "box"], ["box", bad]] {
            let line = node.fails(code, &["snapshot", "diff", sides[0], sides[1]]);
            assert!(line.contains(what), "{line}");
        }
    }
    let both = node.output(&["snapshot", "diff", "--stat", "--patch", "box", "now"]);
    assert_eq!(both.status.code(), Some(USAGE));
}

#[test]
fn git_applies_a_patch() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    let old = fs::read_to_string(at("a/f0")).unwrap();
    fs::write(at("a/f0"), old.replace(' ', "\n")).unwrap();
    fs::write(at("a/f1"), "no newline").unwrap();
    fs::remove_file(at("a/f2")).unwrap();
    fs::write(at("a/new file"), "1\n2\n").unwrap();
    fs::write(at("a/tab\tand \"quotes\""), "x\n").unwrap();
    fs::set_permissions(at("a/c/f0"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(at("a/link")).unwrap();
    symlink("other", at("a/link")).unwrap();
    create(&node, "s", &["--name", "now"]);
    let patch = node.ok(&["snapshot", "diff", "--patch", "box:/a", "now:/a"]);
    let mount = node.empty("mount");
    let target = mount.to_str().unwrap();
    node.ok(&["mount", "box", target]);
    let copy = node.path("copy");
    let copied = Command::new("cp").arg("-a").args([&mount, &copy]).status();
    assert!(copied.unwrap().success());
    node.ok(&["umount", target]);
    let mut git = Command::new("git")
        .args(["apply", "-p1", "-"])
        .current_dir(&copy)
        .stdin(Stdio::piped())
        .spawn()
        .expect("git is installed");
    git.stdin
        .take()
        .unwrap()
        .write_all(patch.as_bytes())
        .unwrap();
    assert!(git.wait().unwrap().success(), "{patch}");
    let [mut patched, mut now] = [&copy, &live].map(|root| survey(&root.join("a")));
    for facts in patched.values_mut().chain(now.values_mut()) {
        // git sets no times; directories change with what is in them.
        facts.attributes.clear();
    }
    assert_eq!(patched, now);

    fs::write(at("a/f0"), b"\0").unwrap();
    create(&node, "s", &["--name", "binary"]);
    let patch = node.ok(&["snapshot", "diff", "-p", "box:/a/f0", "binary:/a/f0"]);
    assert!(
        patch.contains("\nBinary files a/a/f0 and b/a/f0 differ\n"),
        "{patch}"
    );
}

#[test]
fn a_tree_that_is_damaged_is_an_error_and_no_difference() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("a/c/d/f0"), "changed").unwrap();
    create(&node, "s", &["--name", "now"]);
    let other = Node::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(node.path("root/store"))
        .arg(other.path("store"))
        .status();
    assert!(copied.unwrap().success());
    for pack in fs::read_dir(other.path("store/trees")).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // The first frame starts after eight bytes.
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let store = format!("file://{}", other.path("store").display());
    let line = other.fails(12, &["--store", &store, "snapshot", "diff", "box", "now"]);
    assert!(line.contains("corrupt"), "{line}");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let node = node_with_box();
    ended(&node, "s", "kernel");
    // All that the image has is added to an empty directory.
    let live = node.path("root/sandboxes/s/rootfs");
    fs::create_dir(live.join("empty")).unwrap();
    create(&node, "s", &["--name", "now"]);
    let mut command = node.command(&["snapshot", "diff", "now:/empty", "now"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut output = BufReader::with_capacity(16, child.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    drop(output);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(first.starts_with(['A', 'M']), "{first}");
}
