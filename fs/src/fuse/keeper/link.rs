//! The daemon's side of its keeper.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

use super::message::{Answer, Request, SessionRecord};
use super::socket::{connect_to, is_over, is_readable_within, receive, send};
use super::{KeeperError, KeeperOptions};

/// How long a keeper may take to answer; it does nothing that blocks.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Looks for the socket of a keeper that was started, and the time between two.
const START_POLLS_MAX: u32 = 500;
const START_POLL: Duration = Duration::from_millis(10);
/// Between two keepers that are started in place of lost ones.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A session as a keeper gave it.
#[derive(Debug)]
pub(in crate::fuse) struct Taken {
    pub(in crate::fuse) record: SessionRecord,
    pub(in crate::fuse) device: OwnedFd,
    socket: OwnedFd,
}

impl Taken {
    /// Asks the keeper, if there is one, for its session; `None` when there is none to go on with.
    pub(in crate::fuse) fn ask(options: &KeeperOptions) -> Option<Self> {
        let socket = connect_to(&options.socket).ok()?;
        let request = Request::Take(options.daemon.clone());
        let taken = match ask(&socket, &request, None) {
            Ok((Answer::Session(record), Some(device))) => Self {
                record,
                device,
                socket,
            },
            Ok((Answer::Empty, _)) => return None,
            Ok(_) => {
                tracing::warn!("the keeper does not give a session");
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "ask the keeper");
                return None;
            }
        };
        if is_over(taken.device.as_fd()) {
            tracing::info!("the kept session is over");
            taken.end();
            return None;
        }
        Some(taken)
    }

    /// Tells the keeper to let go of the session.
    pub(in crate::fuse) fn end(self) {
        if let Err(error) = ask(&self.socket, &Request::End, None) {
            tracing::warn!(%error, "end the keeper");
        }
    }
}

/// The connection to the keeper of this daemon's session, and what replaces a lost one. Dropping it
/// is as if the daemon had died.
#[derive(Debug)]
pub(in crate::fuse) struct Link {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    options: KeeperOptions,
    record: SessionRecord,
    device: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<Arc<OwnedFd>>,
    child: Option<Child>,
    is_closing: bool,
}

impl Link {
    /// Goes on with the keeper that gave the session.
    pub(in crate::fuse) fn resume(taken: Taken, options: KeeperOptions) -> io::Result<Self> {
        let state = State {
            socket: Some(Arc::new(taken.socket)),
            ..State::default()
        };
        Self::watch(options, taken.record, taken.device, state)
    }

    /// Has a session kept by a new keeper. One that cannot be started now is tried again for as
    /// long as the session lasts.
    pub(in crate::fuse) fn start(
        options: KeeperOptions,
        record: SessionRecord,
        device: OwnedFd,
    ) -> io::Result<Self> {
        let link = Self::watch(options, record, device, State::default())?;
        link.shared.replace();
        Ok(link)
    }

    fn watch(
        options: KeeperOptions,
        record: SessionRecord,
        device: OwnedFd,
        state: State,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            options,
            record,
            device,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let watched = Arc::clone(&shared);
        let watch = std::thread::Builder::new()
            .name("nacre-keeper".into())
            .spawn(move || watched.watch())?;
        Ok(Self {
            shared,
            watch: Some(watch),
        })
    }

    /// Returns the device number of the session's file system.
    pub(in crate::fuse) fn device(&self) -> u64 {
        self.shared.record.device
    }

    /// Leaves the session to the keeper until the next daemon takes it.
    pub(in crate::fuse) fn leave(mut self) {
        self.close(&Request::Leave);
    }

    /// Ends the keeper, for the session is over.
    pub(in crate::fuse) fn end(mut self) {
        self.close(&Request::End);
    }

