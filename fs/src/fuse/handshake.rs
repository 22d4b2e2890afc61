//! Going on with a session whose handshake another process has done.
//!
//! `fuser` begins every session by reading `FUSE_INIT`, which the kernel sends once in the life of a
//! connection. A daemon that takes a session over lets it read one from a socket instead, with the
//! flags that the first daemon and the kernel agreed on, and then puts the real descriptor in the
//! socket's place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuser::{Config, Filesystem, InitFlags, Session};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::keeper::Negotiated;
use crate::sys::replace_descriptor;

/// `FUSE_INIT`.
const OPCODE_INIT: u32 = 26;
/// `struct fuse_in_header` and `struct fuse_init_in` of the kernel's protocol, version 7.36 on.
const INIT_BYTES: u32 = 40 + 64;
/// Longest answer to `FUSE_INIT`, in bytes.
const INIT_REPLY_BYTES_MAX: usize = 4096;
/// `FUSE_NOTIFY_RESEND` as the `error` of a `struct fuse_out_header`.
const NOTIFY_RESEND: i32 = 7;
/// The length of a `struct fuse_out_header`.
const OUT_HEADER_BYTES: u32 = 16;

/// Returns a session on `device` that `filesystem` takes over from another process.
///
/// # Errors
/// Those of the sockets, and of `fuser` for flags that it does not understand.
pub(super) fn resume<F: Filesystem>(
    filesystem: F,
    device: &OwnedFd,
    negotiated: &Negotiated,
    config: Config,
) -> io::Result<Session<F>> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, &init_request(negotiated))?;
    let session = Session::from_fd(filesystem, theirs, config.acl, config)?;
    let mut reply = [0; INIT_REPLY_BYTES_MAX];
    rustix::io::read(&ours, &mut reply)?;
    replace_descriptor(session.as_fd(), device)?;
    Ok(session)
}

fn init_request(negotiated: &Negotiated) -> Vec<u8> {
    let flags = negotiated.flags | InitFlags::FUSE_INIT_EXT.bits();
    let mut request = Vec::new();
    let word = |request: &mut Vec<u8>, word: u32| request.extend(word.to_ne_bytes());
    word(&mut request, INIT_BYTES);
    word(&mut request, OPCODE_INIT);
    request.extend(1_u64.to_ne_bytes());
    // No inode, and root as who asks.
    request.extend([0; 8 + 4 * 4]);
    word(&mut request, negotiated.abi.0);
    word(&mut request, negotiated.abi.1);
    word(&mut request, negotiated.max_readahead_bytes);
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    word(&mut request, half(flags));
    word(&mut request, half(flags >> 32));
    request.resize(INIT_BYTES as usize, 0);
    request
}

/// Tells whether the kernel can be asked to send requests again, without which those that a killed
/// daemon had read would wait for ever.
pub(super) const fn can_resend(negotiated: &Negotiated) -> bool {
    negotiated.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0
}

/// Asks the kernel to send all requests again that were read and not answered.
///
/// # Errors
/// `Invalid` where the kernel cannot (before Linux 6.9).
pub(super) fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut notification = Vec::new();
    notification.extend(OUT_HEADER_BYTES.to_ne_bytes());
    notification.extend(NOTIFY_RESEND.to_ne_bytes());
    notification.extend(0_u64.to_ne_bytes());
    rustix::io::write(device, &notification)?;
    Ok(())
}
