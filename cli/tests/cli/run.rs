//! Sandboxes from the command line. Needs root, FUSE, runc and a static busybox.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::files::busybox;
use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, archive};

const NOT_FOUND: i32 = 10;
const BUSY: i32 = 11;

/// Adds an image `box` of busybox whose config is `config`.
fn node_with_box(config: &Value) -> Node {
    let node = Node::new();
    let mut entries = vec![
        Entry::directory("./").mode(0o711),
        Entry::directory("bin/"),
        Entry::file("bin/busybox", busybox()).mode(0o755),
        Entry::directory("etc/"),
        Entry::file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/work:/bin/sh\n",
        ),
        Entry::file("etc/group", "root:x:0:\nstaff:x:50:app\n"),
        Entry::directory("root/").mode(0o700),
        Entry::directory("tmp/").mode(0o1777),
        Entry::directory("work/").owner(1000, 1001),
        Entry::file("etc/data", "from the image\n"),
    ];
    for applet in [
        "sh", "cat", "id", "sleep", "stat", "env", "echo", "ls", "touch",
    ] {
        entries.push(Entry::symlink(&format!("bin/{applet}"), "busybox"));
    }
    let layout = node.path("layout");
    layout::write(
        &layout,
        &[Layer::new(&archive(&entries), Packing::Gzip)],
        config,
    );
    let source = format!("oci:{}:v1", layout.display());
    node.ok(&["image", "add", &source, "--name", "box"]);
    node
}

fn node_with_plain_box() -> Node {
    node_with_box(&json!({"Env": ["PATH=/bin"]}))
}

/// Runs `nacre` with `arguments`, and returns its exit code and what it prints on stdout.
fn code_and_text(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node.output(arguments);
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

fn sandboxes(node: &Node) -> Vec<Value> {
    node.json_lines(&["ps", "-a"])
}

#[test]
fn the_image_says_what_runs_and_how() {
    let script = "id -u; id -g; pwd; echo $A $B $HOME; echo \"$@\"";
    let node = node_with_box(&json!({
        "Env": ["PATH=/bin", "A=image", "B=image"],
        "User": "app",
        "WorkingDir": "/work",
        "Entrypoint": ["sh", "-c", script, "sh"],
        "Cmd": ["default", "words"],
    }));
    let text = node.ok(&["run", "box"]);
    assert_eq!(
        text,
        "1000\n1001\n/work\nimage image /work\ndefault words\n"
    );
    // A command takes the place of Cmd and leaves the entry point.
    let text = node.ok(&[
        "run", "-e", "B=flag", "-w", "/tmp", "-u", "0:50", "box", "other",
    ]);
    assert_eq!(text, "0\n50\n/tmp\nimage flag /root\nother\n");
    let mut passing_on = node.command(&["run", "-e", "B", "-e", "UNSET", "box"]);
    let output = passing_on
        .env("B", "caller")
        .env_remove("UNSET")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("image caller /work"));
}

#[test]
fn exit_codes_are_passed_on() {
    let node = node_with_plain_box();
    for code in [0, 1, 7, 10, 255] {
        let script = format!("exit {code}");
        assert_eq!(
            node.output(&["run", "--rm", "box", "sh", "-c", &script])
                .status
                .code(),
            Some(code)
        );
    }
    let killed = node.output(&["run", "--rm", "box", "sh", "-c", "kill -9 $$; sleep 5"]);
    // The init of a sandbox ignores signals from within; sleep then ends by itself.
    assert_eq!(killed.status.code(), Some(0));
    let line = node.fails(127, &["run", "--rm", "box", "no-such-command"]);
    assert!(line.contains("no-such-command"), "{line}");
    let line = node.fails(126, &["run", "--rm", "box", "/etc/passwd"]);
    assert!(line.contains("/etc/passwd"), "{line}");
    let line = node.fails(NOT_FOUND, &["run", "--rm", "no-such-image", "true"]);
    assert!(line.contains("no-such-image"), "{line}");
    assert_eq!(sandboxes(&node), [] as [Value; 0]);
}

