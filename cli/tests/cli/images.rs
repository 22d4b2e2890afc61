//! Nasty images: what umoci unpacks and what nacre mounts are the same, read-only and writable.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::compare::{Exceptions, compare};
use crate::files::noise;
use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, Kind, archive};

/// Unpacks an image of a layout with umoci.
pub(crate) fn umoci_unpack(layout: &Path, tag: &str, into: &Path) {
    let image = format!("{}:{tag}", layout.display());
    let output = Command::new("umoci")
        .args(["raw", "unpack", "--image", &image])
        .arg(into)
        .output()
        .expect("umoci is installed");
    assert!(
        output.status.success(),
        "umoci: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Adds the layers as an image in every packing, and compares its mounts with umoci's files.
fn check(layers: &[Vec<u8>], except: &Exceptions) {
    let node = Node::new();
    let layout = node.path("expected-layout");
    layout::write(&layout, &pack(layers, Packing::Plain), &json!({}));
    umoci_unpack(&layout, "v1", &node.path("expected"));
    check_against(&node, layers, except);
}

fn pack(layers: &[Vec<u8>], packing: Packing) -> Vec<Layer> {
    layers.iter().map(|tar| Layer::new(tar, packing)).collect()
}

/// Adds the layers as an image in every packing, and compares its mounts with `expected`.
fn check_against(node: &Node, layers: &[Vec<u8>], except: &Exceptions) {
    let expected = node.path("expected");
    let mut trees = Vec::new();
    let packings = [
        Packing::Plain,
        Packing::Gzip,
        Packing::GzipMembers,
        Packing::Zstd,
    ];
    for packing in packings {
        let name = format!("{packing:?}").to_lowercase();
        layout::write(&node.path(&name), &pack(layers, packing), &json!({}));
        let source = format!("oci:{}:v1", node.path(&name).display());
        let added = node.json(&["image", "add", &source, "--name", &name]);
        assert_eq!(added["layers"], layers.len());
        trees.push(added["tree"].clone());
    }
    assert!(
        trees.iter().all(|tree| *tree == trees[0]),
        "packing changes the tree: {trees:?}"
    );

    let modes = [
        ("view", &["--mode", "fuse"][..]),
        ("writable-view", &["--mode", "fuse", "--rw"]),
        ("kernel", &["--mode", "kernel"]),
        ("writable-kernel", &["--mode", "kernel", "--rw"]),
    ];
    for (mode, flags) in modes {
        let target = node.empty(mode);
        let target = target.to_str().unwrap();
        node.ok(&[&["mount", "plain", target], flags].concat());
        let found = compare(&expected, Path::new(target), except).unwrap();
        found.assert_equal(mode);
        node.ok(&["umount", target]);
    }
    node.fsck();
}

#[test]
fn whiteouts_hide_what_is_below_in_any_order() {
    let base = archive(&[
        Entry::directory("./"),
        Entry::directory("./kept/"),
        Entry::file("./kept/a", "a"),
        Entry::file("./kept/b", "b"),
        Entry::directory("./opaque-first/"),
        Entry::file("./opaque-first/old", "old"),
        Entry::directory("./opaque-first/sub/"),
        Entry::file("./opaque-first/sub/old", "old"),
        Entry::directory("./opaque-last/"),
        Entry::file("./opaque-last/old", "old"),
        Entry::file("./opaque-last/both", "old"),
        Entry::directory("./gone/"),
        Entry::file("./gone/deep", "deep"),
        Entry::directory("./becomes-file/"),
        Entry::file("./becomes-file/x", "x"),
        Entry::file("./becomes-directory", "x"),
        Entry::symlink("./becomes-real", "kept"),
        Entry::file("./replaced", "old"),
        Entry::file("./again", "old"),
    ]);
    let second = archive(&[
        // The marker before the entries it does not hide, and after them.
        Entry::file("./opaque-first/.wh..wh..opq", ""),
        Entry::directory("./opaque-first/").mode(0o700),
        Entry::file("./opaque-first/new", "new"),
        Entry::directory("./opaque-last/").mode(0o750),
        Entry::file("./opaque-last/new", "new"),
        Entry::file("./opaque-last/both", "new"),
        Entry::file("./opaque-last/.wh..wh..opq", ""),
        Entry::file("./kept/.wh.a", ""),
        Entry::directory("./kept/"),
        Entry::file("./.wh.gone", ""),
        Entry::file("./.wh.never-was", ""),
        Entry::file("./becomes-file", "file"),
        Entry::directory("./becomes-directory/"),
        Entry::file("./becomes-directory/x", "x"),
        Entry::directory("./becomes-real/"),
        Entry::file("./becomes-real/x", "x"),
        Entry::file("./replaced", "new and longer"),
        Entry::file("./.wh.again", ""),
    ]);
    let third = archive(&[
        Entry::file("./again", "new"),
        Entry::directory("./gone/"),
        Entry::file("./gone/other", "other"),
        Entry::file("./opaque-last/.wh.both", ""),
        Entry::directory("./opaque-last/").mtime("1600000000.5"),
        Entry::directory("./"),
    ]);
    check(&[base, second, third], &Exceptions::default());
}

/// What stands in the metadata image itself, and what it only names.
fn small_and_large() -> [String; 2] {
    ["x".to_owned(), "large ".repeat(400)]
}

#[test]
fn hard_links_cross_layers() {
    for content in small_and_large() {
        check_hard_links(&content);
    }
}

fn check_hard_links(content: &str) {
    let base = archive(&[
        Entry::directory("dir/"),
        Entry::file("dir/first", content).mode(0o4711).owner(3, 4),
        Entry::hard_link("second", "dir/first"),
        Entry::file("alone", content),
        Entry::symlink("link", "dir/first"),
        Entry::new("pipe", Kind::Fifo),
    ]);
    let second = archive(&[
        Entry::hard_link("third", "dir/first"),
        Entry::hard_link("link-too", "link"),
        Entry::hard_link("pipe-too", "pipe"),
        Entry::file("new", "new"),
        Entry::hard_link("alone", "new"),
    ]);
    let third = archive(&[
        Entry::hard_link("dir/fourth", "third"),
        // One name goes; the others stay linked.
        Entry::file("dir/.wh.first", ""),
        Entry::directory("dir/"),
        // Takes the name out of the group.
        Entry::file("second", "apart"),
    ]);
    check(&[base, second, third], &Exceptions::default());
}

#[test]
fn attributes_are_kept() {
    for content in small_and_large() {
        check_attributes(&content);
    }
}

fn check_attributes(content: &str) {
    // cap_net_raw=ep, in the form of capabilities(7) for VFS_CAP_REVISION_2.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let base = archive(&[
        Entry::directory("./")
            .mtime("1500000000.987654321")
            .mode(0o711),
        Entry::file("ping", content)
            .mode(0o755)
            .xattr("security.capability", &capability),
        Entry::file("suid", content).mode(0o4755).owner(1000, 1001),
        Entry::file("sgid", content)
            .mode(0o2755)
            .owner(4_000_000_000, 3_999_999_999),
        Entry::directory("sticky/").mode(0o1777),
        Entry::directory("sgid-dir/").mode(0o2770).owner(0, 50),
        Entry::file("none", content).mode(0),
        Entry::file("xattrs", content)
            .xattr("user.binary", &[0, 1, 0xff, b'=', b'\n'])
            .xattr("user.long", &noise(1, 3000))
            .xattr("trusted.x", b"y"),
        Entry::directory("xattr-dir/")
            .xattr("user.on", b"directory")
            .xattr("trusted.on", b"d"),
        Entry::symlink("xattr-link", "dangling").xattr("trusted.on", b"symlink"),
        Entry::file("nanoseconds", content).mtime("1234567890.000000001"),
        Entry::file("epoch", content).mtime("0"),
        Entry::file("old", content).mtime("-86400"),
        Entry::file("older", content).mtime("-1.25"),
        Entry::file("far", content).mtime("4294967296.75"),
        Entry::symlink("link-time", "x").mtime("-5.5"),
        Entry::new("null", Kind::CharDevice(1, 3)).mode(0o666),
        Entry::new("disk", Kind::BlockDevice(259, 300))
            .mode(0o660)
            .owner(0, 6),
        Entry::new("pipe", Kind::Fifo).mode(0o622).mtime("77.5"),
        Entry::file("loses", content)
            .mode(0o4755)
            .xattr("user.gone", b"1"),
    ]);
    let second = archive(&[
        // New attributes for a directory that is there, and a file without those it had.
        Entry::directory("xattr-dir/")
            .mode(0o700)
            .mtime("1.5")
            .xattr("user.new", b"1"),
        Entry::file("loses", content),
    ]);
    check(&[base, second], &Exceptions::default());
}

