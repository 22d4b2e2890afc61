//! Contents and layers that several tests make.

use crate::tar::Entry;

/// Returns a program that runs in an image which has nothing else.
pub(crate) fn busybox() -> Vec<u8> {
    std::fs::read("/bin/busybox").expect("busybox-static is installed")
}

/// Bytes that neither compress nor repeat, the same for equal `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns the entries of a root file system of busybox, and of so many files `data/fNN` of noise.
pub(crate) fn box_with_files(count: u32, length: usize) -> Vec<Entry> {
    let mut entries = vec![
        Entry::directory("bin/"),
        Entry::file("bin/busybox", busybox()).mode(0o755),
        Entry::symlink("bin/sh", "busybox"),
        Entry::symlink("bin/cat", "busybox"),
        Entry::directory("data/"),
    ];
    for number in 0..count {
        let content = noise(u64::from(number), length);
        entries.push(Entry::file(&format!("data/f{number:02}"), content));
    }
    entries
}
