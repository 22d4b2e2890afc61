//! Directories that may hold so many bytes and no more: file systems of their own.
//!
//! ```text
//! ROOT/sn/NUMBER.ext4    a file as long as the quota, with holes, that holds an ext4
//! ROOT/sn/NUMBER/        mounted there, through a loop device
//! ```
//! What is written comes from the disk that the folder is on as it is written: a quota is a limit and not
//! a reservation. The mount stays when the daemon ends; after a reboot it is made again when it is needed.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nacre_fs::mount::{Umount, umount};

use super::error::SnapshotsError;

/// What the names of the files end with.
const SUFFIX: &str = ".ext4";
/// Bytes that are kept of what a program says of its failure.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// Returns the number of a directory that a file is of.
pub(super) fn number_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)
}

/// Makes a file system of `bytes` and mounts it at the directory `at`, which is there. Blocks.
///
/// # Errors
/// [`SnapshotsError::Precondition`] where there are none, for want of loop devices or programs.
pub(super) fn make(at: &Path, bytes: u64) -> Result<(), SnapshotsError> {
    let image = image(at);
    let made = File::create_new(&image).and_then(|file| file.set_len(bytes));
    made.map_err(|error| SnapshotsError::disk("make a file for a quota", &error))?;
    // Nothing is kept for root, and as little as can be for what a crash leaves: that is removed.
    let options = [
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal,^resize_inode",
        "--",
    ];
    let mut mkfs = Command::new("mkfs.ext4");
    run(mkfs.args(options).arg(&image))?;
    mount(&image, at)
}

/// Mounts it again if it is not mounted. Does nothing for a directory without a quota. Blocks.
///
/// # Errors
/// As [`make`].
pub(super) fn ready(at: &Path) -> Result<(), SnapshotsError> {
    let image = image(at);
    if at.join("fs").exists() || !image.exists() {
        return Ok(());
    }
    mount(&image, at)
}

/// Unmounts it and removes its file. What is no such directory is left alone. Blocks.
pub(super) fn remove(at: &Path) {
    let image = image(at);
    if !image.exists() {
        return;
    }
    // It may not be mounted since the last reboot.
    drop(umount(at, Umount::Detach));
    if let Err(error) = fs::remove_file(&image) {
        tracing::warn!(path = %image.display(), %error, "the file of a quota is not removed yet");
    }
}

fn image(at: &Path) -> PathBuf {
    let mut name = at.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

fn mount(image: &Path, at: &Path) -> Result<(), SnapshotsError> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "ext4", "-o", "loop,noatime", "--"]);
    run(mount.args([image, at]))
}

fn run(command: &mut Command) -> Result<(), SnapshotsError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let fail = |reason: &str| {
        SnapshotsError::Precondition(format!("no quotas on this node: {name}: {reason}"))
    };
    let failed = |error: io::Error| fail(&error.to_string());
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.take() {
        let read = stderr
            .take(COMPLAINT_BYTES_MAX)
            .read_to_string(&mut complaint);
        read.map_err(failed)?;
    }
    match child.wait().map_err(failed)?.success() {
        true => Ok(()),
        false => Err(fail(complaint.lines().next().unwrap_or("it says nothing"))),
    }
}
