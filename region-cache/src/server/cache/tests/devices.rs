//! Disks that fail as disks do: full, with sectors that cannot be read, and with writes that never
//! arrive. They are mounted for the test, which needs root.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use rustix::fs::syncfs;

use super::faults::{damaged, on_disk};
use super::*;

/// Of file systems on loop devices. The smallest that has room for all blocks of a test.
const DEVICE_BYTES: u64 = 24 << 20;
const BLOCKS: u64 = 200;

/// A mount that is gone with this.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(arguments: &[&str], what: &Path, folder: &'a Path) -> Self {
        run(Command::new("mount").args(arguments).args([what, folder]));
        Self(folder)
    }

    fn tmpfs(folder: &'a Path, bytes: u64) -> Self {
        let options = format!("size={bytes}");
        Self::new(&["-t", "tmpfs", "-o", &options], Path::new("tmpfs"), folder)
    }

    /// An ext4 file system in the file `device`.
    fn ext4(device: &Path, folder: &'a Path) -> Self {
        File::create(device).unwrap().set_len(DEVICE_BYTES).unwrap();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-O", "^has_journal"])
            .arg(device));
        // Before Linux 6.15 only direct reads tell that the file has ended.
        let attached = run(Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(device));
        let attached = Path::new(attached.trim());
        let mount = Self::new(&[], attached, folder);
        // It goes with the mount.
        run(Command::new("losetup").arg("--detach").arg(attached));
        mount
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.0));
    }
}

/// Returns what a command prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "this needs root: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Has all that was written go to the device. Tells whether it took it.
fn sync(folder: &TempDir) -> bool {
    let file = damaged(folder, "blocks");
    file.sync_all().and_then(|()| Ok(syncfs(&file)?)).is_ok()
}

/// Reads all of the object twice, as a client that is answered from whatever there is.
async fn read_twice(lab: &Lab, name: &ObjectName, blocks: u64) {
    for _ in 0..2 {
        for block in (0..blocks).step_by(8) {
            let range = block * BLOCK_U64..(block + 8).min(blocks) * BLOCK_U64;
            let read = lab.read(name, range.clone()).await.unwrap();
            assert!(
                read == part_of(1, range),
                "wrong bytes from block {block} on"
            );
        }
        lab.landed().await;
        lab.empty_memory();
    }
}

#[tokio::test]
async fn a_full_disk_stores_less_and_serves_all() {
    let folder = TempDir::new().unwrap();
    let _mount = Mount::tmpfs(folder.path(), 2 << 20);
    // The file system has 2 MiB, the tier believes in 8.
    let lab = Lab::disk(&folder, 256);
    let name = lab.put(1, 160 * BLOCK_U64).await;
    read_twice(&lab, &name, 160).await;
    let disk = lab.cache.disk().unwrap();
    let (blocks, bad) = disk.len();
    assert!(disk.counters.unstored.load(Ordering::Relaxed) > 0);
    assert!(blocks > 16 && bad > 0, "{blocks} blocks, {bad} bad slots");
    assert!(lab.cache.metrics.tier(Tier::Disk).reads.get() > 0);
    assert_eq!(disk.counters.corrupt.load(Ordering::Relaxed), 0);
}

/// Returns where in `device` the bytes of a block are.
fn place_of(device: &Path, block: u64) -> u64 {
    let bytes = std::fs::read(device).unwrap();
    let wanted = part_of(1, block * BLOCK_U64..(block + 1) * BLOCK_U64);
    let mut pages = bytes.chunks(4096);
    let page = pages.position(|page| page == &wanted[..4096]);
    page.expect("it was written") as u64 * 4096
}

#[tokio::test]
async fn sectors_that_cannot_be_read_cost_a_fetch() {
    let (folder, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let device = place.path().join("device");
    let _mount = Mount::ext4(&device, folder.path());
    let lab = Lab::disk(&folder, BLOCKS);
    let name = on_disk(&lab, BLOCKS).await;
    assert!(sync(&folder));
    // All that the device has from the middle of this block on is an error, EIO.
    let cut = place_of(&device, BLOCKS / 2) + BLOCK_U64 / 2;
    File::options()
        .write(true)
        .open(&device)
        .unwrap()
        .set_len(cut)
        .unwrap();
    read_twice(&lab, &name, BLOCKS).await;
    let disk = lab.cache.disk().unwrap();
    let errors = disk.counters.errors.load(Ordering::Relaxed);
    // How many are there is the file system's affair.
    assert!(errors > 0, "no read failed");
    assert!(disk.len().0 > 0, "what can be read is served from there");
    // It goes on with what comes next.
    let next = lab.put(2, BLOCK_U64).await;
    assert_eq!(
        lab.read(&next, 0..BLOCK_U64).await.unwrap(),
        part_of(2, 0..BLOCK_U64)
    );
}

#[tokio::test]
async fn writes_that_never_arrive_are_no_wrong_bytes() {
    let (folder, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // The device says that it has 24 MiB, and has room for a few.
    let _room = Mount::tmpfs(place.path(), 4 << 20);
    let _mount = Mount::ext4(&place.path().join("device"), folder.path());
    let lab = Lab::disk(&folder, BLOCKS);
    let name = on_disk(&lab, BLOCKS).await;
    let disk = lab.cache.disk().unwrap();
    assert_eq!(disk.len(), (200, 0), "the page cache took all");
    assert!(!sync(&folder), "the device took all");
    read_twice(&lab, &name, BLOCKS).await;
    let lost = disk.counters.corrupt.load(Ordering::Relaxed)
        + disk.counters.errors.load(Ordering::Relaxed);
    assert!(lost > 0, "none was lost");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_passed_by_until_it_answers() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, BLOCKS);
    let name = on_disk(&lab, BLOCKS).await;
    lab.empty_memory();
    let disk = lab.cache.disk().unwrap();
    let gets = || lab.cache.metrics.origin_gets.get();
    let before = gets();
    let hanging = disk.hang().await;
    for block in 0..BLOCKS {
        let range = block * BLOCK_U64..(block + 1) * BLOCK_U64;
        assert!(lab.read(&name, range.clone()).await.unwrap() == part_of(1, range));
    }
    assert_eq!(disk.unanswered(), 1, "the first that waits is the last");
    let asked = gets();
    assert_eq!(asked, before + BLOCKS);
    drop(hanging);
    while disk.unanswered() > 0 {
        tokio::task::yield_now().await;
    }
    lab.landed().await;
    lab.empty_memory();
    let all = lab.read(&name, 0..BLOCKS * BLOCK_U64).await.unwrap();
    assert!(all == part_of(1, 0..BLOCKS * BLOCK_U64));
    assert_eq!(gets(), asked, "all is still there");
}
