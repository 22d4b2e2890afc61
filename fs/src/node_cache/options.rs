//! How large the cache may become.

use std::fs::File;
use std::io;

use rustix::fs::fstatvfs;

/// Part of the file system, in percent, that the cache takes unless it is told otherwise.
const DEFAULT_PERCENT: u64 = 80;
/// Contents that the cache holds unless it is told otherwise, at 64 bytes of memory each.
const DEFAULT_FILES: u64 = 2 << 20;
/// Part of the file system that the cache leaves free, as one in this many: it shares the disk
/// with what sandboxes write.
const SPARE_SHARE: u64 = 20;

/// Limits of a [`NodeCache`](super::NodeCache).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCacheOptions {
    /// Bytes on the disk, as it counts them; by default 80 % of its file system.
    pub bytes_max: Option<u64>,
    /// Contents; by default 2 Mi, or 80 % of the inodes that its file system has. Each costs 64
    /// bytes of memory.
    pub files_max: Option<u64>,
}

impl NodeCacheOptions {
    /// Returns bytes and contents at most, for a cache on the file system of `folder`.
    pub(super) fn limits(self, folder: &File) -> io::Result<(u64, u64)> {
        let disk = Disk::of(folder)?;
        let part = |whole: u64| whole / 100 * DEFAULT_PERCENT;
        let files = match disk.files {
            // Where inodes are made as they are needed.
            0 => DEFAULT_FILES,
            files => DEFAULT_FILES.min(part(files)),
        };
        Ok((
            self.bytes_max.unwrap_or_else(|| part(disk.bytes)),
            self.files_max.unwrap_or(files),
        ))
    }
}

/// What a file system has, and how much of it is taken by whoever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    bytes: u64,
    files: u64,
    pub(super) used_bytes: u64,
    pub(super) used_files: u64,
    /// What may be taken without going below what is to stay free.
    pub(super) free_bytes: u64,
}

impl Disk {
    pub(super) fn of(folder: &File) -> io::Result<Self> {
        let disk = fstatvfs(folder)?;
        let bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        let unused = disk.f_bfree.saturating_mul(disk.f_frsize);
        Ok(Self {
            bytes,
            files: disk.f_files,
            used_bytes: bytes.saturating_sub(unused),
            used_files: disk.f_files.saturating_sub(disk.f_ffree),
            free_bytes: available.saturating_sub(bytes / SPARE_SHARE),
        })
    }
}
