//! The first process of a sandbox, as a process of the host.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{Sandbox, read_json};
use crate::error::LaunchError;

/// Index of the start time among the fields of `/proc/PID/stat` after the command's name
/// (proc_pid_stat(5): field 22, where the first after the name is field 3).
const START_TIME_FIELD: usize = 19;

/// `init.json`: a process id that cannot be taken for a later process with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Start time in clock ticks after boot.
    start_ticks: u64,
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct Exit {
    code: u8,
}

impl Init {
    /// Describes a process that lives (or is a child not yet waited for).
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let stat = Stat::read(pid)?.ok_or(Errno::SRCH)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: boot_id()?,
        })
    }

    /// Opens the process, or says with `None` that it is dead.
    pub(crate) fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Only now: the number cannot change hands after it was opened without the check failing.
        Ok(self.is_alive()?.then_some(pidfd))
    }

    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        Ok(self.stat()?.is_some_and(|stat| !stat.dead))
    }

    /// Returns the process's id if it lives or is a zombie.
    pub(crate) fn unreaped(&self) -> io::Result<Option<Pid>> {
        Ok(self.stat()?.and_then(|_| Pid::from_raw(self.pid)))
    }

    fn stat(&self) -> io::Result<Option<Stat>> {
        let stat = Stat::read(self.pid)?.filter(|stat| stat.start_ticks == self.start_ticks);
        Ok(if boot_id()? == self.boot_id {
            stat
        } else {
            None
        })
    }
}

struct Stat {
    dead: bool,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Option<Self>> {
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::SRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The command's name, in parentheses, may hold spaces and parentheses itself.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let dead = matches!(*fields.first()?, "Z" | "X" | "x");
        Some(Self {
            dead,
            start_ticks: fields.get(START_TIME_FIELD)?.parse().ok()?,
        })
    }
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

impl Sandbox {
    /// Records the first process.
    pub(crate) fn set_init(&self, init: &Init) -> Result<(), LaunchError> {
        write_json(&self.dir.join("init.json"), init)
    }

    /// Returns the first process; `None` before it was started.
    pub(crate) fn init(&self) -> Result<Option<Init>, LaunchError> {
        read_optional(&self.dir.join("init.json"))
    }

    /// Records with which code the process ended.
    pub(crate) fn set_exit_code(&self, code: u8) -> Result<(), LaunchError> {
        write_json(&self.dir.join("exit.json"), &Exit { code })
    }

    /// Returns with which code the process ended, where somebody waited for it.
    pub(crate) fn exit_code(&self) -> Result<Option<u8>, LaunchError> {
        Ok(read_optional(&self.dir.join("exit.json"))?.map(|exit: Exit| exit.code))
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), LaunchError> {
    let publish = || nacre_blobstore::publish(path, &serde_json::to_vec(value)?);
    publish().map_err(LaunchError::io("write", path))
}

pub(super) fn read_optional<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<Option<T>, LaunchError> {
    match File::open(path) {
        Ok(file) => read_json(&file, path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LaunchError::io("open", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_with_the_same_number_is_not_the_one() {
        let own = Init::of(rustix::process::getpid()).unwrap();
        assert!(own.is_alive().unwrap() && own.pidfd().unwrap().is_some());
        let earlier = Init {
            start_ticks: own.start_ticks - 1,
            ..own.clone()
        };
        assert!(!earlier.is_alive().unwrap() && earlier.pidfd().unwrap().is_none());
        let last_boot = Init {
            boot_id: "x".to_owned(),
            ..own
        };
        assert!(!last_boot.is_alive().unwrap());
    }

    #[test]
    fn hostile_command_names_do_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        let stat = Stat::parse(&format!("7 (a) Z 1 (b c) {rest}")).unwrap();
        assert!(!stat.dead && stat.start_ticks == 4242);
        assert!(
            Stat::parse(&format!("7 (x) {}", rest.replace('S', "Z")))
                .unwrap()
                .dead
        );
        for damaged in ["", "7", "7 (x)", "7 (x) S 1 2"] {
            assert!(Stat::parse(damaged).is_none());
        }
    }
}