#[test]
fn wrong_usage_is_told_apart() {
    let node = Node::new();
    for arguments in [
        &["run"][..],
        &["run", "--no-such-flag", "box"],
        &["run", "--memory", "much", "box"],
        &["no-such-verb"],
        &["image", "add"],
        &["image", "add", "nonsense"],
        &["exec", "name"],
        &["mount", "box"],
        &["--store", "nonsense:", "image", "ls"],
    ] {
        let output = node.output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

#[test]
fn a_sandbox_is_a_file_system_of_its_own() {
    let node = node_with_plain_box();
    let write = "echo changed > /etc/data; touch /new; cat /etc/data";
    assert_eq!(
        node.ok(&["run", "--name", "one", "box", "sh", "-c", write]),
        "changed\n"
    );
    let read = "cat /etc/data; ls /new 2>/dev/null; stat -c %a /";
    let text = node.ok(&["run", "--rm", "box", "sh", "-c", read]);
    assert_eq!(text, "from the image\n711\n", "the image has changed");
    let shared = node.empty("shared");
    std::fs::write(shared.join("file"), "host\n").unwrap();
    let mount = format!("{}:/mnt:ro", shared.display());
    let script = "cat /mnt/file; echo x 2>/dev/null > /mnt/file || echo refused";
    let text = node.ok(&["run", "--rm", "--mount", &mount, "box", "sh", "-c", script]);
    assert_eq!(text, "host\nrefused\n");
    node.fsck();
}

#[test]
fn stdin_is_passed_on_when_asked_for() {
    let node = node_with_plain_box();
    for (flags, expected) in [(&["-i"][..], "typed\n"), (&[], "")] {
        let arguments = [&["run", "--rm"], flags, &["box", "cat"]].concat();
        let mut command = node.command(&arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Without -i nobody reads it.
        drop(stdin.write_all(b"typed\n"));
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{flags:?}"
        );
    }
}

#[test]
fn signals_reach_the_command() {
    let node = node_with_plain_box();
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = node.command(&["run", "--rm", "box", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    assert_eq!(first, "ready\n");
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
    assert_eq!(sandboxes(&node), [] as [Value; 0]);
}

#[test]
fn a_detached_sandbox_lives_until_it_is_stopped() {
    let node = node_with_plain_box();
    let script = "trap 'exit 3' TERM; while :; do sleep 0.1; done";
    let started = node.json(&["run", "-d", "--name", "one", "box", "sh", "-c", script]);
    assert_eq!(started["sandbox"], "one");
    assert!(started["seconds_to_start"].as_f64().unwrap() > 0.0);
    let listed = node.json_lines(&["ps"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["sandbox"], &listed[0]["status"]),
        (&json!("one"), &json!("running"))
    );
    assert_eq!(listed[0]["image"], "box");
    let pid = listed[0]["pid"].as_i64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());

    node.fails(BUSY, &["rm", "one"]);
    node.fails(125, &["run", "--name", "one", "box", "true"]);
    let exec = [
        "exec", "-e", "A=1", "-w", "/tmp", "-u", "app", "one", "sh", "-c",
    ];
    let text = node.ok(&[&exec[..], &["id -u; pwd; echo $A; echo hi > /tmp/file"]].concat());
    assert_eq!(text, "1000\n/tmp\n1\n");
    assert_eq!(node.ok(&["exec", "one", "cat", "/tmp/file"]), "hi\n");
    assert_eq!(
        code_and_text(&node, &["exec", "one", "sh", "-c", "exit 9"]).0,
        Some(9)
    );
    node.fails(127, &["exec", "one", "no-such-command"]);

    node.ok(&["stop", "one"]);
    assert_eq!(node.json_lines(&["ps"]), [] as [Value; 0]);
    let ended = sandboxes(&node);
    assert_eq!(ended[0]["status"], "stopped");
    assert!(!node.output(&["exec", "one", "true"]).status.success());
    node.ok(&["rm", "one"]);
    assert_eq!(sandboxes(&node), [] as [Value; 0]);
    for verb in [&["stop", "one"][..], &["rm", "one"]] {
        let line = node.fails(NOT_FOUND, verb);
        assert!(line.contains("one"), "{line}");
    }
}

#[test]
fn rm_takes_all_of_a_sandbox_away() {
    let node = node_with_plain_box();
    node.ok(&["run", "--name", "kept", "box", "id"]);
    assert_eq!(sandboxes(&node).len(), 1);
    node.ok(&["run", "--rm", "--name", "gone", "box", "id"]);
    assert_eq!(sandboxes(&node).len(), 1);
    node.ok(&["run", "-d", "--name", "forced", "box", "sleep", "1000"]);
    node.ok(&["rm", "-f", "forced"]);
    node.ok(&["rm", "kept"]);
    assert_eq!(sandboxes(&node), [] as [Value; 0]);
    let root = node.path("root").display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&root)).collect();
    let of_daemon =
        |line: &&&str| line.contains("/root/content ") || line.contains("/erofs/mounts/");
    assert_eq!(
        left.iter().filter(of_daemon).count(),
        left.len(),
        "only the daemon's mounts stay: {left:?}"
    );
}

#[test]
fn json_has_the_keys_of_the_contract() {
    let node = node_with_plain_box();
    let target = node.empty("target");
    let target = target.to_str().unwrap();
    let again = format!("oci:{}:v1", node.path("layout").display());
    let table: &[(&[&str], &str)] = &[
        (
            &["image", "add", &again, "--name", "again"],
            "name image tree layers files bytes_compressed bytes_plain chunks_new chunks_known \
             bytes_stored seconds",
        ),
        (
            &["image", "inspect", "box"],
            "name image tree config created bytes_plain",
        ),
        (&["image", "rm", "again"], "name"),
        (
            &["image", "ls"],
            "name image tree config created bytes_plain",
        ),
        (&["mount", "box", target], "mode tree seconds"),
        (
            &["run", "-d", "--name", "s", "box", "sleep", "1000"],
            "sandbox seconds_to_start",
        ),
        (&["ps"], "sandbox image status pid created"),
        (&["stop", "-t", "0", "s"], "sandbox status"),
        (&["ps", "-a"], "sandbox image status pid created"),
        (&["rm", "s"], "sandbox"),
        (
            &["store", "stats"],
            "packs chunks bytes bytes_garbage roots",
        ),
        (
            &["store", "gc", "--dry-run"],
            "packs bytes bytes_garbage condemned held rescued deleted corrupt",
        ),
        (
            &["store", "fsck"],
            "packs chunks bytes bytes_garbage corrupt",
        ),
        (
            &["cache", "stats"],
            "page_cache_unknown node region origin waits_ms_p50 waits_ms_p99 \
             bytes_read_by_sandbox bytes_fetched contents bytes quota quota_in_force \
             quota_files evicted evicted_bytes unstored rechecked rotten region_cache",
        ),
        (&["cache", "verify"], "checked corrupt"),
        (&["cache", "prune", "--to", "1T"], "contents bytes"),
        (&["info"], "version mount_mode mount_mode_reason"),
        (&["version"], "version"),
    ];
    for (arguments, keys) in table {
        let found = node.json(arguments);
        for key in keys.split_whitespace() {
            assert!(
                found.get(key).is_some(),
                "{arguments:?} lacks {key}: {found}"
            );
        }
    }
    for tier in ["page_cache_unknown", "node", "region", "origin"] {
        let found = &node.json(&["cache", "stats"])[tier];
        assert!(
            found["reads"].is_u64() && found["bytes"].is_u64(),
            "{tier}: {found}"
        );
    }
    assert!(node.json(&["umount", target]).is_object());
}
