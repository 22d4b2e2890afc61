//! Waiting for a process that a runtime started, and passing signals on to it meanwhile.
//!
//! The runtimes' `create` and `exec --detach` leave the process to the nearest child subreaper
//! (prctl(2)), which the calling process makes itself: it then learns the exact status.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::attach::Attached;
use crate::error::LaunchError;

/// The signals that are passed on.
const FORWARDED: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// The calling process's signals. From here on they no longer end it.
#[derive(Debug)]
pub(crate) struct Signals {
    forwarded: Vec<(Signal, SignalStream)>,
    window: SignalStream,
}

/// What arrived.
#[derive(Debug, Clone, Copy)]
enum Arrived {
    Forward(Signal),
    WindowChange,
}

impl Signals {
    /// Starts to listen; what arrives before the process runs is passed on once it does.
    pub(crate) fn listen() -> io::Result<Self> {
        let forwarded = FORWARDED
            .into_iter()
            .map(|kind| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            forwarded,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for a signal to pass on, following window changes meanwhile.
    pub(crate) async fn forwarded(&mut self, attached: &Attached) -> Signal {
        loop {
            match self.next().await {
                Arrived::Forward(signal) => return signal,
                Arrived::WindowChange => attached.resize(),
            }
        }
    }

    async fn next(&mut self) -> Arrived {
        std::future::poll_fn(|context| {
            for (kind, stream) in &mut self.forwarded {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Arrived::Forward(*kind));
                }
            }
            self.window
                .poll_recv(context)
                .map(|_| Arrived::WindowChange)
        })
        .await
    }
}

/// Makes the calling process the parent of processes that lose theirs. Stays on.
pub(crate) fn adopt_orphans() -> Result<(), LaunchError> {
    set_child_subreaper(Some(getpid())).map_err(LaunchError::io("become", "child subreaper"))
}

/// Reads the file in which a runtime names a process.
pub(crate) fn read_pid_file(path: &Path) -> Result<Pid, LaunchError> {
    let text = std::fs::read_to_string(path).map_err(LaunchError::io("read", path))?;
    text.trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| LaunchError::Corrupt {
            path: path.to_owned(),
            reason: "not a process id".to_owned(),
        })
}

/// Waits for the end of a process if the calling process has adopted it. A zombie keeps its cgroup,
/// and runsc waits for its own processes to vanish.
pub(crate) async fn reap_adopted(pid: Pid) -> io::Result<()> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), look) {
        Err(rustix::io::Errno::CHILD) => Ok(()),
        looked => {
            looked?;
            Waited::open(pid)?.exit_code().await.map(drop)
        }
    }
}

/// A process that a runtime started.
#[derive(Debug)]
pub(crate) struct Waited {
    pidfd: AsyncFd<OwnedFd>,
}

impl Waited {
    pub(crate) fn open(pid: Pid) -> io::Result<Self> {
        Self::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
    }

    #[expect(
        deprecated,
        reason = "an OwnedFd names the same open file for as long as it lives, which is what the \
                  unsafe replacement asks for"
    )]
    pub(crate) fn new(pidfd: OwnedFd) -> io::Result<Self> {
        AsyncFd::new(pidfd).map(|pidfd| Self { pidfd })
    }

    /// Sends a signal; a process that is dead by now is no error.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Tells whether the process lives, whoever its parent is.
    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            ),
            Ok(0)
        )
    }

    /// Waits until the process is dead, whoever its parent is.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// Waits for the end of a child or an adopted process and returns its code; 128 + n when a
    /// signal ended it.
    pub(crate) async fn exit_code(&self) -> io::Result<u8> {
        self.ended().await?;
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        let status = waitid(id, WaitIdOptions::EXITED)?
            .ok_or_else(|| io::Error::other("a dead process has no status"))?;
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code & 0xff,
            (None, signal) => 128 + signal.unwrap_or_default(),
        };
        u8::try_from(code).map_err(io::Error::other)
    }

    /// As [`exit_code`](Self::exit_code), passing on signals and window changes meanwhile.
    pub(crate) async fn exit_code_forwarding(
        &self,
        signals: &mut Signals,
        attached: &Attached,
        send: impl AsyncFn(Signal) -> io::Result<()>,
    ) -> io::Result<u8> {
        loop {
            tokio::select! {
                biased;
                code = self.exit_code() => return code,
                signal = signals.forwarded(attached) => {
                    if let Err(error) = send(signal).await {
                        tracing::warn!(%error, signal = signal.as_raw(), "signal is not passed on");
                    }
                }
            }
        }
    }
}

/// Returns the number of a signal given as `TERM`, `SIGTERM` or `15`; `SIGTERM` for an empty text.
pub(crate) fn parse_signal(text: &str) -> Result<i32, LaunchError> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| signal.as_raw());
    let number = || {
        name.parse()
            .ok()
            .filter(|number| signal_of(*number).is_some())
    };
    named
        .or_else(number)
        .ok_or_else(|| LaunchError::Invalid(format!("{text:?} is not a known signal")))
}

/// Returns the signal with this number.
pub(crate) fn signal_of(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// The signals that images name; the empty name is the default's.
const NAMES: [(&str, Signal); 10] = [
    ("", Signal::TERM),
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("ABRT", Signal::ABORT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("", 15),
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("WINCH", 28),
            ("9", 9),
            ("10", 10),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["SIGNOPE", "0", "-1", "99", "RTMIN+3"] {
            parse_signal(text).unwrap_err();
        }
    }
}
