//! Running a sandbox's process, attached or detached.

use std::io;
use std::time::Duration;

use tokio::process::Command;

use super::{Launcher, blocking, create::create, deliver};
use crate::attach::{Wiring, log_files};
use crate::error::LaunchError;
use crate::sandbox::{Init, Sandbox};
use crate::spec::SandboxSpec;
use crate::streams::Streams;
use crate::wait::{Signals, Waited, adopt_orphans, read_pid_file};

/// Most bytes of a log that are read to explain a failed start.
const LOG_TAIL_BYTES: usize = 16 << 10;

/// A sandbox whose root file system is mounted, and whose process is not started yet. Until it is,
/// other commands leave it alone; dropped, it stays behind as one whose start died half way.
#[derive(Debug)]
pub struct Prepared {
    sandbox: Sandbox,
    time_to_root: Duration,
}

impl Prepared {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.sandbox.name
    }
}

/// A sandbox whose process was started.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// From the call to the start of its process.
    pub time_to_start: Duration,
}

/// A sandbox whose process has ended.
#[derive(Debug, Clone)]
pub struct RunOutcome {
    /// Its name and start.
    pub started: Started,
    /// The code of its process; 128 + n when a signal ended it.
    pub exit_code: u8,
}

impl Launcher {
    /// Runs a sandbox to its end, with the caller's streams and signals.
    ///
    /// `SIGINT`, `SIGTERM`, `SIGHUP`, `SIGQUIT`, `SIGUSR1` and `SIGUSR2` to the calling process go
    /// to the sandbox's, and do not end the calling process any more, now or later. The calling
    /// process becomes a child subreaper for good. A terminal in raw mode is given back on every
    /// way out; dropping the future leaves the sandbox running.
    ///
    /// # Errors
    /// As [`start`](Self::start); [`LaunchError::exit_code`] says how docker would exit.
    pub async fn run(
        &self,
        spec: SandboxSpec,
        streams: Streams,
    ) -> Result<RunOutcome, LaunchError> {
        let began = self.clock.elapsed();
        let mut signals = Signals::listen().map_err(LaunchError::io("listen to", "signals"))?;
        adopt_orphans()?;
        let (interactive, remove) = (spec.interactive, spec.remove_on_exit);
        let sandbox = self.create(spec).await?;
        let mut command = create_command(&sandbox);
        let wiring = if sandbox.record.process.terminal {
            Wiring::terminal(&mut command, &sandbox.dir, "console")
        } else {
            Wiring::pipes(&mut command, interactive)
        };
        let launched = async {
            let wiring = wiring.map_err(LaunchError::io("connect", &sandbox.name))?;
            let created = self.create_process(&sandbox, command);
            let process = created.await.map_err(|fault| match fault {
                CreateFault::Runtime => wiring.error_text().map_or_else(
                    |error| error,
                    |text| sandbox.runtime().failure("create", &text),
                ),
                CreateFault::Other(error) => error,
            })?;
            let attached = wiring.attach(streams, interactive, &*self.clock).await?;
            start_process(&sandbox).await?;
            Ok((process, attached))
        };
        let (process, attached) = match launched.await {
            Ok(launched) => launched,
            Err(error) => return self.abandon(sandbox, error).await,
        };
        let time_to_start = self.clock.elapsed().saturating_sub(began);
        sandbox.unlock()?;
        let send = async |signal| deliver(&sandbox, &process, signal).await;
        let exit_code = process
            .exit_code_forwarding(&mut signals, &attached, send)
            .await;
        attached.finish().await;
        let exit_code = exit_code.map_err(LaunchError::io("wait for", &sandbox.name))?;
        let name = sandbox.name.clone();
        if remove {
            // The caller gets the exit code in any case: a sandbox that stays is listed.
            if let Err(error) = self.remove(&name, false).await {
                tracing::error!(sandbox = name, %error, "sandbox stays behind");
            }
        } else {
            sandbox.set_exit_code(exit_code)?;
        }
        Ok(RunOutcome {
            started: Started {
                name,
                time_to_start,
            },
            exit_code,
        })
    }

    /// Starts a sandbox and leaves it to itself; its output goes to `stdout.log` and `stderr.log`
    /// in its directory, without a limit. No process of ours stays behind, so nobody learns the
    /// exit code.
    ///
    /// # Errors
    /// [`LaunchError::Busy`] when the name is taken; [`LaunchError::Invalid`] for a specification
    /// that makes no sense, or asks for a terminal or for stdin, which nobody would hold;
    /// [`LaunchError::UnknownUser`]; [`LaunchError::CommandNotFound`] and
    /// [`LaunchError::NotExecutable`] for the command; others. No sandbox is left then.
    pub async fn start(&self, spec: SandboxSpec) -> Result<Started, LaunchError> {
        let prepared = self.prepare(spec).await?;
        self.launch(prepared).await
    }

