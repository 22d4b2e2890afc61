//! `nacre snapshot export` makes images that others unpack to what the snapshot shows, and that come
//! back as the same trees. Needs root, FUSE, runc, a static busybox, umoci, skopeo and docker-registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FileType, XattrFlags, lsetxattr, makedev, mknodat};
use serde_json::{Value, json};

use crate::compare::{Exceptions, compare};
use crate::layout::blob_path;
use crate::node::Node;
use crate::registry::Registry;
use crate::snapshots::{create, ended, node_with_box};
use crate::writes::{Change, Random};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 10;
const SEQUENCES: u64 = 6;
const SEQUENCES_LONG: u64 = 60;
const OPERATIONS: usize = 40;

/// The layout that the image `box` came from.
fn source(node: &Node) -> String {
    format!("oci:{}:v1", node.path("layout").display())
}

fn export(node: &Node, name: &str, to: &str, more: &[&str]) -> Value {
    node.json(&[&["snapshot", "export", name, to], more].concat())
}

/// Exports a snapshot of `box` to a new layout, and adds that as an image.
fn round_trip(node: &Node, name: &str, more: &[&str]) -> (Value, Value) {
    let layout = node.path("exported");
    fs::remove_dir_all(&layout).unwrap_or(());
    let to = format!("oci:{}:out", layout.display());
    let exported = export(node, name, &to, more);
    let added = node.json(&["image", "add", &to, "--name", "back"]);
    (exported, added)
}

/// All differences, but of which names are links: groups have other names in a snapshot.
fn differences(node: &Node, before: &str, after: &str) -> Vec<Value> {
    let mut lines = node.json_lines(&["snapshot", "diff", before, after]);
    lines.pop();
    lines.retain(|line| line["changed"] != json!(["links"]));
    lines
}

/// Compares what umoci unpacks with what nacre mounts.
fn assert_umoci_agrees(node: &Node, image: &str, name: &str, what: &str) {
    let bundle = node.path("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image", image])
        .arg(&bundle)
        .output()
        .expect("umoci is installed");
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mount = node.path("mount");
    fs::create_dir_all(&mount).unwrap();
    let target = mount.to_str().unwrap();
    node.ok(&["mount", name, target]);
    let found = compare(&bundle.join("rootfs"), &mount, &Exceptions::default()).unwrap();
    node.ok(&["umount", target]);
    fs::remove_dir_all(&bundle).unwrap();
    found.assert_equal(what);
}

#[test]
fn random_writes_come_back_from_an_exported_image() {
    let node = node_with_box();
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let source = source(&node);
    for seed in 1..=if long { SEQUENCES_LONG } else { SEQUENCES } {
        let live = ended(&node, "s", "kernel");
        let mut random = Random::seeded(seed + 2000);
        let mut log = vec![format!("seed {seed}")];
        for _ in 0..OPERATIONS {
            let change = Change::random(&mut random);
            let done = change.apply(&live);
            log.push(format!("{change:.100?} -> {done:?}"));
        }
        let what = log.join("\n");
        create(&node, "s", &["--name", "now"]);
        let compression = ["gzip", "zstd"][random.below(2)];
        let more = ["--from", &source, "--compression", compression];
        let (exported, _) = round_trip(&node, "now", &more);
        assert_eq!(exported["layers"], 2, "{what}");
        assert_eq!(
            differences(&node, "now", "back"),
            [] as [Value; 0],
            "{what}"
        );
        let image = format!("{}:out", node.path("exported").display());
        // umoci of this machine may not read zstd.
        if compression == "gzip" {
            assert_umoci_agrees(&node, &image, "now", &what);
        }
        let (flat, _) = round_trip(&node, "now", &["--flat"]);
        assert_eq!(flat["layers"], 1, "{what}");
        assert_eq!(
            differences(&node, "now", "back"),
            [] as [Value; 0],
            "{what}"
        );
        assert_umoci_agrees(&node, &image, "now", &format!("flat, {what}"));
        node.ok(&["rm", "s"]);
    }
}

