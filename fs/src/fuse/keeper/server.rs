//! The keeper's own process.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nacre_blobstore::Clock;
use rustix::event::{PollFd, PollFlags, poll};

use super::KeeperError;
use super::message::{Answer, Request, SessionRecord};
use super::socket::{accept_own, is_over, listen_at, receive, send, timespec};

/// Connections at once; further ones are closed.
const CONNECTIONS_MAX: usize = 8;
/// Daemons started in a minute. A daemon that ends as soon as it starts is not worth more.
const RESTARTS_PER_MINUTE_MAX: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Between two looks at a daemon that was started and has not connected yet.
const RESTART_POLL: Duration = Duration::from_millis(100);
/// Between two starts without a daemon that connected.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long a started daemon may take to connect before another is started.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a session that a daemon serves. The descriptor is not waited for: that
/// would wake this process at every request.
const SESSION_POLL: Duration = Duration::from_secs(5);
/// How long a keeper without a session waits for one.
const EMPTY_DEADLINE: Duration = Duration::from_secs(30);

/// A session and the daemon for it.
#[derive(Debug)]
struct Kept {
    record: SessionRecord,
    device: OwnedFd,
    command: Vec<OsString>,
}

/// Who serves the session.
#[derive(Debug)]
enum Server {
    /// The daemon on this connection.
    Daemon(OwnedFd),
    /// Nobody, as intended.
    Left,
    /// Nobody since the daemon died; the time is when a new one was started.
    Lost(Option<Duration>),
    /// Nobody ever again: the session is over.
    Ended,
}

/// Holds a FUSE session that daemons put and take at the socket `path`, until it is over. When a
/// daemon is gone without a word, starts another one. Blocks, in one thread.
///
/// # Errors
/// [`KeeperError::Socket`] when the socket cannot be made, or another keeper listens there.
pub fn keep(path: &Path, clock: &dyn Clock) -> Result<(), KeeperError> {
    let fail = |source| KeeperError::Socket {
        path: path.to_owned(),
        source,
    };
    let listener = listen_at(path).map_err(fail)?;
    let mut keeper = Keeper {
        clock,
        kept: None,
        server: Server::Left,
        strangers: Vec::new(),
        starts: VecDeque::new(),
        children: Vec::new(),
    };
    while !keeper.is_done() {
        keeper.wait(&listener).map_err(fail)?;
        if let Some(socket) = accept_own(&listener).map_err(fail)? {
            keeper.strangers.push(socket);
            let excess = keeper.strangers.len().saturating_sub(CONNECTIONS_MAX);
            keeper.strangers.drain(..excess);
        }
        keeper.hear_strangers();
        keeper.hear_daemon();
        keeper.start_lost_daemon();
    }
    // The daemon may have replaced a keeper that it took for dead: that one's socket is not ours
    // to remove, but then the next daemon finds none and starts a keeper, which is harmless.
    drop(std::fs::remove_file(path));
    Ok(())
}

struct Keeper<'a> {
    clock: &'a dyn Clock,
    kept: Option<Kept>,
    server: Server,
    /// Connections that have not put or taken the session.
    strangers: Vec<OwnedFd>,
    /// When daemons were started in the last minute.
    starts: VecDeque<Duration>,
    /// The daemons that were started and have not been reaped.
    children: Vec<Child>,
}

