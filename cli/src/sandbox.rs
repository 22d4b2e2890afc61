//! Sandboxes: the verbs that run commands in images.

pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod mount_into;
pub(crate) mod mounts;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod stop;

use std::os::fd::AsFd;
use std::sync::Arc;

use nacre_launcher::{LaunchError, Launcher, Streams};

use crate::failure::{BUSY, Classed, Failure, NOT_FOUND, USAGE};
use crate::settings::Settings;

impl Classed for LaunchError {
    fn class(&self) -> (u8, Option<&'static str>) {
        match self {
            Self::NotFound(_) => (NOT_FOUND, Some("`nacre ps -a` lists the sandboxes")),
            Self::Busy(..) => (BUSY, None),
            Self::NotMounted { .. } => (NOT_FOUND, None),
            Self::Invalid(_) => (USAGE, None),
            _ => (crate::failure::FAILED, None),
        }
    }
}

pub(crate) fn launcher(settings: &Settings) -> Result<Launcher, Failure> {
    let root = settings.root.display().to_string();
    Launcher::open(&settings.root, Arc::clone(&settings.clock)).map_err(Failure::of("open", &root))
}

/// Duplicates the streams of this process for a sandbox.
fn own_streams() -> Result<Streams, Failure> {
    let fail = |error: std::io::Error| Failure::new("use", "the standard streams", &error);
    Ok(Streams {
        stdin: std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(fail)?,
        stdout: std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(fail)?,
        stderr: std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .map_err(fail)?,
    })
}

/// Completes `KEY` to `KEY=value` from the caller's environment; drops what is not set there.
fn environment(asked: Vec<String>) -> Vec<String> {
    let complete = |entry: String| {
        if entry.contains('=') {
            return Some(entry);
        }
        let value = std::env::var_os(&entry)?.into_string().ok()?;
        Some(format!("{entry}={value}"))
    };
    asked.into_iter().filter_map(complete).collect()
}
