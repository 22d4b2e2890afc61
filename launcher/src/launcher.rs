//! The life of sandboxes: create, run, exec, list, stop, remove.

mod create;
mod exec;
mod mounts;
mod run;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::Clock;
use nacre_fs::mount::Lower;
use rustix::process::Signal;

use crate::error::LaunchError;
use crate::sandbox::{self, Sandbox};
use crate::spec::RuntimeKind;
use crate::wait::{Waited, reap_adopted, signal_of};
pub use mounts::{LockedMounts, MountInfo};
pub use run::{Prepared, RunOutcome, Started};

/// How long a killed process may take to end before the removal of its sandbox is refused.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Whether the process of a sandbox lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its process was not started yet, or the start died half way.
    Created,
    /// Its process lives.
    Running,
    /// Its process has ended.
    Stopped {
        /// With this code, when [`Launcher::run`] waited for it.
        exit_code: Option<u8>,
    },
}

/// What [`Launcher::list`] tells of a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxInfo {
    /// Its name.
    pub name: String,
    /// The name of its image, as given when it was created.
    pub image: String,
    /// The id of what its root file system was opened from, as given when it was created.
    pub started_from: String,
    /// Whether it runs.
    pub status: Status,
    /// The host's id of its first process, while it runs.
    pub pid: Option<u32>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its runtime.
    pub runtime: RuntimeKind,
    /// Its cgroup, relative to the root of each cgroup hierarchy.
    pub cgroup: String,
    /// The layers its root file system was made from.
    pub lower: Lower,
    /// The overlay upper directory: what it wrote.
    pub upper: PathBuf,
    /// A file in which whoever makes snapshots of `upper` may keep what is learned of it.
    pub snapshot_state: PathBuf,
    /// Where its root file system is mounted on the host.
    pub rootfs: PathBuf,
    /// The trees that are mounted in it.
    pub mounts: Vec<MountInfo>,
}

/// Runs sandboxes whose state is below one directory. Any number of processes may do so at once.
#[derive(Debug)]
pub struct Launcher {
    sandboxes: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Launcher {
    /// Opens (and makes, where missing) the state directory `root/sandboxes`, and removes what
    /// dead processes left half made in it.
    ///
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn open(root: &Path, clock: Arc<dyn Clock>) -> Result<Self, LaunchError> {
        let make = || {
            std::fs::create_dir_all(root.join("sandboxes"))?;
            root.join("sandboxes").canonicalize()
        };
        let sandboxes = make().map_err(LaunchError::io("create directory", root))?;
        sandbox::sweep(&sandboxes)?;
        Ok(Self { sandboxes, clock })
    }

    /// Returns all sandboxes, sorted by name. One that cannot be read is left out and logged.
    ///
    /// # Errors
    /// [`LaunchError::Io`] when the state directory cannot be read.
    pub fn list(&self) -> Result<Vec<SandboxInfo>, LaunchError> {
        let mut infos = Vec::new();
        for name in sandbox::names(&self.sandboxes)? {
            match self.inspect(&name) {
                Ok(info) => infos.push(info),
                Err(LaunchError::NotFound(_)) => {}
                Err(error) => tracing::warn!(sandbox = name, %error, "sandbox cannot be read"),
            }
        }
        Ok(infos)
    }

    /// Returns one sandbox.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`], [`LaunchError::Corrupt`], [`LaunchError::Io`].
    pub fn inspect(&self, name: &str) -> Result<SandboxInfo, LaunchError> {
        let sandbox = Sandbox::open(&self.sandboxes, name)?;
        let init = sandbox.init()?;
        let alive = match &init {
            Some(init) => init
                .is_alive()
                .map_err(LaunchError::io("inspect process of", name))?,
            None => false,
        };
        let status = match (&init, alive) {
            (None, _) => Status::Created,
            (Some(_), true) => Status::Running,
            (Some(_), false) => Status::Stopped {
                exit_code: sandbox.exit_code()?,
            },
        };
        let pid = init
            .filter(|_| alive)
            .and_then(|init| u32::try_from(init.pid).ok());
        Ok(SandboxInfo {
            status,
            pid,
            mounts: mounts::mount_infos(&sandbox)?,
            upper: sandbox.dir.join("upper"),
            snapshot_state: sandbox.dir.join("snapshot.state"),
            rootfs: sandbox.rootfs(),
            started_from: sandbox.record.started_from,
            name: sandbox.name,
            image: sandbox.record.image,
            created_ms: sandbox.record.created_ms,
            runtime: sandbox.record.runtime,
            cgroup: crate::bundle::cgroups_path(&sandbox.record.container_id),
            lower: sandbox.record.lower,
        })
    }

    /// Ends the process of a sandbox: by the image's stop signal, and by `SIGKILL` if it lives
    /// after `grace`. What the sandbox wrote stays. Stopping a stopped sandbox does nothing.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`]; [`LaunchError::Busy`] when even `SIGKILL` does not end it in
    /// time (a process in uninterruptible sleep).
    pub async fn stop(&self, name: &str, grace: Duration) -> Result<(), LaunchError> {
        let sandbox = Sandbox::open(&self.sandboxes, name)?;
        if !self
            .signal_and_wait(&sandbox, sandbox.record.stop_signal, grace)
            .await?
        {
            self.kill(&sandbox).await?;
        }
        Ok(())
    }

    async fn kill(&self, sandbox: &Sandbox) -> Result<(), LaunchError> {
        let number = Signal::KILL.as_raw();
        if self.signal_and_wait(sandbox, number, KILL_DEADLINE).await? {
            return Ok(());
        }
        Err(LaunchError::Busy(
            sandbox.name.clone(),
            "its process survives SIGKILL",
        ))
    }

    /// Tells whether the process is dead after at most `patience`.
    async fn signal_and_wait(
        &self,
        sandbox: &Sandbox,
        number: i32,
        patience: Duration,
    ) -> Result<bool, LaunchError> {
        let failed = || LaunchError::io("signal process of", sandbox.name.clone());
        let Some(init) = sandbox.init()? else {
            return Ok(true);
        };
        let Some(pidfd) = init.pidfd().map_err(failed())? else {
            return Ok(true);
        };
        let process = Waited::new(pidfd).map_err(failed())?;
        let signal = signal_of(number).ok_or_else(|| LaunchError::Corrupt {
            path: sandbox.dir.join("sandbox.json"),
            reason: format!("stop signal {number} is unknown"),
        })?;
        deliver(sandbox, &process, signal).await.map_err(failed())?;
        tokio::select! {
            biased;
            ended = process.ended() => ended.map(|()| true).map_err(failed()),
            () = self.clock.sleep(patience) => Ok(false),
        }
    }

    /// Removes a sandbox and all it wrote. With `force` a running one is killed first.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`]; [`LaunchError::Busy`] when it runs (without `force`) or another
    /// command is at work on it.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), LaunchError> {
        let sandbox = Sandbox::open(&self.sandboxes, name)?;
        sandbox.lock()?;
        if let Some(init) = sandbox.init()?
            && init
                .is_alive()
                .map_err(LaunchError::io("inspect process of", name))?
        {
            if !force {
                return Err(LaunchError::Busy(
                    name.to_owned(),
                    "it is running; stop it first",
                ));
            }
            self.kill(&sandbox).await?;
        }
        self.discard(sandbox).await
    }

