//! Images and snapshots that are mounted in sandboxes, at the start and later. Needs root, FUSE,
//! runc, crun and a static busybox.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::node::{Node, pause};
use crate::snapshots::{create, ended, node_with_box};

const BUSY: i32 = 11;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 10;
/// Looks for what a sandbox is about to do.
const LOOKS_MAX: u32 = 600;

/// Where the number-th mount of a sandbox is on the host.
pub(crate) fn merged(node: &Node, sandbox: &str, number: u32) -> PathBuf {
    let sandbox = node.path("root/sandboxes").join(sandbox);
    sandbox
        .join("mounts")
        .join(number.to_string())
        .join("merged")
}

/// Runs a script in a running sandbox.
pub(crate) fn sh(node: &Node, sandbox: &str, script: &str) -> String {
    node.ok(&["exec", sandbox, "sh", "-c", script])
}

/// Waits for a file that a sandbox makes in its root directory.
pub(crate) fn wait_for(node: &Node, sandbox: &str, name: &str) -> String {
    let path = node
        .path("root/sandboxes")
        .join(sandbox)
        .join("rootfs")
        .join(name);
    for _ in 0..LOOKS_MAX {
        if let Ok(text) = fs::read_to_string(&path)
            && text.ends_with('\n')
        {
            return text;
        }
        pause();
    }
    panic!("{sandbox} does not make {name}");
}

/// Makes directory snapshots of `/a` with these bytes in `/a/f`, called `one` and so on.
fn add_trees(node: &Node, trees: &[(&str, &str)]) {
    let live = ended(node, "maker", "kernel");
    for (name, text) in trees {
        fs::write(live.join("a/f"), text).unwrap();
        create(node, "maker", &["--path", "/a", "--name", name]);
    }
    node.ok(&["rm", "maker"]);
}

fn left_mounts(node: &Node, sandbox: &str) -> Vec<String> {
    let dir = node.path("root/sandboxes").join(sandbox);
    let dir = format!("{}/", dir.display());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let left = mounts.lines().filter(|line| line.contains(&dir));
    left.map(str::to_owned).collect()
}

#[test]
fn every_sandbox_sees_its_own_writes_to_a_mount_and_no_other() {
    let node = node_with_box();
    add_trees(&node, &[("tree:v1", "one\n")]);
    for mode in ["kernel", "fuse"] {
        for name in ["x", "y"] {
            node.ok(&[
                "run",
                "-d",
                "--mode",
                mode,
                "--name",
                name,
                "--mount",
                "tree:v1:/deep/er/",
                "--mount",
                "box:/img:ro",
                "box",
                "sleep",
                "1000",
            ]);
        }
        sh(&node, "x", "echo new > /deep/er/f; echo more > /deep/er/g");
        assert_eq!(
            sh(&node, "x", "busybox cat /deep/er/f /deep/er/g"),
            "new\nmore\n"
        );
        assert_eq!(sh(&node, "y", "busybox cat /deep/er/f"), "one\n");
        let script = "echo x 2>/dev/null > /img/f || echo refused; [ -d /img/bin ] && echo there";
        assert_eq!(sh(&node, "y", script), "refused\nthere\n");
        // What is mounted is no part of the sandbox's own file system.
        let snapshot = create(&node, "x", &[]);
        assert_eq!(snapshot["bytes_changed"], 0, "{snapshot}");
        for name in ["x", "y"] {
            node.ok(&["rm", "-f", name]);
            assert_eq!(left_mounts(&node, name), [] as [String; 0]);
        }
    }
    node.fsck();
}

