//! Volumes lose no commit, and report every conflict. Needs root, FUSE, runc and a static busybox.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nacre_blobstore::CrashPoint;
use serde_json::{Value, json};

use crate::mounts::{merged, sh, wait_for};
use crate::node::{Node, pause};
use crate::snapshots::{CAPTURE_POINTS, node_with_box};

const BUSY: i32 = 11;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 10;
/// Sandboxes that commit at the same time, half of them on another node.
const WRITERS: usize = 8;
/// Commits of each.
const COMMITS: usize = 4;
/// Tries of one commit, when others are faster.
const TRIES_MAX: usize = 50;

/// Starts a sandbox with the volume at `/v` that ends at once; returns where it is on the host.
fn mounted(node: &Node, sandbox: &str, volume: &str) -> PathBuf {
    let mount = format!("{volume}:/v");
    node.ok(&["run", "--name", sandbox, "--mount", &mount, "box", "true"]);
    merged(node, sandbox, 0)
}

/// Runs a commit that is refused, and returns what it says in JSON.
fn refused(node: &Node, arguments: &[&str]) -> Value {
    let output = node.output(&[&["--json", "volume", "commit"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(BUSY), "{errors}");
    assert!(errors.starts_with("nacre: cannot commit "), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn commit(node: &Node, sandbox: &str, more: &[&str]) -> Value {
    node.json(&[&["volume", "commit", "vol", "--from", sandbox], more].concat())
}

/// Reads files of a version through a new mount.
fn shown(node: &Node, name: &str) -> Vec<(String, String)> {
    let mount = node.path("shown");
    fs::create_dir_all(&mount).unwrap();
    node.ok(&["mount", name, mount.to_str().unwrap()]);
    let files = files(&mount);
    node.ok(&["umount", mount.to_str().unwrap()]);
    files
}

fn files(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() {
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files
        .iter()
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .collect()
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let node = node_with_box();
    let made = node.json(&["volume", "create", "vol"]);
    assert_eq!(
        (&made["volume"], &made["version"]),
        (&json!("vol"), &json!(1))
    );
    assert!(shown(&node, "vol").is_empty());
    node.fails(BUSY, &["volume", "create", "vol"]);
    node.fails(BUSY, &["volume", "create", "box"]);
    for bad in ["a b", "../x", "a:/b", made["head"].as_str().unwrap()] {
        node.fails(USAGE, &["volume", "create", bad]);
    }
    let from = node.json(&["volume", "create", "tools", "--from", "box"]);
    let image = node.json(&["image", "inspect", "box"]);
    assert_eq!(from["tree"], image["tree"]);
    node.ok(&["run", "--rm", "tools", "/bin/true"]);
    let names: Vec<_> = node.json_lines(&["volume", "ls"]);
    assert_eq!(names.len(), 2);
    assert_eq!(
        node.json(&["volume", "inspect", "vol"])["head"],
        made["head"]
    );
    node.ok(&["volume", "rm", "vol"]);
    for verb in ["inspect", "log", "rm", "reload"] {
        node.fails(NOT_FOUND, &["volume", verb, "vol"]);
    }
    node.fails(NOT_FOUND, &["volume", "create", "v", "--from", "none"]);
    node.fails(NOT_FOUND, &["volume", "restore", "tools", "2"]);
    // The second one has nothing of the first.
    node.ok(&["volume", "create", "vol"]);
    assert_eq!(node.json_lines(&["volume", "log", "vol"]).len(), 1);
    node.fsck();
}

#[test]
fn commits_make_versions_and_nothing_written_makes_none() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let live = mounted(&node, "s", "vol");
    let nothing = commit(&node, "s", &[]);
    assert_eq!(
        (&nothing["unchanged"], &nothing["version"]),
        (&json!(true), &json!(1))
    );
    for number in 2..=4_u64 {
        fs::write(live.join("f"), format!("{number}")).unwrap();
        let done = commit(&node, "s", &[]);
        assert_eq!(
            (&done["unchanged"], &done["version"]),
            (&json!(false), &json!(number))
        );
        assert_eq!(done["conflict"], json!([]));
        let again = commit(&node, "s", &[]);
        assert_eq!(
            (&again["unchanged"], &again["head"]),
            (&json!(true), &done["head"])
        );
    }
    let log = node.json_lines(&["volume", "log", "vol"]);
    let numbers: Vec<_> = log.iter().map(|v| v["version"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
    for pair in log.windows(2) {
        assert_eq!(pair[0]["parent"], pair[1]["head"]);
    }
    assert_eq!(shown(&node, "vol"), pairs(&[("f", "4")]));
    // Versions outlive collection, and any of them can be mounted and restored.
    node.ok(&["store", "gc", "--hold", "0s"]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    let second = log[2]["head"].as_str().unwrap();
    assert_eq!(shown(&node, second), pairs(&[("f", "2")]));
    let restored = node.json(&["volume", "restore", "vol", "3"]);
    assert_eq!(restored["version"], 5);
    assert_eq!(shown(&node, "vol"), pairs(&[("f", "3")]));
    node.fails(NOT_FOUND, &["volume", "commit", "none", "--from", "s"]);
    node.fails(NOT_FOUND, &["volume", "commit", "vol", "--from", "none"]);
    node.fsck();
    node.ok(&["volume", "rm", "vol"]);
    node.ok(&["rm", "s"]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    assert!(!node.path("root/store/records").join(second).exists());
    let refs = fs::read_dir(node.path("root/store/refs/volume-versions"));
    let left = refs.map_or(0, |refs| {
        let empty = |entry: &fs::DirEntry| fs::read_dir(entry.path()).unwrap().count() == 0;
        refs.filter(|entry| !empty(entry.as_ref().unwrap())).count()
    });
    assert_eq!(left, 0, "versions of a volume that was removed");
}

#[test]
fn a_conflict_names_the_paths_that_both_changed_and_no_other() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let first = mounted(&node, "first", "vol");
    for name in ["both", "mine", "theirs", "same", "gone"] {
        fs::write(first.join(name), "base").unwrap();
    }
    fs::create_dir_all(first.join("d/e")).unwrap();
    fs::write(first.join("d/e/f"), "base").unwrap();
    commit(&node, "first", &[]);
    let (a, b) = (mounted(&node, "a", "vol"), mounted(&node, "b", "vol"));
    for (live, text) in [(&a, "A"), (&b, "B")] {
        fs::write(live.join("both"), text).unwrap();
        fs::write(live.join("same"), "equal").unwrap();
        let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        fs::File::open(live.join("same"))
            .unwrap()
            .set_times(time)
            .unwrap();
        fs::write(live.join("d/e/f"), text).unwrap();
    }
    fs::remove_file(a.join("gone")).unwrap();
    fs::write(b.join("gone"), "kept").unwrap();
    fs::write(a.join("theirs"), "A").unwrap();
    fs::write(b.join("mine"), "B").unwrap();
    let theirs = commit(&node, "a", &[]);
    for more in [&[][..], &["--merge"]] {
        let said = refused(&node, &[&["vol", "--from", "b"], more].concat());
        assert_eq!(said["conflict"], json!(["/both", "/d/e/f", "/gone"]));
        assert_eq!(
            (&said["head"], &said["version"]),
            (&theirs["head"], &json!(2))
        );
        assert_eq!(said["committed"], false);
    }
    assert_eq!(
        node.json(&["volume", "inspect", "vol"])["head"],
        theirs["head"]
    );
    node.fsck();
}

#[test]
fn disjoint_changes_are_merged_when_that_is_wanted() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let (a, b) = (mounted(&node, "a", "vol"), mounted(&node, "b", "vol"));
    fs::write(a.join("a"), "1").unwrap();
    fs::write(b.join("b"), "1").unwrap();
    commit(&node, "a", &[]);
    let said = refused(&node, &["vol", "--from", "b"]);
    assert_eq!(said["conflict"], json!([]));
    let done = commit(&node, "b", &["--merge"]);
    assert_eq!(
        (&done["merged"], &done["version"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(shown(&node, "vol"), pairs(&[("a", "1"), ("b", "1")]));
    // The mount still shows its own files: what others did is not undone by its next commit.
    assert_eq!(files(&b), pairs(&[("b", "1")]));
    let nothing = commit(&node, "b", &[]);
    assert_eq!(
        (&nothing["unchanged"], &nothing["version"]),
        (&json!(true), &json!(3))
    );
    fs::write(b.join("b"), "2").unwrap();
    refused(&node, &["vol", "--from", "b"]);
    commit(&node, "b", &["--merge"]);
    assert_eq!(shown(&node, "vol"), pairs(&[("a", "1"), ("b", "2")]));
    // Of what both did alike, the second needs no version.
    let (c, d) = (mounted(&node, "c", "vol"), mounted(&node, "d", "vol"));
    for live in [&c, &d] {
        fs::remove_file(live.join("a")).unwrap();
        let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        fs::File::open(live).unwrap().set_times(time).unwrap();
    }
    let gone = commit(&node, "c", &[]);
    let there = commit(&node, "d", &["--merge"]);
    assert_eq!(there["head"], gone["head"]);
    node.fsck();
}

#[test]
fn reload_shows_the_head_and_old_descriptors_stay_valid() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let writer = mounted(&node, "writer", "vol");
    fs::write(writer.join("f"), "old\n").unwrap();
    commit(&node, "writer", &[]);
    let reader = |name: &str| {
        let run = [
            "run", "-d", "--name", name, "--mount", "vol:/v", "box", "sleep", "1000",
        ];
        node.ok(&run);
    };
    reader("r");
    reader("dirty");
    sh(&node, "dirty", "echo mine > /v/mine");
    let script = "exec 3< /v/f; cd /v; echo ready > /ready
        while [ ! -e /go ]; do sleep 0.05; done
        busybox cat <&3 > /seen; busybox cat ./f /v/f >> /seen; echo end >> /seen";
    let mut holder = node
        .command(&["exec", "r", "sh", "-c", script])
        .spawn()
        .unwrap();
    wait_for(&node, "r", "ready");
    fs::write(writer.join("f"), "new\n").unwrap();
    let head = commit(&node, "writer", &[]);
    let output = node.output(&["--json", "volume", "reload", "vol"]);
    assert_eq!(output.status.code(), Some(BUSY), "one has writes");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["reloaded"][0]["sandbox"], "r");
    assert_eq!(said["reloaded"][0]["version"], 3);
    assert_eq!(said["refused"][0]["sandbox"], "dirty");
    assert_eq!(said["head"], head["head"]);
    sh(&node, "r", "echo go > /go");
    assert!(holder.wait().unwrap().success());
    assert_eq!(wait_for(&node, "r", "seen"), "old\nold\nnew\nend\n");
    assert_eq!(
        sh(&node, "dirty", "busybox cat /v/f /v/mine"),
        "old\nmine\n"
    );
    node.ok(&["volume", "reload", "vol", "--in", "dirty", "--discard"]);
    assert_eq!(
        sh(&node, "dirty", "busybox cat /v/f; busybox ls /v"),
        "new\nf\n"
    );
    // A commit from a mount that was reloaded goes on from there.
    sh(&node, "dirty", "echo more > /v/more");
    assert_eq!(commit(&node, "dirty", &[])["version"], 4);
    node.ok(&["volume", "reload", "vol"]);
    assert_eq!(sh(&node, "r", "busybox cat /v/more"), "more\n");
    node.fails(NOT_FOUND, &["volume", "reload", "vol", "--in", "writer"]);
    for name in ["r", "dirty"] {
        node.ok(&["rm", "-f", name]);
    }
    node.fsck();
}

#[test]
fn snapshots_and_forks_of_a_volume_go_their_own_ways() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let live = mounted(&node, "s", "vol");
    fs::write(live.join("f"), "1").unwrap();
    commit(&node, "s", &[]);
    let snapshot = node.json(&["volume", "snapshot", "vol", "--name", "kept"]);
    assert_eq!(snapshot["version"], 2);
    let forked = node.json(&["volume", "fork", "vol", "other"]);
    assert_eq!(
        (&forked["version"], &forked["parent"]),
        (&json!(1), &snapshot["head"])
    );
    fs::write(live.join("f"), "2").unwrap();
    commit(&node, "s", &[]);
    let other = mounted(&node, "o", "other");
    fs::write(other.join("f"), "3").unwrap();
    node.ok(&["volume", "commit", "other", "--from", "o"]);
    assert_eq!(shown(&node, "vol"), pairs(&[("f", "2")]));
    assert_eq!(shown(&node, "other"), pairs(&[("f", "3")]));
    node.ok(&["volume", "rm", "vol"]);
    node.ok(&["rm", "s"]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    node.ok(&["store", "gc", "--hold", "0s"]);
    assert_eq!(shown(&node, "kept"), pairs(&[("f", "1")]));
    assert_eq!(shown(&node, "other"), pairs(&[("f", "3")]));
    assert_eq!(
        node.json(&["snapshot", "inspect", "kept"])["kind"],
        "volume"
    );
    // A snapshot is mounted as one: there is nothing to commit to.
    node.ok(&["run", "--name", "k", "--mount", "kept:/v", "box", "true"]);
    node.fails(NOT_FOUND, &["volume", "commit", "kept", "--from", "k"]);
    node.fails(BUSY, &["volume", "fork", "other", "kept"]);
    node.fsck();
}

#[test]
fn a_volume_that_was_made_anew_takes_no_commit_of_the_old_one() {
    let node = node_with_box();
    node.ok(&["volume", "create", "vol"]);
    let live = mounted(&node, "s", "vol");
    fs::write(live.join("f"), "1").unwrap();
    node.ok(&["volume", "rm", "vol"]);
    node.fails(NOT_FOUND, &["volume", "commit", "vol", "--from", "s"]);
    node.ok(&["volume", "create", "vol"]);
    node.fails(BUSY, &["volume", "commit", "vol", "--from", "s"]);
    assert_eq!(node.json(&["volume", "inspect", "vol"])["version"], 1);
}

/// Writes and commits, until it is acknowledged; returns the version.
fn commit_until_done(node: &Node, store: &str, sandbox: &str) -> u64 {
    for _ in 0..TRIES_MAX {
        let verb = ["volume", "commit", "vol", "--merge", "--from", sandbox];
        let output = node.output(&[&["--json", "--store", store], &verb[..]].concat());
        if output.status.success() {
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(said["unchanged"], false, "{said}");
            return said["version"].as_u64().unwrap();
        }
        assert_eq!(output.status.code(), Some(BUSY), "{output:?}");
    }
    panic!("{sandbox} cannot commit");
}

#[test]
fn no_commit_of_eight_writers_on_two_nodes_is_lost() {
    let (node, other) = (node_with_box(), Node::new());
    let store = format!("file://{}", node.path("root/store").display());
    node.ok(&["volume", "create", "vol"]);
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (on, name) = ([&node, &other][number % 2], format!("w{number}"));
            let run = ["run", "--name", &name, "--mount", "vol:/v", "box", "true"];
            on.ok(&[&["--store", &store], &run[..]].concat());
            (on, name)
        })
        .collect();
    let commits = |(on, name): &(&Node, String)| {
        let live = merged(on, name, 0);
        let commit = |round| {
            fs::write(live.join(format!("{name}-{round}")), name).unwrap();
            fs::write(live.join(name), format!("{round}")).unwrap();
            commit_until_done(on, &store, name)
        };
        (0..COMMITS).map(commit).collect::<Vec<_>>()
    };
    let acknowledged: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter()
            .map(|writer| scope.spawn(|| commits(writer)))
            .collect();
        let done = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        done.collect()
    });
    let versions: BTreeSet<u64> = acknowledged.iter().copied().collect();
    let last = u64::try_from(WRITERS * COMMITS).unwrap() + 1;
    assert_eq!(
        versions,
        (2..=last).collect(),
        "each has a version of its own"
    );
    assert_eq!(acknowledged.len(), versions.len());
    let log = node.json_lines(&["volume", "log", "vol"]);
    let logged: Vec<_> = log.iter().map(|v| v["version"].as_u64().unwrap()).collect();
    assert_eq!(logged, (1..=last).rev().collect::<Vec<_>>());
    for pair in log.windows(2) {
        assert_eq!(pair[0]["parent"], pair[1]["head"]);
    }
    let mut expected = Vec::new();
    for (_, name) in &writers {
        expected.extend((0..COMMITS).map(|round| (format!("{name}-{round}"), name.clone())));
        expected.push((name.clone(), format!("{}", COMMITS - 1)));
    }
    expected.sort();
    assert_eq!(shown(&node, "vol"), expected, "no update is lost");
    for number in 0..WRITERS {
        let by = |version: &&Value| version["sandbox"] == format!("w{number}");
        assert_eq!(log.iter().filter(by).count(), COMMITS);
    }
    for name in other.json_lines(&["--store", &store, "ps", "-a"]) {
        other.ok(&["--store", &store, "rm", name["sandbox"].as_str().unwrap()]);
    }
    node.fsck();
}

#[test]
fn a_daemon_may_be_killed_at_every_point_of_a_commit() {
    let of_volumes = [CrashPoint::VersionKept, CrashPoint::RefChanged];
    for point in CAPTURE_POINTS.into_iter().chain(of_volumes) {
        let node = node_with_box();
        node.ok(&["volume", "create", "vol"]);
        let run = [
            "run", "-d", "--name", "s", "--mount", "vol:/v", "box", "sleep", "1000",
        ];
        node.ok(&run);
        // This daemon dies there, and its keeper starts one that does not.
        let mut mortal = node
            .command(&["daemon", "--takeover"])
            .env("NACRE_CRASH_AT", point.name())
            .spawn()
            .unwrap();
        while node.daemon() != i32::try_from(mortal.id()).ok() {
            pause();
        }
        let live = merged(&node, "s", 0);
        fs::write(live.join("f"), "before the crash").unwrap();
        let killed = node.output(&["volume", "commit", "vol", "--from", "s"]);
        assert_eq!(killed.status.code(), Some(1), "{point:?}: {killed:?}");
        assert!(!mortal.wait().unwrap().success(), "{point:?}");
        let made = point == CrashPoint::RefChanged;
        let head = node.json(&["volume", "inspect", "vol"]);
        assert_eq!(head["version"], if made { 2 } else { 1 }, "{point:?}");
        node.fsck();
        // Goes on from what was made, though nobody heard of it.
        fs::write(live.join("g"), "after it").unwrap();
        let done = commit(&node, "s", &[]);
        assert_eq!(done["version"], if made { 3 } else { 2 }, "{point:?}");
        let expected = pairs(&[("f", "before the crash"), ("g", "after it")]);
        assert_eq!(shown(&node, "vol"), expected, "{point:?}");
        let log = node.json_lines(&["volume", "log", "vol"]);
        assert_eq!(log.len(), if made { 3 } else { 2 }, "{point:?}");
        node.fsck();
        node.ok(&["exec", "s", "true"]);
        node.ok(&["rm", "-f", "s"]);
    }
}
