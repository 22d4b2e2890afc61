//! The one thing that this crate does which no safe wrapper offers.

#![expect(
    unsafe_code,
    reason = "dup2(2) over a descriptor that another library owns"
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write, pipe};

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
}