#[test]
fn mounts_that_make_no_sense_are_refused_before_anything_starts() {
    let node = node_with_box();
    for bad in [
        "box",
        "box:a",
        "box:/",
        "box://",
        "box:/a/../b",
        "box:/./a",
        ":/a",
        "box:/:ro",
    ] {
        node.fails(USAGE, &["run", "--mount", bad, "box", "true"]);
        node.fails(USAGE, &["fork", "--mount", bad, "box", "true"]);
    }
    node.fails(
        USAGE,
        &[
            "run", "--mount", "box:/a", "--mount", "box:/a/", "box", "true",
        ],
    );
    let line = node.fails(NOT_FOUND, &["run", "--mount", "none:/a", "box", "true"]);
    assert!(line.contains("none"), "{line}");
    assert!(node.json_lines(&["ps", "-a"]).is_empty());
}

#[test]
fn forks_have_their_own_mounts() {
    let node = node_with_box();
    add_trees(&node, &[("tree", "one\n")]);
    node.ok(&[
        "fork", "box", "-n", "2", "--name", "f", "--mount", "tree:/t", "sleep", "1000",
    ]);
    sh(&node, "f-1", "echo new > /t/f");
    assert_eq!(sh(&node, "f-2", "busybox cat /t/f"), "one\n");
    for name in ["f-1", "f-2"] {
        node.ok(&["rm", "-f", name]);
    }
}

#[test]
fn a_running_sandbox_gets_swaps_and_loses_a_mount() {
    let node = node_with_box();
    add_trees(&node, &[("one", "one\n"), ("two", "two\n")]);
    for runtime in ["runc", "crun"] {
        node.ok(&[
            "run",
            "-d",
            "--runtime",
            runtime,
            "--name",
            "s",
            "box",
            "sleep",
            "1000",
        ]);
        node.ok(&["mount-into", "s", "one", "/new/place"]);
        sh(
            &node,
            "s",
            "busybox cat /new/place/f; echo mine > /new/place/mine",
        );
        let script = "exec 3< /new/place/f; cd /new/place; echo ready > /ready
            while [ ! -e /go ]; do sleep 0.05; done
            busybox cat <&3 > /seen; busybox cat ./mine /new/place/f >> /seen; echo end >> /seen";
        let mut holder = node
            .command(&["exec", "s", "sh", "-c", script])
            .spawn()
            .unwrap();
        wait_for(&node, "s", "ready");
        let swapped = node.json(&["mount-into", "s", "two", "/new/place", "--ro"]);
        assert_eq!(swapped["path"], "/new/place");
        sh(&node, "s", "echo go > /go");
        assert!(holder.wait().unwrap().success());
        // The old descriptor and working directory show the old files, a path the new ones.
        assert_eq!(
            wait_for(&node, "s", "seen"),
            "one\nmine\ntwo\nend\n",
            "{runtime}"
        );
        let script = "echo x 2>/dev/null > /new/place/f || echo refused";
        assert_eq!(sh(&node, "s", script), "refused\n");
        node.ok(&["umount-from", "s", "/new/place"]);
        assert_eq!(sh(&node, "s", "busybox ls /new/place"), "");
        node.fails(NOT_FOUND, &["umount-from", "s", "/new/place"]);
        node.fails(USAGE, &["mount-into", "s", "one", "/"]);
        node.fails(NOT_FOUND, &["mount-into", "s", "none", "/x"]);
        node.fails(NOT_FOUND, &["mount-into", "none", "one", "/x"]);
        node.ok(&["stop", "-t", "0", "s"]);
        node.fails(USAGE, &["mount-into", "s", "one", "/x"]);
        node.ok(&["rm", "s"]);
        assert_eq!(left_mounts(&node, "s"), [] as [String; 0]);
    }
}

