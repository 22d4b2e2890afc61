//! Files that change while a snapshot is made are cloned where the file system can do that. Needs
//! loop devices, mkfs.btrfs and mkfs.xfs beside what snapshots need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::node::{Node, pause};
use crate::snapshots::{add_box, assert_shows, create, rootfs};

/// The smallest that both file systems take.
const DISK_BYTES: u64 = 512 << 20;
/// Large enough to be cloned.
const FILE_BYTES: usize = 4 << 20;
/// Snapshots after each of which a file must have been cloned at least once.
const ATTEMPTS: usize = 20;

/// A file system in a file, mounted.
struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new(kind: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image)
            .and_then(|file| file.set_len(DISK_BYTES))
            .unwrap();
        fs::create_dir(directory.path().join("mounted")).unwrap();
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        let disk = Self { directory };
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &disk.path()]));
        disk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).output());
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn what_was_written_just_before_a_snapshot_is_in_it() {
    for kind in ["btrfs", "xfs"] {
        let disk = Disk::new(kind);
        let node = Node::below(&disk.path());
        add_box(&node);
        node.ok(&["run", "-d", "--name", "s", "box", "sleep", "1000"]);
        let live = rootfs(&node, "s");
        // What the runtime made.
        let first = create(&node, "s", &[]);
        let count = |snapshot: &Value, key: &str| snapshot[key].as_u64().unwrap();
        let mut cloned = 0;
        for attempt in 0..ATTEMPTS {
            // In place of a file of the image, under two names, and with the bytes of another one.
            let bytes = vec![u8::try_from(attempt / 2).unwrap(); FILE_BYTES];
            fs::write(live.join("a/large"), &bytes).unwrap();
            if attempt == 0 {
                fs::hard_link(live.join("a/large"), live.join("b/linked-large")).unwrap();
                fs::write(live.join("copy"), &bytes).unwrap();
            }
            let snapshot = create(&node, "s", &[]);
            let what = format!("{kind}, attempt {attempt}");
            assert_shows(&node, &snapshot, &live, &what);
            cloned += count(&snapshot, "cloned");
            // Whichever way the bytes were read.
            let more = |key| count(&snapshot, key) - count(&first, key);
            assert_eq!(more("added"), 2, "{what}");
            assert_eq!(more("bytes_changed"), 3 * FILE_BYTES as u64, "{what}");
            let again = create(&node, "s", &[]);
            assert_eq!(again["unchanged"], true, "{what}");
        }
        assert!(cloned > 0, "{kind}");
        // Nothing is left beside the upper directory.
        let mut names: Vec<_> = fs::read_dir(live.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name.starts_with('.') || name.contains("clone"));
        assert_eq!(names, Vec::<String>::new());
        node.ok(&["rm", "-f", "s"]);
        node.fsck();
    }
}

#[test]
fn a_file_that_is_written_all_the_time_is_captured_as_it_was_at_one_moment() {
    for kind in ["btrfs", "xfs"] {
        let disk = Disk::new(kind);
        let node = Node::below(&disk.path());
        add_box(&node);
        // Each round puts the next number over all lines of the last, whole lines at a time.
        let script = "i=1000; while true; do i=$((i+1)); \
                      busybox yes $i | busybox head -c 4194300 | \
                      busybox dd of=/big bs=5000 iflag=fullblock conv=notrunc 2>/dev/null; done";
        node.ok(&["run", "-d", "--name", "s", "box", "sh", "-c", script]);
        let live = rootfs(&node, "s");
        while fs::metadata(live.join("big")).map_or(0, |m| m.len()) < 4_194_300 {
            pause();
        }
        let mut cloned = 0;
        for attempt in 0..ATTEMPTS {
            let snapshot = create(&node, "s", &[]);
            cloned += snapshot["cloned"].as_u64().unwrap();
            let mount = node.path("mount");
            fs::create_dir_all(&mount).unwrap();
            let id = snapshot["snapshot"].as_str().unwrap();
            node.ok(&["mount", id, mount.to_str().unwrap()]);
            let changes = changes(&mount.join("big"));
            node.umount(mount.to_str().unwrap());
            assert!(changes <= 1, "{kind}, attempt {attempt}: {changes} changes");
        }
        assert!(cloned > 0, "{kind}");
        node.ok(&["rm", "-f", "s"]);
    }
}

/// Counts the lines that are not as the one before.
fn changes(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    lines.windows(2).filter(|pair| pair[0] != pair[1]).count()
}
