//! What the gate serves becomes a plain file of the node. Needs root and FUSE.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::tar::{Entry, archive};
use crate::two_files;

/// An overlay looks again some seconds after a content is complete; later on a busy machine.
const LOOK_AGAIN_PAUSES: u32 = 160;
const ROUNDS: u32 = 6;

/// Reads a file of which no page is in memory, while the daemon is stopped; tells whether that
/// works.
fn is_read_without_daemon(node: &Node, file: &Path, expected: &[u8]) -> bool {
    let daemon = Pid::from_raw(node.daemon().unwrap()).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    let path = file.to_owned();
    let reader = std::thread::spawn(move || {
        let mut file = fs::File::open(path).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let finished = (0..20).any(|_| {
        pause();
        reader.is_finished()
    });
    kill_process(daemon, Signal::CONT).unwrap();
    assert!(reader.join().unwrap() == expected);
    finished
}

#[test]
fn a_large_file_is_the_disks_own_once_it_is_on_the_node() {
    // On a node that has nothing, for the gate to serve it.
    let is_native = |_| {
        let node = Node::new();
        node.ok(&["image", "add", &two_files::source(&node), "--name", "two"]);
        let mount = node.empty("mount");
        let target = mount.to_str().unwrap();
        node.ok(&["mount", "--mode", "kernel", "--rw", "two", target]);
        two_files::read_both(&mount);
        // Meanwhile nobody may look, for who has it open keeps it where it is.
        for _ in 0..LOOK_AGAIN_PAUSES {
            pause();
        }
        let bytes = two_files::large_bytes();
        is_read_without_daemon(&node, &mount.join("large"), &bytes)
    };
    assert!((0..ROUNDS).any(is_native));
}

/// Directories of the image, each with files.
const DIRECTORIES: usize = 400;

#[test]
fn tools_do_not_notice_that_an_overlay_looks_again() {
    let node = Node::new();
    let mut entries = Vec::new();
    for number in 0..DIRECTORIES {
        let directory = format!("t/{}/{number}/", number % 7);
        entries.push(Entry::directory(&directory));
        for file in ["a", "b"] {
            entries.push(Entry::file(&format!("{directory}{file}"), file.repeat(600)));
        }
    }
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    layout::write(&node.path("layout"), &[layer], &json!({}));
    let source = format!("oci:{}:v1", node.path("layout").display());
    node.ok(&["image", "add", &source, "--name", "many"]);
    let mount = node.empty("mount");
    let target = mount.to_str().unwrap();
    node.ok(&["mount", "--mode", "kernel", "--rw", "many", target]);

    let inode = || fs::metadata(mount.join("t/3")).unwrap().ino();
    let (before, is_over) = (inode(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Changes no option: what is left is what the daemon does, too.
                mount_remount(&mount, MountFlags::empty(), c"").unwrap();
            }
        });
        let over = Over(&is_over);
        for line in [
            "test $(find t -type f | wc -l) = 800",
            "du -s t > /dev/null; ls -lR t > /dev/null; tar -cf - t | tar -tf - > /dev/null",
            "chmod -R g+w t; chown -R 5:6 t; cp -a t u; diff -r t u",
            "test $(find u -perm -g+w -user 5 -group 6 | wc -l) = $(find t | wc -l)",
            "rm -r t; mv u t; rm -r t; test ! -e t",
        ] {
            let mut shell = Command::new("sh");
            let output = shell.args(["-ec", line]).current_dir(&mount).output();
            let output = output.unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && errors.is_empty(),
                "{line}: {errors}"
            );
            // Directories are numbered anew meanwhile, or this shows nothing.
            assert!(!mount.join("t").exists() || inode() != before);
        }
        drop(over);
    });
    node.umount(target);
}

/// Ends a loop, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
