//! Running a command in a sandbox that runs already.

use std::path::PathBuf;

use nacre_fs::mount::RootedDir;
use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::{Launcher, create::random_id};
use crate::attach::Wiring;
use crate::bundle::exec_process;
use crate::error::LaunchError;
use crate::sandbox::Sandbox;
use crate::spec::ExecSpec;
use crate::streams::Streams;
use crate::user;
use crate::wait::{Signals, Waited, adopt_orphans, read_pid_file};

impl Launcher {
    /// Runs a command in a running sandbox and returns its exit code. Signals and streams as for
    /// [`run`](Self::run). Output of background processes that outlive the command is not waited
    /// for.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`]; [`LaunchError::Busy`] when the sandbox does not run;
    /// [`LaunchError::CommandNotFound`] and [`LaunchError::NotExecutable`] for the command.
    pub async fn exec(
        &self,
        name: &str,
        spec: &ExecSpec,
        streams: Streams,
    ) -> Result<u8, LaunchError> {
        let mut signals = Signals::listen().map_err(LaunchError::io("listen to", "signals"))?;
        adopt_orphans()?;
        let sandbox = Sandbox::open(&self.sandboxes, name)?;
        let alive = match sandbox.init()? {
            Some(init) => init
                .is_alive()
                .map_err(LaunchError::io("inspect process of", name))?,
            None => false,
        };
        if !alive {
            return Err(LaunchError::Busy(name.to_owned(), "it is not running"));
        }
        let files = ExecFiles::write(&sandbox, spec, &streams)?;
        let mut command = sandbox.runtime().command();
        command.arg("exec").arg("--detach");
        command.arg("--process").arg(files.path("json"));
        command.arg("--pid-file").arg(files.path("pid"));
        let wiring = if spec.terminal {
            Wiring::terminal(&mut command, &sandbox.dir, &files.name)
        } else {
            Wiring::pipes(&mut command, spec.interactive)
        };
        let wiring = wiring.map_err(LaunchError::io("connect", name))?;
        command.arg(&sandbox.record.container_id);
        let status = command
            .status()
            .await
            .map_err(LaunchError::io("start runtime", name))?;
        drop(command);
        if !status.success() {
            return Err(sandbox.runtime().failure("exec", &wiring.error_text()?));
        }
        let process = Waited::open(read_pid_file(&files.path("pid"))?)
            .map_err(LaunchError::io("open process of", name))?;
        let attached = wiring
            .attach(streams, spec.interactive, &*self.clock)
            .await?;
        let send = async |signal| process.send(signal);
        let exit_code = process
            .exit_code_forwarding(&mut signals, &attached, send)
            .await;
        attached.finish().await;
        exit_code.map_err(LaunchError::io("wait for command in", name))
    }
}

/// The files through which a runtime is told of a command; removed at the end.
#[derive(Debug)]
struct ExecFiles {
    dir: PathBuf,
    name: String,
}

impl ExecFiles {
    fn write(sandbox: &Sandbox, spec: &ExecSpec, streams: &Streams) -> Result<Self, LaunchError> {
        let resolve = |text| {
            let root = RootedDir::open(&sandbox.rootfs())
                .map_err(LaunchError::io("open root file system of", &sandbox.name))?;
            user::resolve(&root, text)
        };
        let user = spec.user.as_deref().map(resolve).transpose()?;
        let mut process = exec_process(&sandbox.record.process, spec, user)?.to_json();
        // The command runs before the console arrives here: the runtime must set the size.
        if let Ok(size) = tcgetwinsize(&streams.stdin) {
            process["consoleSize"] = json!({ "height": size.ws_row, "width": size.ws_col });
        }
        let files = Self {
            dir: sandbox.dir.clone(),
            name: format!("exec-{}", random_id()?),
        };
        std::fs::write(files.path("json"), process.to_string())
            .map_err(LaunchError::io("write", files.path("json")))?;
        Ok(files)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        for extension in ["json", "pid"] {
            match std::fs::remove_file(self.path(extension)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(name = self.name, %error, "exec file stays behind");
                }
                _ => {}
            }
        }
    }
}
