//! The caller's streams, and the threads that carry bytes between them and a sandbox.
//!
//! A sandbox never gets the caller's own descriptors: it could reopen them through `/proc` with
//! other rights, and the runtimes change their owner.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes moved at once.
const PUMP_BYTES: usize = 64 << 10;

/// Stdin, stdout and stderr of whoever runs a sandbox; usually duplicates of its own.
#[derive(Debug)]
pub struct Streams {
    /// Read only when the sandbox is interactive.
    pub stdin: OwnedFd,
    /// Takes the output, all of it with a terminal.
    pub stdout: OwnedFd,
    /// Takes the errors.
    pub stderr: OwnedFd,
}

/// When a pump stops besides at the end of its source: once its [`Stop`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtStop {
    /// At once: nobody needs the rest.
    Abandon,
    /// When its source has nothing at hand: what a dead process wrote still arrives, and a
    /// background process that holds the other end open is not waited for.
    Drain,
}

/// Stops pumps when dropped.
#[derive(Debug)]
pub(crate) struct Stop(#[expect(dead_code, reason = "held for its drop")] PipeWriter);

/// What pumps watch.
#[derive(Debug)]
pub(crate) struct StopSignal(PipeReader);

impl Stop {
    pub(crate) fn new() -> io::Result<(Self, StopSignal)> {
        io::pipe().map(|(signal, stop)| (Self(stop), StopSignal(signal)))
    }
}

impl StopSignal {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

/// Carries bytes from `source` to `sink` on a thread of its own. The sink is closed at the end; if
/// the sink fails, the source is closed, so that its writer learns of it (`SIGPIPE`).
pub(crate) fn pump(
    source: impl Into<OwnedFd>,
    sink: impl Into<OwnedFd>,
    stop: StopSignal,
    at_stop: AtStop,
) -> io::Result<JoinHandle<()>> {
    let (source, sink) = (File::from(source.into()), File::from(sink.into()));
    std::thread::Builder::new()
        .name("sandbox-io".to_owned())
        .spawn(move || {
            if let Err(error) = carry(source, sink, &stop, at_stop) {
                tracing::debug!(%error, "stream ends early");
            }
        })
}

fn carry(mut source: File, mut sink: File, stop: &StopSignal, at_stop: AtStop) -> io::Result<()> {
    let mut buffer = vec![0; PUMP_BYTES];
    loop {
        let (readable, stopped) = wait(&source, stop)?;
        if stopped && (at_stop == AtStop::Abandon || !readable) {
            return Ok(());
        }
        if !readable {
            continue;
        }
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => write_all(&mut sink, &buffer[..length])?,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            // A terminal whose other side was closed by its last holder.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Writes to a descriptor that its owner may have set to non-blocking.
fn write_all(sink: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(sink, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn wait(source: &File, stop: &StopSignal) -> io::Result<(bool, bool)> {
    let mut fds = [
        PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(stop.0.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Err(Errno::INTR) => Ok((false, false)),
        polled => {
            polled?;
            Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty()))
        }
    }
}

/// Reads what a pipe holds now, up to `limit` bytes, whoever may still hold its other end.
pub(crate) fn read_at_hand(mut pipe: &PipeReader, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit];
    let mut length = 0;
    while length < limit {
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        if poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )? == 0
        {
            break;
        }
        match pipe.read(&mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_delivers_what_is_at_hand_although_the_other_end_stays_open() {
        let (source, mut held) = io::pipe().unwrap();
        let (mut delivered, sink) = io::pipe().unwrap();
        let (stop, signal) = Stop::new().unwrap();
        held.write_all(b"last words").unwrap();
        drop(stop);
        pump(source, sink, signal, AtStop::Drain)
            .unwrap()
            .join()
            .unwrap();
        let mut text = String::new();
        delivered.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    #[test]
    fn a_stopped_input_ends_although_its_source_is_silent_or_full() {
        for waiting in [&b""[..], b"typed ahead"] {
            let (source, mut held) = io::pipe().unwrap();
            let (_unread, sink) = io::pipe().unwrap();
            let (stop, signal) = Stop::new().unwrap();
            held.write_all(waiting).unwrap();
            let pump = pump(source, sink, signal, AtStop::Abandon).unwrap();
            drop(stop);
            pump.join().unwrap();
        }
    }

    #[test]
    fn a_broken_sink_closes_the_source() {
        let (source, mut writer) = io::pipe().unwrap();
        let (reader, sink) = io::pipe().unwrap();
        drop(reader);
        let (_stop, signal) = Stop::new().unwrap();
        let pump = pump(source, sink, signal, AtStop::Drain).unwrap();
        writer.write_all(b"x").unwrap();
        pump.join().unwrap();
        assert_eq!(
            writer.write_all(b"y").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
