//! Packets with descriptors over a unix socket.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, sockopt,
};

use super::message::MESSAGE_BYTES_MAX;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

fn packet_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | flags;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Listens at `path`, which only this user may connect to. A socket that nobody listens at any
/// more is replaced.
///
/// # Errors
/// `AddrInUse` when somebody listens there.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let listener = packet_socket(SocketFlags::NONBLOCK)?;
    match bind(&listener, &address) {
        Err(Errno::ADDRINUSE) => {
            if connect_to(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
            bind(&listener, &address)?;
        }
        bound => bound?,
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Connects to whoever listens at `path`.
pub(super) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket(SocketFlags::empty())?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Accepts a connection of this user; `None` when there is none, or it is another's.
pub(super) fn accept_own(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let socket = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
        accepted => accepted?,
    };
    let peer = sockopt::socket_peercred(&socket)?;
    Ok((peer.uid == rustix::process::geteuid()).then_some(socket))
}

/// Sends one message.
pub(super) fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space is for one descriptor");
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one message and the descriptor that came with it.
///
/// # Errors
/// `UnexpectedEof` when the other side is gone, `InvalidData` for a message that is too long.
pub(super) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.truncate(received.bytes);
    message.shrink_to_fit();
    Ok((message, descriptor))
}

/// Waits until there is something to receive; `false` when it took longer than `timeout`.
pub(super) fn is_readable_within(socket: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    Ok(poll(&mut polled, Some(&timespec(timeout)))? > 0)
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Tells whether the kernel has ended the FUSE session of this descriptor: its last mount is gone,
/// or it was aborted.
pub(super) fn is_over(device: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(device, PollFlags::empty())];
    match poll(&mut polled, Some(&timespec(Duration::ZERO))) {
        Ok(_) => polled[0].revents().contains(PollFlags::ERR),
        Err(_) => false,
    }
}