#[test]
fn no_symlink_of_a_sandbox_leads_a_mount_out_of_it() {
    let node = node_with_box();
    add_trees(&node, &[("tree", "one\n")]);
    let host = node.empty("host");
    node.ok(&["run", "-d", "--name", "s", "box", "sleep", "1000"]);
    let escape = format!(
        "busybox ln -s /../../../../../../../..{} /evil",
        host.display()
    );
    sh(&node, "s", &escape);
    // Where it leads to is not there inside.
    let line = node.fails(1, &["mount-into", "s", "tree", "/evil/x"]);
    assert!(line.contains("/evil/x"), "{line}");
    sh(&node, "s", &format!("busybox mkdir -p {}", host.display()));
    node.ok(&["mount-into", "s", "tree", "/evil/x"]);
    let inside = format!("busybox cat {}/x/f", host.display());
    assert_eq!(sh(&node, "s", &inside), "one\n");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    // What is no directory is no place, and what is not ours is not taken away.
    sh(&node, "s", "echo x > /file");
    node.fails(1, &["mount-into", "s", "tree", "/file"]);
    node.fails(NOT_FOUND, &["umount-from", "s", "/proc"]);
    node.ok(&["umount-from", "s", "/evil/x"]);
    node.ok(&["rm", "-f", "s"]);
}

/// Takes a mount away behind nacre's back.
fn umount_inside(node: &Node, sandbox: &str, path: &str) {
    let listed = node.json(&["ps"]);
    assert_eq!(listed["sandbox"], sandbox);
    let pid = listed["pid"].to_string();
    let gone = Command::new("nsenter")
        .args(["-t", &pid, "-m", "-r", "/bin/busybox", "umount", path])
        .status();
    assert!(gone.unwrap().success());
}

#[test]
fn a_mount_that_is_recorded_and_not_there_is_replaced_or_taken_away() {
    let node = node_with_box();
    add_trees(&node, &[("one", "one\n"), ("two", "two\n")]);
    node.ok(&[
        "run", "-d", "--name", "s", "--mount", "one:/m", "box", "sleep", "1000",
    ]);
    umount_inside(&node, "s", "/m");
    node.ok(&["mount-into", "s", "two", "/m"]);
    assert_eq!(sh(&node, "s", "busybox cat /m/f"), "two\n");
    umount_inside(&node, "s", "/m");
    node.ok(&["umount-from", "s", "/m"]);
    node.fails(NOT_FOUND, &["umount-from", "s", "/m"]);
    node.ok(&["rm", "-f", "s"]);
}

#[test]
fn what_holds_another_mount_stays_until_that_is_gone() {
    let node = node_with_box();
    add_trees(&node, &[("one", "one\n"), ("two", "two\n")]);
    node.ok(&[
        "run", "-d", "--name", "s", "--mount", "two:/m/c", "--mount", "one:/m", "box", "sleep",
        "1000",
    ]);
    let both = "busybox cat /m/f /m/c/f";
    assert_eq!(sh(&node, "s", both), "one\ntwo\n");
    node.fails(BUSY, &["umount-from", "s", "/m"]);
    node.fails(BUSY, &["mount-into", "s", "two", "/m"]);
    assert_eq!(sh(&node, "s", both), "one\ntwo\n");
    let mounts = node.json(&["ps"])["mounts"].clone();
    assert_eq!(
        (&mounts[0]["path"], &mounts[1]["name"]),
        (&"/m".into(), &"two".into())
    );
    node.ok(&["umount-from", "s", "/m/c"]);
    node.ok(&["mount-into", "s", "two", "/m"]);
    assert_eq!(sh(&node, "s", "busybox cat /m/f"), "two\n");
    node.ok(&["rm", "-f", "s"]);
}

#[test]
fn gvisor_takes_mounts_at_the_start_only() {
    let node = node_with_box();
    add_trees(&node, &[("one", "one\n")]);
    let run = [
        "run",
        "--rm",
        "--runtime",
        "runsc",
        "--mount",
        "one:/m",
        "box",
    ];
    let script = "busybox cat /m/f; echo two > /m/f; busybox cat /m/f";
    let text = node.ok(&[&run[..], &["sh", "-c", script]].concat());
    assert_eq!(text, "one\ntwo\n");
    node.ok(&[
        "run",
        "-d",
        "--runtime",
        "runsc",
        "--name",
        "s",
        "box",
        "sleep",
        "1000",
    ]);
    node.fails(USAGE, &["mount-into", "s", "one", "/m"]);
    node.ok(&["rm", "-f", "s"]);
}
