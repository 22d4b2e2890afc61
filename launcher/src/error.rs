//! What can go wrong with a sandbox.

use std::io;
use std::path::PathBuf;

use nacre_fs::mount::MountError;

/// What went wrong with a sandbox; the variants are what callers decide on.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No sandbox has this name.
    #[error("no sandbox is called {0}")]
    NotFound(String),
    /// The name is taken, or another process is at work on the sandbox.
    #[error("sandbox {0} is in use: {1}")]
    Busy(String, &'static str),
    /// No tree is mounted at this place.
    #[error("nothing of nacre is mounted at {target} in {name}")]
    NotMounted {
        /// The sandbox.
        name: String,
        /// The place.
        target: String,
    },
    /// The caller asked for something that is wrong or not supported.
    #[error("{0}")]
    Invalid(String),
    /// A user or group is neither a number nor in the root file system's lists.
    #[error("find {kind} {name:?}: no matching entry in the root file system's {file}")]
    UnknownUser {
        /// "user" or "group".
        kind: &'static str,
        /// As asked for.
        name: String,
        /// The list.
        file: &'static str,
    },
    /// The command is there but cannot be executed.
    #[error("command cannot be executed: {0}")]
    NotExecutable(String),
    /// The command is not there.
    #[error("command not found: {0}")]
    CommandNotFound(String),
    /// The runtime refused.
    #[error("{runtime} {verb}: {message}")]
    Runtime {
        /// The runtime's program.
        runtime: &'static str,
        /// What it was told to do.
        verb: &'static str,
        /// The end of what it wrote to stderr.
        message: String,
    },
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The sandbox's record does not make sense.
    #[error("{path:?} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The kernel or the file system refused.
    #[error("{operation} {target}: {source}")]
    Io {
        /// The verb.
        operation: &'static str,
        /// The object.
        target: String,
        /// The cause.
        source: io::Error,
    },
}

impl LaunchError {
    /// Returns the code with which `run` and `exec` end, as docker's do: 126 for a command that
    /// cannot be executed, 127 for one that is not there, 125 for everything else.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotExecutable(_) => 126,
            Self::CommandNotFound(_) => 127,
            _ => 125,
        }
    }

    /// Makes an [`Io`](Self::Io) error out of an errno or an I/O error.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        target: impl std::fmt::Debug,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            operation,
            target: format!("{target:?}"),
            source: source.into(),
        }
    }
}
