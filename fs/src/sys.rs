//! What this crate does that no safe wrapper offers.

#![expect(
    unsafe_code,
    reason = "dup2(2) over a descriptor that another library owns, and cachestat(2)"
)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Makes the descriptor `target` refer to what `source` refers to, and closes what it referred to.
/// Its owner goes on owning the number, and must not rely on what it was.
///
/// # Errors
/// Those of dup2(2).
pub(crate) fn replace_descriptor(target: BorrowedFd<'_>, source: impl AsFd) -> io::Result<()> {
    // SAFETY: the number is open, for `target` is borrowed from its owner until this returns; and
    // it is not closed here, for `ManuallyDrop` keeps the second owner from being dropped.
    let second_owner = unsafe { OwnedFd::from_raw_fd(target.as_raw_fd()) };
    let mut second_owner = ManuallyDrop::new(second_owner);
    Ok(rustix::io::dup3(
        source,
        &mut second_owner,
        rustix::io::DupFlags::CLOEXEC,
    )?)
}

/// The number of cachestat(2), which all architectures have in common (Linux 6.5,
/// `include/uapi/asm-generic/unistd.h`).
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `include/uapi/linux/mman.h`.
#[repr(C)]
struct CachestatRange {
    offset_bytes: u64,
    /// 0: to the end.
    len_bytes: u64,
}

/// `struct cachestat` there, in pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Returns how many pages of a file are in the page cache. Brings none there.
///
/// # Errors
/// Those of cachestat(2); [`io::ErrorKind::Unsupported`] before Linux 6.5.
pub(crate) fn cached_pages(file: impl AsFd) -> io::Result<u64> {
    let range = CachestatRange {
        offset_bytes: 0,
        len_bytes: 0,
    };
    let mut stat = Cachestat::default();
    let descriptor = file.as_fd().as_raw_fd();
    let flags: libc::c_uint = 0;
    // SAFETY: the kernel reads a range and writes a result of exactly these two types, and both
    // live until it returns; the descriptor is open.
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, descriptor, &range, &mut stat, flags) };
    if answer == 0 {
        Ok(stat.cached)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write, pipe};

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn a_descriptor_means_the_other_file_and_is_closed_once() {
        let (mut reader, mut writer) = pipe().unwrap();
        let mut file = File::open("/dev/null").unwrap();
        replace_descriptor(file.as_fd(), &reader).unwrap();
        writer.write_all(b"abc").unwrap();
        let mut bytes = [0; 2];
        file.read_exact(&mut bytes).unwrap();
        drop(file);
        reader.read_exact(&mut bytes[..1]).unwrap();
        assert_eq!(&bytes, b"cb");
    }

    #[test]
    fn pages_are_counted_and_not_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        file.sync_all().unwrap();
        assert!(cached_pages(&file).unwrap() > 0);
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        for _ in 0..3 {
            assert_eq!(cached_pages(&file).unwrap(), 0);
        }
    }
}
