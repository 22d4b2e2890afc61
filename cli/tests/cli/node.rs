//! A node of its own for each test: a root directory, the binary, and its daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// For a daemon that was asked to end.
const STOP_POLLS_MAX: u32 = 200;
const STOP_POLL: Duration = Duration::from_millis(50);

/// A root directory whose daemon and mounts end with the test.
#[derive(Debug)]
pub(crate) struct Node {
    directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "these tests mount and own files: run them as root"
        );
        Self::below(&std::env::temp_dir())
    }

    /// A node whose files are below `directory`.
    pub(crate) fn below(directory: &Path) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("nacre-test-")
            .tempdir_in(directory);
        Self {
            directory: directory.unwrap(),
        }
    }

    /// A directory of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An empty directory of the test.
    pub(crate) fn empty(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        command
            .arg("--root")
            .arg(self.path("root"))
            .args(arguments)
            .stdin(Stdio::null());
        for name in [
            "NACRE_ROOT",
            "NACRE_STORE",
            "NACRE_REGION_CACHE",
            "NACRE_REGION_TOKEN",
            "NACRE_REGION_CA",
            "NACRE_REGION_PREFIX",
            "NACRE_HOME_STORE",
            "NACRE_HOME_EXCEPT",
            "NACRE_STORE_TIMEOUT",
            "NACRE_CACHE_SIZE",
            "NACRE_CACHE_FILES",
            "NACRE_CONFIG",
            "NACRE_LAZY",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_SERVICE_NAME",
            "OTEL_TRACES_SAMPLER",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        // Which starts are checked is a matter of chance.
        command.env("NACRE_CHECK_ONE_IN", "0");
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that succeeds, and returns what it prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {errors}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command with `--json`, and returns the objects that it prints.
    pub(crate) fn json_lines(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.ok(&[&["--json"], arguments].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs a command with `--json`, and returns the one object that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut objects = self.json_lines(arguments);
        assert_eq!(objects.len(), 1, "{arguments:?}: {objects:?}");
        objects.remove(0)
    }

    /// Unmounts a target. A program that another test starts has the open files of this one until it
    /// is loaded.
    pub(crate) fn umount(&self, target: &str) {
        const TRIES_MAX: u32 = 400;
        for _ in 1..TRIES_MAX {
            let output = self.output(&["umount", target]);
            if !String::from_utf8_lossy(&output.stderr).contains("in use") {
                assert!(output.status.success(), "{target}: {}", output.status);
                return;
            }
            pause();
        }
        self.ok(&["umount", target]);
    }

    /// Runs a command that fails with `code`, and returns its one line of error, without hints.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert_eq!(output.stdout, b"", "{arguments:?} printed data");
        let mut lines = errors.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        assert!(
            line.starts_with("nacre: cannot "),
            "{arguments:?}: {errors}"
        );
        for rest in lines {
            assert!(rest.starts_with("hint: "), "{arguments:?}: {errors}");
        }
        line
    }

    /// Checks every byte of the store, and returns what the check says.
    pub(crate) fn fsck(&self) -> Value {
        let found = self.json(&["store", "fsck", "--read-data"]);
        assert_eq!(found["corrupt"], serde_json::json!([]));
        assert_eq!(found["problems"], serde_json::json!([]));
        found
    }

    /// The same, for whatever it prints.
    fn json_lines_quiet(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.output(&[&["--json"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The running daemon's process.
    pub(crate) fn daemon(&self) -> Option<i32> {
        let info = self.output(&["--json", "info"]);
        let info: Value = serde_json::from_slice(&info.stdout).ok()?;
        i32::try_from(info["daemon"]["pid"].as_i64()?).ok()
    }

    /// Ends the daemon and waits until it is gone.
    fn stop_daemon(&self) {
        let Some(pid) = self.daemon() else { return };
        let process = Pid::from_raw(pid).unwrap();
        for signal in [Signal::TERM, Signal::KILL] {
            // An error says that it is gone already.
            kill_process(process, signal).unwrap_or(());
            for _ in 0..STOP_POLLS_MAX {
                // A process that nobody has reaped yet has no program any more either.
                if std::fs::read_link(format!("/proc/{pid}/exe")).is_err() {
                    return;
                }
                pause();
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process"
)]
pub(crate) fn pause() {
    std::thread::sleep(STOP_POLL);
}

impl Drop for Node {
    fn drop(&mut self) {
        for sandbox in self.json_lines_quiet(&["ps", "-a"]) {
            if let Some(name) = sandbox["sandbox"].as_str() {
                drop(self.output(&["rm", "-f", name]));
            }
        }
        let below = self.directory.path().to_string_lossy().into_owned();
        let content = self.path("root/content");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|point| point.starts_with(&below) && Path::new(point) != content)
            .collect();
        points.reverse();
        for point in points {
            drop(Command::new("umount").args(["-l", point]).output());
        }
        self.stop_daemon();
        // What a killed daemon leaves.
        drop(Command::new("umount").arg("-lq").arg(content).output());
    }
}