#[test]
fn an_exported_image_has_the_tree_of_its_snapshot() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    let at = |path: &str| live.join(path);
    fs::write(at("a/f0"), "changed").unwrap();
    fs::remove_file(at("a/f1")).unwrap();
    fs::remove_dir_all(at("a/c")).unwrap();
    fs::write(at("a/c"), "a file now").unwrap();
    fs::remove_file(at("b/f1")).unwrap();
    fs::create_dir(at("b/f1")).unwrap();
    fs::write(at("b/f1/below"), "").unwrap();
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(250));
    fs::create_dir(at("b").join("d".repeat(200))).unwrap();
    fs::write(at("b").join(long), "long").unwrap();
    fs::write(at("b/caf\u{e9}\n"), "odd").unwrap();
    fs::set_permissions(at("b/f2"), fs::Permissions::from_mode(0o4711)).unwrap();
    lsetxattr(at("b"), "user.x", b"\0=\n", XattrFlags::empty()).unwrap();
    let node_at = |path: &str, kind, device| {
        mknodat(rustix::fs::CWD, at(path), kind, 0o640.into(), device).unwrap();
    };
    node_at("fifo", FileType::Fifo, 0);
    node_at("null", FileType::CharacterDevice, makedev(1, 3));
    let hole = fs::File::create(at("hole")).unwrap();
    hole.set_len(3 << 20).unwrap();
    let snapshot = create(&node, "s", &["--name", "now"]);
    let (exported, added) = round_trip(&node, "now", &["--from", &source(&node)]);
    assert_eq!(added["tree"], snapshot["tree"]);
    assert!(exported["bytes_copied"].as_u64().unwrap() > 0);
    let image = format!("{}:out", node.path("exported").display());
    assert_umoci_agrees(&node, &image, "now", "all kinds");

    // The base's layer is untouched, and equal snapshots make equal images.
    let shown = node.json(&["image", "inspect", "back"]);
    let base = node.json(&["image", "inspect", "box"]);
    assert_eq!(shown["layers"][0]["digest"], base["layers"][0]["digest"]);
    assert_eq!(shown["config"]["config"], base["config"]["config"]);
    let (again, _) = round_trip(&node, "now", &["--from", &source(&node)]);
    assert_eq!(again["digest"], exported["digest"]);
    // What is there is not copied again.
    let to = format!("oci:{}:two", node.path("exported").display());
    let again = export(&node, "now", &to, &[]);
    assert_eq!(
        (&again["digest"], &again["bytes_copied"]),
        (&exported["digest"], &json!(0))
    );
    let left = fs::read_dir(node.path("exported")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");

    let (_, flat) = round_trip(&node, "now", &["--flat"]);
    assert_eq!(flat["tree"], snapshot["tree"]);
    let sandbox = node.ok(&["run", "--rm", "back", "sh", "-c", "cat /a/f0"]);
    assert_eq!(sandbox, "changed");
}

#[test]
fn names_of_links_that_did_not_change_stay_links() {
    let node = node_with_box();
    // Three names of one inode: /a/linked, /b/f0, /b/linked.
    let live = ended(&node, "s", "kernel");
    rustix::fs::rename(live.join("a"), live.join("moved")).unwrap();
    fs::write(live.join("one"), "1").unwrap();
    fs::hard_link(live.join("one"), live.join("b/two")).unwrap();
    create(&node, "s", &["--name", "now"]);
    let more = ["--from", &source(&node)];
    round_trip(&node, "now", &more);
    let image = format!("{}:out", node.path("exported").display());
    assert_umoci_agrees(&node, &image, "now", "links");
    let mount = node.empty("back");
    let target = mount.to_str().unwrap();
    node.ok(&["mount", "back", target]);
    let inode = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(mount.join(path)).unwrap();
        (metadata.ino(), metadata.nlink())
    };
    assert_eq!(inode("moved/linked"), inode("b/f0"));
    assert_eq!(inode("moved/linked"), inode("b/linked"));
    assert_eq!(inode("moved/linked").1, 3);
    assert_eq!(inode("one"), inode("b/two"));
    node.ok(&["umount", target]);
}

