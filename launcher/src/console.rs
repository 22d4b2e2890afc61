//! Terminals: the socket by which a runtime hands over the console, and the caller's terminal.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// Longest name of the console that a runtime sends along, in bytes.
const CONSOLE_NAME_BYTES_MAX: usize = 4096;

/// Listens for the console of one process.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    /// The directory of the socket, by which it is addressed: a socket's path is limited to 107
    /// bytes, a state directory's is not.
    dir: OwnedFd,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `NAME.sock` in `dir`.
    pub(crate) fn listen(dir: &Path, name: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = dir.join(format!("{name}.sock"));
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let address = format!("/proc/self/fd/{}/{name}.sock", dir.as_raw_fd());
        Ok(Self {
            listener: UnixListener::bind(address)?,
            dir,
            path,
        })
    }

    /// Returns the socket's address for another process.
    pub(crate) fn address(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        let own_pid = std::process::id();
        PathBuf::from(format!("/proc/{own_pid}/fd/{}", self.dir.as_raw_fd())).join(name)
    }

    /// Receives the console's master side.
    pub(crate) async fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_descriptor(&stream)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "console socket stays behind");
        }
    }
}

fn receive_descriptor(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; CONSOLE_NAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut ancillary,
        flags,
    )?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}

/// Keeps the caller's terminal in raw mode; drop gives it back as it was.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Sets raw mode; `None` when `terminal` is none.
    pub(crate) fn set(terminal: OwnedFd) -> io::Result<Option<Self>> {
        if !isatty(&terminal) {
            return Ok(None);
        }
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }

    /// Gives the console the size of the caller's terminal.
    pub(crate) fn copy_size(&self, console: &OwnedFd) -> io::Result<()> {
        Ok(tcsetwinsize(console, tcgetwinsize(&self.terminal)?)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.terminal, OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "terminal stays in raw mode");
        }
    }
}
