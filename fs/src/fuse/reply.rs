//! Plain values as `fuser` wants them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyXattr};
use nacre_blobstore::{Device, Timestamp};

use crate::{Attr, FsError, Kind};

/// What stat(2) recommends as the unit of reading, in bytes.
const READ_UNIT_BYTES: u32 = 4096;

pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Read(source) => tracing::warn!(error = %source, "answer a request with an error"),
        FsError::Stale(ino) => tracing::warn!(ino, "the kernel names an unknown inode"),
        _ => {}
    }
    Errno::from_i32(error.errno().raw_os_error())
}

pub(super) const fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let mtime = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size_bytes,
        blocks: attr.blocks,
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device.map_or(0, encode_device),
        blksize: READ_UNIT_BYTES,
        flags: 0,
    }
}

/// Returns the attributes that mean "there is no such entry" for as long as the reply says.
pub(super) fn absent() -> FileAttr {
    dot(0)
}

/// Returns attributes that the kernel does not look at, with an inode number.
pub(super) fn dot(ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// Replies as getxattr(2) does: the length alone for `size` 0, `ERANGE` when it does not fit.
pub(super) fn xattr(value: Result<Vec<u8>, FsError>, size: u32, reply: ReplyXattr) {
    match value.map(|value| (u32::try_from(value.len()), value)) {
        Ok((Ok(len), _)) if size == 0 => reply.size(len),
        Ok((Ok(len), value)) if len <= size => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(error) => reply.error(errno(&error)),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
    whole
        .and_then(|whole| whole.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}

/// Encodes a device number in the 32 bits of the FUSE protocol (Linux's `new_encode_dev`), which
/// hold 12 bits of major and 20 of minor; no device on Linux has more.
fn encode_device(device: Device) -> u32 {
    let (major, minor) = (device.major & 0xfff, device.minor & 0xf_ffff);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_at_the_ends_are_kept() {
        for seconds in [i64::MIN, -1, 0, 1, i64::MAX] {
            let time = system_time(Timestamp {
                seconds,
                nanoseconds: 5,
            });
            let expected = i128::from(seconds) * 1_000_000_000 + 5;
            let nanoseconds = |d: Duration| i128::try_from(d.as_nanos()).unwrap();
            let actual = match time.duration_since(UNIX_EPOCH) {
                Ok(after) => nanoseconds(after),
                Err(before) => -nanoseconds(before.duration()),
            };
            assert_eq!(actual, expected, "{seconds}");
        }
    }

    #[test]
    fn device_numbers_are_encoded_as_linux_does() {
        assert_eq!(encode_device(Device { major: 1, minor: 3 }), 0x103);
        assert_eq!(
            encode_device(Device {
                major: 0xabc,
                minor: 0xdef12
            }),
            0xdefa_bc12
        );
    }
}