#[test]
fn exports_into_one_layout_at_a_time_all_get_their_names() {
    let node = node_with_box();
    let from = source(&node);
    let tags: Vec<String> = (0..6).map(|n| format!("t{n}")).collect();
    let children: Vec<_> = tags
        .iter()
        .map(|tag| {
            let to = format!("oci:{}:{tag}", node.path("out").display());
            let arguments = ["snapshot", "export", "box", &to, "--from", &from];
            let mut command = node.command(&arguments);
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let index = fs::read(node.path("out/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let name =
        |manifest: &Value| manifest["annotations"]["org.opencontainers.image.ref.name"].clone();
    let manifests = index["manifests"].as_array().unwrap();
    let mut names: Vec<String> = manifests
        .iter()
        .map(|manifest| name(manifest).as_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, tags);
}

#[test]
fn what_did_not_change_is_the_image_itself() {
    let node = node_with_box();
    let base = node.json(&["image", "inspect", "box"]);
    let to = format!("oci:{}:same", node.path("out").display());
    let exported = export(&node, "box", &to, &["--from", &source(&node)]);
    assert_eq!(exported["digest"], base["manifest_digest"]);
    assert_eq!(
        (&exported["layer"], &exported["layers"]),
        (&json!(null), &json!(1))
    );
}

#[test]
fn layers_that_are_nowhere_are_asked_for_before_anything_is_written() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("new"), "1").unwrap();
    create(&node, "s", &["--name", "now"]);
    let to = format!("oci:{}:x", node.path("out").display());
    let line = node.fails(NOT_FOUND, &["snapshot", "export", "now", &to]);
    assert!(line.contains("keeps no compressed layers"), "{line}");
    assert!(!node.path("out").exists());
    let base = node.json(&["image", "inspect", "box"]);
    let digest = base["layers"][0]["digest"].as_str().unwrap();
    assert!(line.contains(digest), "{line}");
    // A source that has other bytes.
    let blob = blob_path(&node.path("layout"), digest);
    let bytes = fs::read(&blob).unwrap();
    let mut bad = bytes.clone();
    bad[1000] ^= 1;
    fs::write(&blob, bad).unwrap();
    let from = source(&node);
    node.fails(12, &["snapshot", "export", "now", &to, "--from", &from]);
    assert!(!node.path("out/index.json").exists());
    assert!(!blob_path(&node.path("out"), digest).exists());
    fs::write(&blob, bytes).unwrap();
    export(&node, "now", &to, &["--from", &from]);

    for bad in [
        "dir:/x",
        "oci-archive:/x",
        "nowhere",
        "docker://h/r@sha256:00",
    ] {
        node.fails(USAGE, &["snapshot", "export", "now", bad]);
    }
    node.fails(NOT_FOUND, &["snapshot", "export", "none", &to]);
    node.ok(&["image", "rm", "box"]);
    fs::write(live.join(".wh.name"), "").unwrap();
    create(&node, "s", &["--name", "odd"]);
    let line = node.fails(FAILED, &["snapshot", "export", "odd", &to, "--flat"]);
    assert!(line.contains("/.wh.name"), "{line}");
}

#[test]
fn images_without_layers_and_parts_become_one_layer() {
    let node = node_with_box();
    let live = ended(&node, "s", "kernel");
    fs::write(live.join("a/new"), "new").unwrap();
    create(&node, "s", &["--name", "part", "--path", "/a"]);
    let (exported, _) = round_trip(&node, "part", &[]);
    assert_eq!(exported["layers"], 1);
    assert_eq!(differences(&node, "part", "back"), [] as [Value; 0]);

    let plain = node.empty("plain");
    fs::write(plain.join("file"), "1").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(plain.join("socket")).unwrap();
    let source = format!("dir:{}", plain.display());
    node.json(&["image", "add", &source, "--name", "plain"]);
    drop(socket);
    let (exported, _) = round_trip(&node, "plain", &[]);
    assert_eq!(exported["skipped"], json!(["/socket"]));
    let lines = differences(&node, "plain", "back");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

fn digest_in(registry: &Registry, image: &str) -> String {
    let output = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
        .arg(format!("docker://{}/{image}", registry.address))
        .output()
        .expect("skopeo is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_registry_is_sent_only_what_it_has_not() {
    let node = node_with_box();
    let registry = Registry::start(&node);
    let remote = |image: &str| format!("docker://{}/{image}", registry.address);
    let live = ended(&node, "s", "kernel");
    // More than one piece of an upload, and hardly to be compressed.
    let mut random = Random::seeded(5);
    let noise: Vec<u8> = (0..9 << 20)
        .map(|_| u8::try_from(random.below(256)).unwrap())
        .collect();
    fs::write(live.join("noise"), noise).unwrap();
    let snapshot = create(&node, "s", &["--name", "now"]);
    let line = node.fails(
        NOT_FOUND,
        &["snapshot", "export", "now", &remote("team/app:now")],
    );
    assert!(line.contains("not in docker://"), "{line}");
    let sent = export(
        &node,
        "now",
        &remote("team/app:now"),
        &["--from", &source(&node)],
    );
    assert!(sent["bytes_copied"].as_u64().unwrap() > 0);
    assert!(sent["bytes_layer"].as_u64().unwrap() > 9 << 20);
    assert_eq!(
        digest_in(&registry, "team/app:now"),
        sent["digest"].as_str().unwrap()
    );
    let added = node.json(&["image", "add", &remote("team/app:now"), "--name", "back"]);
    assert_eq!(added["tree"], snapshot["tree"]);

    let again = export(&node, "now", &remote("team/app:again"), &[]);
    assert_eq!(again["bytes_copied"], 0);
    // Another repository takes over what the first one has.
    let from = remote("team/app:now");
    let other = export(&node, "now", &remote("other/app:v1"), &["--from", &from]);
    assert_eq!(
        (&other["bytes_copied"], &other["digest"]),
        (&json!(0), &sent["digest"])
    );
    assert!(left_in(&node.path("root")).is_empty());
}

/// What exports left in a directory.
fn left_in(root: &Path) -> Vec<std::ffi::OsString> {
    let names = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().contains("export"))
        .collect()
}