    fn close(&mut self, request: &Request) {
        let mut state = self.shared.lock();
        state.is_closing = true;
        let socket = state.socket.take();
        drop(state);
        self.shared.changed.notify_all();
        if let Some(socket) = socket {
            // The watching thread waits for the connection to break; it takes no message.
            if let Err(error) = ask(&socket, request, None) {
                tracing::warn!(%error, "take leave of the keeper");
            }
            hang_up(&socket);
        }
        if let Some(watch) = self.watch.take()
            && watch.join().is_err()
        {
            tracing::error!("the keeper's watch ended in a panic");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closing = true;
        if let Some(socket) = state.socket.take() {
            hang_up(&socket);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the keeper to go, and replaces it, until the session ends.
    fn watch(&self) {
        loop {
            let socket = self.lock().socket.clone();
            if let Some(socket) = socket {
                wait_for_hang_up(&socket);
                self.lock().socket = None;
            }
            let state = self.lock();
            if state.is_closing {
                return;
            }
            let waited = self.changed.wait_timeout(state, RESTART_PAUSE);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_closing || is_over(self.device.as_fd()) {
                return;
            }
            // The first one may have been started meanwhile.
            if state.socket.is_none() {
                tracing::warn!("the keeper is gone, start another");
                drop(state);
                self.replace();
            }
        }
    }

    /// Starts a keeper and hands the session over. Why that is not possible is logged.
    fn replace(&self) {
        let mut state = self.lock();
        if let Some(mut child) = state.child.take() {
            // A keeper of this process that is gone is to be reaped; one that hangs stays.
            drop(child.try_wait());
        }
        match self.hand_over(&mut state) {
            Ok(socket) if !state.is_closing => state.socket = Some(Arc::new(socket)),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "without a keeper, mounts do not survive this daemon");
            }
        }
    }

    fn hand_over(&self, state: &mut State) -> Result<OwnedFd, KeeperError> {
        let path = &self.options.socket;
        let fail = |source| KeeperError::Socket {
            path: path.clone(),
            source,
        };
        // Whoever listened there is gone, or does not answer.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let child = start(&self.options)?;
        state.child = Some(child);
        let socket = self.wait_for_socket(state).map_err(fail)?;
        let request = Request::Put(self.record, self.options.daemon.clone());
        match ask(&socket, &request, Some(&self.device)).map_err(fail)? {
            (Answer::Done, _) => Ok(socket),
            _ => Err(KeeperError::Refused),
        }
    }

    /// Connects to the keeper that was started, as soon as it listens.
    fn wait_for_socket(&self, state: &mut State) -> io::Result<OwnedFd> {
        let nobody = io::pipe()?;
        for _ in 0..START_POLLS_MAX {
            match connect_to(&self.options.socket) {
                Ok(socket) => return Ok(socket),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(error),
            }
            if let Some(child) = &mut state.child
                && let Some(status) = child.try_wait()?
            {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            is_readable_within(&nobody.0, START_POLL)?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Wakes whoever watches a connection.
fn hang_up(socket: &OwnedFd) {
    if let Err(error) = shutdown(socket, Shutdown::Both) {
        tracing::debug!(%error, "the keeper hung up first");
    }
}

/// Waits until the other side is gone, and takes no message.
fn wait_for_hang_up(socket: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    let gone = PollFlags::HUP | PollFlags::ERR;
    loop {
        let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
        match poll(&mut polled, None) {
            Ok(_) if polled[0].revents().intersects(gone | PollFlags::RDHUP) => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "watch the keeper");
                return;
            }
        }
    }
}

fn start(options: &KeeperOptions) -> Result<Child, KeeperError> {
    let (program, arguments): (_, &[OsString]) = match options.keeper.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (OsString::new(), &[]),
    };
    let fail = |source| KeeperError::Start {
        program: program.clone(),
        source,
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&options.log);
    let log = log.map_err(fail)?;
    let errors = log.try_clone().map_err(fail)?;
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    command.spawn().map_err(fail)
}

/// Sends a request and waits for the answer.
fn ask(
    socket: &OwnedFd,
    request: &Request,
    device: Option<&OwnedFd>,
) -> io::Result<(Answer, Option<OwnedFd>)> {
    send(socket, &request.encode(), device.map(AsFd::as_fd))?;
    if !is_readable_within(socket, ANSWER_DEADLINE)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (message, device) = receive(socket)?;
    let answer = Answer::decode(&message).ok_or(io::ErrorKind::InvalidData)?;
    Ok((answer, device))
}