    /// Does what [`start`](Self::start) does before a runtime is needed.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for those of the command. No sandbox is left then.
    pub async fn prepare(&self, spec: SandboxSpec) -> Result<Prepared, LaunchError> {
        if spec.terminal || spec.interactive {
            let reason = "a detached sandbox can have neither a terminal nor stdin";
            return Err(LaunchError::Invalid(reason.to_owned()));
        }
        let began = self.clock.elapsed();
        let sandbox = self.create(spec).await?;
        let time_to_root = self.clock.elapsed().saturating_sub(began);
        Ok(Prepared {
            sandbox,
            time_to_root,
        })
    }

    /// Does the rest of what [`start`](Self::start) does. The time that passed between is not counted.
    ///
    /// # Errors
    /// As [`start`](Self::start). No sandbox is left then.
    pub async fn launch(&self, prepared: Prepared) -> Result<Started, LaunchError> {
        let Prepared {
            sandbox,
            time_to_root,
        } = prepared;
        let began = self.clock.elapsed();
        let launched = async {
            let mut command = create_command(&sandbox);
            log_files(&mut command, &sandbox.dir)
                .map_err(LaunchError::io("create logs of", &sandbox.name))?;
            match self.create_process(&sandbox, command).await {
                Ok(_process) => start_process(&sandbox).await,
                Err(CreateFault::Runtime) => Err(log_failure(&sandbox)),
                Err(CreateFault::Other(error)) => Err(error),
            }
        };
        if let Err(error) = launched.await {
            return self.abandon(sandbox, error).await;
        }
        let time_to_start = time_to_root + self.clock.elapsed().saturating_sub(began);
        sandbox.unlock()?;
        Ok(Started {
            name: sandbox.name,
            time_to_start,
        })
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Sandbox, LaunchError> {
        let (sandboxes, now_ms) = (self.sandboxes.clone(), self.clock.now_ms());
        blocking(move || create(&sandboxes, &spec, now_ms)).await
    }

    /// Lets the runtime set the process up, up to the point where it executes the command.
    async fn create_process(
        &self,
        sandbox: &Sandbox,
        mut command: Command,
    ) -> Result<Waited, CreateFault> {
        let pid_file = sandbox.dir.join("pid");
        command
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(&sandbox.record.container_id);
        let status = command
            .status()
            .await
            .map_err(LaunchError::io("start runtime", &sandbox.name))?;
        // The host's ends of the pipes are the last ones now, but for the process's own.
        drop(command);
        if !status.success() {
            return Err(CreateFault::Runtime);
        }
        let pid = read_pid_file(&pid_file)?;
        let opened = || io::Result::Ok((Waited::open(pid)?, Init::of(pid)?));
        let (process, init) =
            opened().map_err(LaunchError::io("open process of", &sandbox.name))?;
        sandbox.set_init(&init)?;
        Ok(process)
    }

    /// Removes a sandbox that could not be started, and returns why.
    async fn abandon<T>(&self, sandbox: Sandbox, error: LaunchError) -> Result<T, LaunchError> {
        if let Err(left) = self.discard(sandbox).await {
            tracing::error!(error = %left, "sandbox that was not started stays behind");
        }
        Err(error)
    }
}

enum CreateFault {
    /// The runtime said why, where the process's stderr goes.
    Runtime,
    Other(LaunchError),
}

impl From<LaunchError> for CreateFault {
    fn from(error: LaunchError) -> Self {
        Self::Other(error)
    }
}

fn create_command(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.runtime().command();
    command
        .arg("create")
        .arg("--bundle")
        .arg(sandbox.dir.join("bundle"));
    command
}

async fn start_process(sandbox: &Sandbox) -> Result<(), LaunchError> {
    sandbox
        .runtime()
        .call("start", [&sandbox.record.container_id])
        .await
        .map(drop)
}

fn log_failure(sandbox: &Sandbox) -> LaunchError {
    match std::fs::read(sandbox.dir.join("stderr.log")) {
        Ok(text) => {
            let tail = &text[text.len().saturating_sub(LOG_TAIL_BYTES)..];
            sandbox.runtime().failure("create", tail)
        }
        Err(error) => LaunchError::io("read log of", &sandbox.name)(error),
    }
}
