//! The process of a sandbox, and of a command run in one.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::LaunchError;
use crate::spec::{ExecSpec, ImageDefaults, ProcessOverrides};
use crate::user::User;

/// Docker's search path.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Docker's terminal type.
const TERM_DEFAULT: &str = "TERM=xterm";

/// Most open files, soft and hard limit alike, if the calling process may have as many itself
/// (docker's daemon runs with it, and containers inherit it).
pub(crate) const OPEN_FILES_MAX: u64 = 1_048_576;

/// Docker's capabilities (moby `oci/caps/defaults.go`).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Most bytes of arguments and environment together (half of what execve(2) takes by default).
const ARGUMENT_BYTES_MAX: usize = 1 << 20;

/// A process before the runtime starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) terminal: bool,
    /// Limit of open files, at most [`OPEN_FILES_MAX`].
    pub(crate) open_files: u64,
}

impl Process {
    /// Returns the `process` object of the OCI runtime specification.
    pub(crate) fn to_json(&self) -> Value {
        // Only root has capabilities at hand; others may gain them from the bounding set by a
        // set-user-ID program. None is inheritable (CVE-2022-24769).
        let held: &[&str] = if self.uid == 0 { &CAPABILITIES } else { &[] };
        json!({
            "terminal": self.terminal,
            "user": {
                "uid": self.uid,
                "gid": self.gid,
                "additionalGids": self.additional_gids,
            },
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": held,
                "permitted": held,
            },
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "hard": self.open_files, "soft": self.open_files },
            ],
            "noNewPrivileges": false,
        })
    }

    /// Refuses what the runtimes would refuse with a worse message, or not at all.
    pub(crate) fn check(&self) -> Result<(), LaunchError> {
        let invalid = |text: &str| Err(LaunchError::Invalid(text.to_owned()));
        let texts = || self.args.iter().chain(&self.env).chain([&self.cwd]);
        if self.args.first().is_none_or(String::is_empty) {
            return invalid("no command given, and the image has none");
        }
        if texts().any(|text| text.contains('\0')) {
            return invalid("a NUL byte in the command, the environment or the working directory");
        }
        if texts().map(String::len).sum::<usize>() > ARGUMENT_BYTES_MAX {
            return invalid("command and environment are longer than 1 MiB");
        }
        if !self.cwd.starts_with('/') {
            return invalid(&format!("working directory {:?} is not absolute", self.cwd));
        }
        Ok(())
    }
}

/// Returns the command line: the entrypoint, then the caller's command or else the image's.
pub(crate) fn resolve_args(defaults: &ImageDefaults, overrides: &ProcessOverrides) -> Vec<String> {
    let command = if overrides.command.is_empty() {
        &defaults.command
    } else {
        &overrides.command
    };
    defaults.entrypoint.iter().chain(command).cloned().collect()
}

/// Returns the environment; later sources win, and the first occurrence keeps its place.
pub(crate) fn build_environment(
    hostname: &str,
    home: &str,
    terminal: bool,
    image: &[String],
    caller: &[String],
) -> Result<Vec<String>, LaunchError> {
    let mut env = vec![PATH_DEFAULT.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        env.push(TERM_DEFAULT.to_owned());
    }
    env.push(format!("HOME={home}"));
    for entry in image.iter().chain(caller) {
        set_variable(&mut env, entry)?;
    }
    Ok(env)
}

fn set_variable(env: &mut Vec<String>, entry: &str) -> Result<(), LaunchError> {
    let key = match entry.split_once('=') {
        Some((key, _)) if !key.is_empty() => key,
        _ => return Err(LaunchError::Invalid(format!("{entry:?} is not KEY=value"))),
    };
    let same = |old: &&mut String| old.split_once('=').is_some_and(|(k, _)| k == key);
    match env.iter_mut().find(same) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.to_owned()),
    }
    Ok(())
}

/// Makes the process of a command in a sandbox whose own process is `init`; `user` is the one the
/// command asks for, if it does.
pub(crate) fn exec_process(
    init: &Process,
    exec: &ExecSpec,
    user: Option<User>,
) -> Result<Process, LaunchError> {
    let mut process = Process {
        args: exec.args.clone(),
        cwd: exec.cwd.clone().unwrap_or_else(|| init.cwd.clone()),
        terminal: exec.terminal,
        ..init.clone()
    };
    if exec.terminal && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push(TERM_DEFAULT.to_owned());
    }
    if let Some(user) = user {
        set_variable(&mut process.env, &format!("HOME={}", user.home))?;
        (process.uid, process.gid) = (user.uid, user.gid);
        process.additional_gids = user.additional_gids;
    }
    for entry in &exec.env {
        set_variable(&mut process.env, entry)?;
    }
    process.check()?;
    Ok(process)
}
