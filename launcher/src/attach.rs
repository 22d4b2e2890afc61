//! Connecting a process to its caller: pipes, or a terminal.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Duration;

use nacre_blobstore::Clock;
use tokio::process::Command;

use crate::console::{ConsoleSocket, RawMode};
use crate::error::LaunchError;
use crate::streams::{AtStop, Stop, Streams, pump, read_at_hand};

/// Most bytes read of what a runtime says about its failure.
const ERROR_TEXT_BYTES_MAX: usize = 16 << 10;
/// How long a runtime that reported success may take to hand over the console.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(10);

/// The host's ends of a process that is being created. The runtime shares the process's stderr, so
/// until the process starts, what arrives there is the runtime's.
#[derive(Debug)]
pub(crate) enum Wiring {
    /// Three pipes; without stdin when the process is not interactive.
    Pipes {
        stdin: Option<PipeWriter>,
        stdout: PipeReader,
        stderr: PipeReader,
    },
    /// A console to be received, and the runtime's stderr.
    Terminal {
        socket: ConsoleSocket,
        stderr: PipeReader,
    },
}

impl Wiring {
    /// Gives `command` its ends.
    pub(crate) fn pipes(command: &mut Command, interactive: bool) -> io::Result<Self> {
        let (stdout, child_stdout) = io::pipe()?;
        let (stderr, child_stderr) = io::pipe()?;
        let mut stdin = None;
        if interactive {
            let (child_stdin, writer) = io::pipe()?;
            command.stdin(child_stdin);
            stdin = Some(writer);
        }
        command.stdout(child_stdout).stderr(child_stderr);
        Ok(Self::Pipes {
            stdin,
            stdout,
            stderr,
        })
    }

    /// Tells `command` where to send the console; the socket is called `name` in `dir`.
    pub(crate) fn terminal(command: &mut Command, dir: &Path, name: &str) -> io::Result<Self> {
        let socket = ConsoleSocket::listen(dir, name)?;
        let (stderr, child_stderr) = io::pipe()?;
        command.stdout(Stdio::null()).stderr(child_stderr);
        command.arg("--console-socket").arg(socket.address());
        Ok(Self::Terminal { socket, stderr })
    }

    /// Returns what the runtime said before it failed.
    pub(crate) fn error_text(&self) -> Result<Vec<u8>, LaunchError> {
        let (Self::Pipes { stderr, .. } | Self::Terminal { stderr, .. }) = self;
        read_at_hand(stderr, ERROR_TEXT_BYTES_MAX).map_err(LaunchError::io("read", "stderr"))
    }

    /// Starts to carry bytes. Without `interactive` the caller's stdin is not touched.
    pub(crate) async fn attach(
        self,
        streams: Streams,
        interactive: bool,
        clock: &dyn Clock,
    ) -> Result<Attached, LaunchError> {
        let attach_pipes = LaunchError::io("attach streams of", "sandbox");
        match self {
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => Attached::to_pipes(streams, stdin, stdout, stderr).map_err(attach_pipes),
            Self::Terminal { socket, .. } => {
                let console = tokio::select! {
                    biased;
                    console = socket.receive() => console,
                    () = clock.sleep(CONSOLE_DEADLINE) => Err(io::ErrorKind::TimedOut.into()),
                };
                console
                    .and_then(|console| Attached::to_console(streams, console, interactive))
                    .map_err(LaunchError::io("attach terminal of", "sandbox"))
            }
        }
    }
}

/// A process whose streams are being carried.
#[derive(Debug)]
pub(crate) struct Attached {
    outputs: Vec<JoinHandle<()>>,
    /// Stops stdin as well as the outputs; see [`AtStop`].
    stop: Stop,
    terminal: Option<(RawMode, OwnedFd)>,
}

impl Attached {
    fn to_pipes(
        streams: Streams,
        stdin: Option<PipeWriter>,
        stdout: PipeReader,
        stderr: PipeReader,
    ) -> io::Result<Self> {
        let (stop, signal) = Stop::new()?;
        if let Some(stdin) = stdin {
            // Not joined: its end does not matter to anybody.
            drop(pump(
                streams.stdin,
                stdin,
                signal.try_clone()?,
                AtStop::Abandon,
            )?);
        }
        let outputs = vec![
            pump(stdout, streams.stdout, signal.try_clone()?, AtStop::Drain)?,
            pump(stderr, streams.stderr, signal, AtStop::Drain)?,
        ];
        Ok(Self {
            outputs,
            stop,
            terminal: None,
        })
    }

    fn to_console(streams: Streams, console: OwnedFd, interactive: bool) -> io::Result<Self> {
        let (stop, signal) = Stop::new()?;
        let raw = RawMode::set(streams.stdin.try_clone()?)?;
        if let Some(raw) = &raw {
            raw.copy_size(&console)?;
        }
        if interactive {
            let input = console.try_clone()?;
            drop(pump(
                streams.stdin,
                input,
                signal.try_clone()?,
                AtStop::Abandon,
            )?);
        }
        let output = pump(console.try_clone()?, streams.stdout, signal, AtStop::Drain)?;
        let terminal = raw.map(|raw| (raw, console));
        Ok(Self {
            outputs: vec![output],
            stop,
            terminal,
        })
    }

    /// Follows a change of the caller's window.
    pub(crate) fn resize(&self) {
        if let Some((raw, console)) = &self.terminal
            && let Err(error) = raw.copy_size(console)
        {
            tracing::debug!(%error, "window size is not passed on");
        }
    }

    /// Waits until all output of a process that has ended is delivered, then gives the terminal
    /// back.
    pub(crate) async fn finish(self) {
        let Self {
            outputs,
            stop,
            terminal,
        } = self;
        drop(stop);
        let joined = tokio::task::spawn_blocking(move || {
            outputs.into_iter().all(|output| output.join().is_ok())
        });
        if !matches!(joined.await, Ok(true)) {
            tracing::error!("a stream thread panicked");
        }
        drop(terminal);
    }
}

/// Gives `command` log files in `dir` for its output.
pub(crate) fn log_files(command: &mut Command, dir: &Path) -> io::Result<()> {
    command.stdout(File::create(dir.join("stdout.log"))?);
    command.stderr(File::create(dir.join("stderr.log"))?);
    Ok(())
}