impl Keeper<'_> {
    fn is_done(&self) -> bool {
        match (&self.server, &self.kept) {
            (Server::Ended, _) => true,
            (_, Some(kept)) => is_over(kept.device.as_fd()),
            (_, None) => self.clock.elapsed() > EMPTY_DEADLINE && self.strangers.is_empty(),
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, listener: &OwnedFd) -> io::Result<()> {
        let of = |socket, flags| PollFd::new(socket, flags);
        let mut polled = vec![of(listener, PollFlags::IN)];
        polled.extend(self.strangers.iter().map(|s| of(s, PollFlags::IN)));
        match (&self.server, &self.kept) {
            (Server::Daemon(socket), _) => polled.push(of(socket, PollFlags::IN)),
            (_, Some(kept)) => polled.push(of(&kept.device, PollFlags::empty())),
            (_, None) => {}
        }
        let timeout = match self.server {
            Server::Daemon(_) | Server::Left | Server::Ended => SESSION_POLL,
            Server::Lost(_) => RESTART_POLL,
        };
        match poll(&mut polled, Some(&timespec(timeout))) {
            Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_strangers(&mut self) {
        for socket in std::mem::take(&mut self.strangers) {
            match receive(&socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.strangers.push(socket);
                }
                Err(_) => {}
                Ok((message, device)) => self.meet(socket, &message, device),
            }
        }
    }

    /// Answers the first message of a connection, which becomes the daemon's if it makes sense.
    fn meet(&mut self, socket: OwnedFd, message: &[u8], device: Option<OwnedFd>) {
        let answered = match (Request::decode(message), device) {
            (Some(Request::Put(record, command)), Some(device)) => {
                self.kept = Some(Kept {
                    record,
                    device,
                    command,
                });
                send(&socket, &Answer::Done.encode(), None)
            }
            (Some(Request::Take(command)), _) => match &mut self.kept {
                Some(kept) => {
                    kept.command = command;
                    let answer = Answer::Session(kept.record).encode();
                    send(&socket, &answer, Some(kept.device.as_fd()))
                }
                None => {
                    drop(send(&socket, &Answer::Empty.encode(), None));
                    return;
                }
            },
            _ => {
                tracing::warn!("refuse a message that is none");
                drop(send(&socket, &Answer::Refused.encode(), None));
                return;
            }
        };
        match answered {
            Ok(()) => self.server = Server::Daemon(socket),
            Err(error) => tracing::warn!(%error, "answer a daemon"),
        }
    }

    fn hear_daemon(&mut self) {
        let Server::Daemon(socket) = &self.server else {
            return;
        };
        let request = match receive(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::warn!(%error, "the daemon is gone");
                self.server = Server::Lost(None);
                return;
            }
            Ok((message, _)) => Request::decode(&message),
        };
        let answer = match request {
            Some(Request::Leave | Request::End) => Answer::Done,
            Some(Request::Put(..) | Request::Take(_)) | None => Answer::Refused,
        };
        if let Err(error) = send(socket, &answer.encode(), None) {
            tracing::warn!(%error, "answer the daemon");
        }
        match request {
            Some(Request::Leave) => self.server = Server::Left,
            Some(Request::End) => self.server = Server::Ended,
            Some(Request::Put(..) | Request::Take(_)) | None => {}
        }
    }

    /// Starts a daemon for a session that lost its own, unless one was started just now.
    fn start_lost_daemon(&mut self) {
        self.children
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let now = self.clock.elapsed();
        let age = |since: Duration| now.saturating_sub(since);
        let (Server::Lost(started), Some(kept)) = (&mut self.server, &self.kept) else {
            return;
        };
        let pause = if self.children.is_empty() {
            RESTART_PAUSE
        } else {
            START_DEADLINE
        };
        self.starts.retain(|start| age(*start) < MINUTE);
        if started.is_some_and(|since| age(since) < pause)
            || self.starts.len() >= RESTARTS_PER_MINUTE_MAX
            || is_over(kept.device.as_fd())
        {
            return;
        }
        *started = Some(now);
        self.starts.push_back(now);
        let Some((program, arguments)) = kept.command.split_first() else {
            return;
        };
        let mut command = Command::new(program);
        match command.args(arguments).stdin(Stdio::null()).spawn() {
            Ok(child) => {
                tracing::warn!(pid = child.id(), "start a daemon");
                self.children.push(child);
            }
            Err(error) => tracing::error!(?program, %error, "start a daemon"),
        }
    }
}