#[test]
fn contents_are_kept() {
    let long = noise(7, 5 << 20);
    let zeros = vec![0; (1 << 20) + 17];
    let mut edited = long.clone();
    edited[3 << 20] ^= 0xff;
    let base = archive(&[
        Entry::file("empty", ""),
        Entry::file("empty-too", "").mode(0o600),
        Entry::file("byte", "x"),
        Entry::file("mebibyte", noise(9, 1 << 20)),
        Entry::file("long", long.clone()),
        Entry::file("long-copy", long).mode(0o755).mtime("5"),
        Entry::file("zeros", zeros),
        Entry::file("dup", "first"),
        Entry::file("dup", "second and last"),
        Entry::file("dup-dir", "was a file"),
        Entry::directory("dup-dir/"),
    ]);
    let second = archive(&[Entry::file("long", edited), Entry::file("byte", "")]);
    check(&[base, second], &Exceptions::default());
}

#[test]
fn names_are_kept() {
    let longest = "n".repeat(255);
    let deep = format!("{}/end", vec!["a-directory-of-many"; 60].join("/"));
    let mut entries = vec![
        Entry::file(&longest, "longest name"),
        Entry::symlink("to-longest", &format!("./{longest}/../{longest}")),
        Entry::hard_link("linked", &longest),
        Entry::file("\u{e9}t\u{e9} \u{1f980} \u{5343}", "precomposed"),
        Entry::file("e\u{301}te\u{301}", "decomposed"),
        Entry::file(" spaces  and\ttabs\nand lines ", "x"),
        Entry::file("-rf", "x"),
        Entry::file("back\\slash*?[x]", "x"),
        Entry::file("...", "x"),
        Entry::file("/absolute", "x"),
        Entry::file(".wh", "x"),
        Entry::file("a.wh.b", "x"),
    ];
    let mut path = String::new();
    for component in deep.split('/').take(60) {
        path = format!("{path}{component}/");
        entries.push(Entry::directory(&path));
    }
    entries.push(Entry::file(&deep, "deep"));
    check(&[archive(&entries)], &Exceptions::default());
}

