//! The OCI runtimes, as programs: how each is called, and what its errors mean.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Pid;
use tokio::process::Command;

use crate::error::LaunchError;
use crate::spec::{Network, RuntimeKind};

/// Where the second hierarchy of a hybrid cgroup layout is mounted.
const CGROUP_UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Most bytes of a runtime's error text that are kept: its end.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// Longest state file of a runtime that is read, in bytes.
const STATE_BYTES_MAX: u64 = 4 << 20;

/// A runtime with the state directory of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    kind: RuntimeKind,
    network: Network,
    state: PathBuf,
}

impl Runtime {
    /// The state directory belongs to the one sandbox, so names of sandboxes and other users of
    /// the runtime on this machine cannot clash.
    pub(crate) fn new(kind: RuntimeKind, network: Network, state: PathBuf) -> Self {
        Self {
            kind,
            network,
            state,
        }
    }

    pub(crate) const fn program(&self) -> &'static str {
        match self.kind {
            RuntimeKind::Runc => "runc",
            RuntimeKind::Crun => "crun",
            RuntimeKind::Runsc => "runsc",
        }
    }

    /// Starts a command line. The child is in a process group of its own: a Ctrl-C at the terminal
    /// is for the sandbox, not for a runtime in the middle of its work.
    pub(crate) fn command(&self) -> Command {
        let mut command = match self.kind {
            RuntimeKind::Runc => Command::new("runc"),
            RuntimeKind::Crun => crun(Path::new(CGROUP_UNIFIED).exists()),
            RuntimeKind::Runsc => {
                let mut command = Command::new("runsc");
                command.arg("--platform=ptrace").arg(match self.network {
                    Network::None => "--network=none",
                    Network::Host => "--network=host",
                });
                command
            }
        };
        command.arg("--root").arg(&self.state).stdin(Stdio::null());
        command.process_group(0).kill_on_drop(false);
        command
    }

    /// Runs a verb that talks to nobody, and returns its stdout.
    pub(crate) async fn call<I, S>(
        &self,
        verb: &'static str,
        args: I,
    ) -> Result<Vec<u8>, LaunchError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output = self
            .command()
            .arg(verb)
            .args(args)
            .output()
            .await
            .map_err(LaunchError::io("start runtime", self.program()))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(self.failure(verb, &output.stderr))
        }
    }

    /// Returns the file server of a gVisor container, which the runtime leaves to the subreaper
    /// like the container's own process; the other runtimes have no such process.
    pub(crate) fn file_server(&self, container_id: &str) -> Option<Pid> {
        let path = self
            .state
            .join(format!("{container_id}_sandbox:{container_id}.state"));
        let mut text = Vec::new();
        File::open(path)
            .ok()?
            .take(STATE_BYTES_MAX)
            .read_to_end(&mut text)
            .ok()?;
        let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
        i32::try_from(state.get("goferPid")?.as_i64()?)
            .ok()
            .and_then(Pid::from_raw)
    }

    /// Makes an error of what the runtime wrote to stderr.
    pub(crate) fn failure(&self, verb: &'static str, stderr: &[u8]) -> LaunchError {
        let tail = &stderr[stderr.len().saturating_sub(MESSAGE_BYTES_MAX)..];
        let message = String::from_utf8_lossy(tail).trim().to_owned();
        match command_fault(&message) {
            Some(CommandFault::NotFound) => LaunchError::CommandNotFound(message),
            Some(CommandFault::NotExecutable) => LaunchError::NotExecutable(message),
            None => LaunchError::Runtime {
                runtime: self.program(),
                verb,
                message,
            },
        }
    }
}

/// crun 1.8 refuses a hybrid cgroup layout; in a mount namespace of its own the second hierarchy
/// can be taken away from its sight, and it then manages the v1 controllers.
fn crun(hybrid_cgroups: bool) -> Command {
    if !hybrid_cgroups {
        return Command::new("crun");
    }
    let mut command = Command::new("unshare");
    let script = format!("umount {CGROUP_UNIFIED} && exec crun \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "crun"]);
    command
}

#[derive(Debug, PartialEq, Eq)]
enum CommandFault {
    NotFound,
    NotExecutable,
}

/// Tells errors of the user's command from those of the runtime. There is only text to go by, as
/// for docker; only messages that speak of executing count, so that a missing mount source does
/// not look like a missing command.
fn command_fault(message: &str) -> Option<CommandFault> {
    // runc; crun; runsc 2022 (with and without a search in PATH).
    const ABOUT_COMMAND: [&str; 6] = [
        "exec: ",
        "executable file ",
        "open executable",
        "exec of ",
        "creating process: failed to load ",
        "error finding executable ",
    ];
    let message = message.to_ascii_lowercase();
    if !ABOUT_COMMAND.iter().any(|start| message.contains(start)) {
        return None;
    }
    if message.contains("not found in $path") || message.contains("no such file or directory") {
        return Some(CommandFault::NotFound);
    }
    let refused = [
        "permission denied",
        "not permitted",
        "is a directory",
        "exec format error",
    ];
    refused
        .iter()
        .any(|why| message.contains(why))
        .then_some(CommandFault::NotExecutable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_command_are_told_from_those_of_the_runtime() {
        let cases = [
            (
                r#"exec: \"x\": executable file not found in $PATH"#,
                Some(CommandFault::NotFound),
            ),
            (
                r#"exec: \"/x\": stat /x: no such file or directory"#,
                Some(CommandFault::NotFound),
            ),
            (
                r#"exec: \"/bin\": permission denied"#,
                Some(CommandFault::NotExecutable),
            ),
            (
                "executable file `/x` not found in $PATH: No such",
                Some(CommandFault::NotFound),
            ),
            (
                "open executable: Operation not permitted",
                Some(CommandFault::NotExecutable),
            ),
            (
                "creating process: failed to load /x: no such file or directory",
                Some(CommandFault::NotFound),
            ),
            (
                "error mounting \"/x\": stat /x: no such file or directory",
                None,
            ),
            ("permission denied", None),
            ("", None),
        ];
        for (message, expected) in cases {
            assert_eq!(command_fault(message), expected, "{message}");
        }
    }

    #[test]
    fn long_messages_keep_their_end() {
        let runtime = Runtime::new(RuntimeKind::Runc, Network::None, PathBuf::new());
        let text = format!("{}end", "x".repeat(10_000));
        let LaunchError::Runtime { message, .. } = runtime.failure("create", text.as_bytes())
        else {
            panic!("not about the command");
        };
        assert!(message.len() == MESSAGE_BYTES_MAX && message.ends_with("end"));
    }
}