    /// Removes a sandbox that is locked. Its process is dead, or was created and must not start.
    async fn discard(&self, sandbox: Sandbox) -> Result<(), LaunchError> {
        let ended = tokio::select! {
            biased;
            ended = end_processes(&sandbox) => ended,
            () = self.clock.sleep(KILL_DEADLINE) => Err(io::ErrorKind::TimedOut.into()),
        };
        ended.map_err(LaunchError::io("end processes of", &sandbox.name))?;
        let runtime_dir = sandbox.dir.join("runtime");
        let known_to_runtime =
            std::fs::read_dir(&runtime_dir).is_ok_and(|mut entries| entries.next().is_some());
        if known_to_runtime {
            // Removes the cgroup, with what may still be in it.
            let args = ["--force", &sandbox.record.container_id];
            if let Err(error) = sandbox.runtime().call("delete", args).await {
                tracing::warn!(sandbox = sandbox.name, %error, "runtime keeps the container");
            }
        }
        blocking(move || sandbox.remove_files()).await
    }
}

/// Ends the first process of a sandbox and the runtime's own; returns when they have vanished, as
/// far as that is up to the calling process.
async fn end_processes(sandbox: &Sandbox) -> io::Result<()> {
    let init = sandbox
        .init()
        .map_err(|error| io::Error::other(error.to_string()))?;
    let Some(init) = init else { return Ok(()) };
    if let Some(pidfd) = init.pidfd()? {
        let process = Waited::new(pidfd)?;
        process.send(Signal::KILL)?;
        process.ended().await?;
    }
    if let Some(pid) = init.unreaped()? {
        reap_adopted(pid).await?;
    }
    match sandbox.runtime().file_server(&sandbox.record.container_id) {
        Some(pid) => reap_adopted(pid).await,
        None => Ok(()),
    }
}

/// Sends a signal to the first process of a sandbox; one that is dead by now is no error.
async fn deliver(sandbox: &Sandbox, process: &Waited, signal: Signal) -> io::Result<()> {
    if sandbox.record.runtime != RuntimeKind::Runsc {
        return process.send(signal);
    }
    // The host's process is gVisor's kernel, and it ends with the code of the one inside.
    let args = [
        sandbox.record.container_id.clone(),
        signal.as_raw().to_string(),
    ];
    match sandbox.runtime().call("kill", args).await {
        Err(error) if process.is_alive() => Err(io::Error::other(error.to_string())),
        _ => Ok(()),
    }
}

/// Runs file system work off the reactor.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .map_err(LaunchError::io("finish", "file system work"))?
}