#[test]
fn implied_parents_are_there() {
    let base = archive(&[Entry::file("made/up/file", "x"), Entry::directory("usr/")]);
    let second = archive(&[Entry::file("usr/lib/x", "x")]);
    // umoci gives them, and what it makes them in, the time at which it unpacks.
    let mtimes = vec!["", "made", "made/up", "usr", "usr/lib"];
    check(
        &[base, second],
        &Exceptions {
            mtimes,
            ..Exceptions::default()
        },
    );
}

/// What GNU tar packs of a tree, in each of its formats.
fn gnu_tar(tree: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(tree)
        .args(arguments)
        .args(["--sort=name", "-c", "-f", "-", "."]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn archives_of_gnu_tar_are_understood() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        cd $1; mkdir -p d/$(printf '%0200d' 1)/$(printf '%0100d' 2)
        echo x > d/$(printf '%0200d' 1)/$(printf '%0100d' 2)/f
        truncate -s 3M sparse; echo middle | dd of=sparse bs=1 seek=1500000 conv=notrunc
        echo end >> sparse; truncate -s 1M hole; echo start > holes; truncate -s 9M holes
        for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i | dd of=holes bs=1 seek=$((i*700000)) conv=notrunc; done
        echo x > $(printf 'not-\377-unicode'); ln -s $(printf '%0150d' 3) long-link
        echo x > linked; ln linked d/linked; mknod null c 1 3; mkfifo pipe
        chmod 6755 linked; chown 12345:54321 d; setfattr -n user.k -v 0x00ff0a d
        setfattr -n user.empty d
        touch -d '1950-01-02 03:04:05.6789' d/linked
    ";
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(scratch.path())
        .output();
    let status = status.unwrap();
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    for arguments in [
        &["--format=gnu", "--sparse"][..],
        &[
            "--format=pax",
            "--sparse",
            "--sparse-version=1.0",
            "--xattrs",
        ],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
    ] {
        println!("tar {arguments:?}");
        let archive = gnu_tar(scratch.path(), arguments);
        let node = Node::new();
        // umoci knows neither sparse files of the gnu format nor empty attributes.
        gnu_untar(&archive, &node.empty("expected"));
        check_against(&node, &[archive], &Exceptions::default());
    }
}

fn gnu_untar(archive: &[u8], into: &Path) {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(into)
        .args(["-x", "-p", "--same-owner", "--xattrs"]);
    let mut child = command
        .arg("--xattrs-include=*")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(child.wait().unwrap().success());
}
