//! Freezing a sandbox while its files are walked.
//!
//! Both generations of cgroups are used as they are found. A frozen cgroup is noted on the disk
//! before it is frozen, so that a daemon that is killed meanwhile leaves none frozen for good: the
//! next one thaws what is noted when it starts ([`thaw_noted`]).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nacre_blobstore::{Clock, Digest};
use tokio::runtime::Handle;

use super::error::SnapshotError;

/// How long a cgroup may take to freeze: a process in the middle of a read does not before it ends.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks whether it is frozen.
const FREEZE_POLL: Duration = Duration::from_micros(200);
/// Looks after which the cgroup is thawed for a moment and frozen again, and how long that is. The
/// freezer of version 1 stays half way when a process waits in the kernel for one that is frozen,
/// such as the parent in vfork(2); runc does the same (`cgroups/fs/freezer.go`).
const POLLS_PER_TRY: u32 = 250;
const THAW_PAUSE: Duration = Duration::from_millis(10);
/// Longest note that is read, in bytes.
const NOTE_BYTES_MAX: u64 = 4096;

/// Where the hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// How a cgroup is frozen.
#[derive(Debug)]
struct Switch {
    file: PathBuf,
    frozen: &'static str,
    thawed: &'static str,
    /// Where to see that it is done, and the line that says so.
    seen: (PathBuf, &'static str),
}

impl Switch {
    /// Finds the switch of a cgroup, named from the root of its hierarchy.
    fn of(cgroup: &str) -> Option<Self> {
        let relative = cgroup.trim_start_matches('/');
        let is_plain = !relative.is_empty()
            && relative
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."));
        if !is_plain {
            return None;
        }
        let first = Path::new(CGROUPS).join("freezer").join(relative);
        let file = first.join("freezer.state");
        if file.exists() {
            return Some(Self {
                seen: (file.clone(), "FROZEN"),
                file,
                frozen: "FROZEN",
                thawed: "THAWED",
            });
        }
        let unified = ["", "unified"].map(|sub| Path::new(CGROUPS).join(sub).join(relative));
        let second = unified
            .into_iter()
            .find(|path| path.join("cgroup.freeze").exists())?;
        Some(Self {
            file: second.join("cgroup.freeze"),
            frozen: "1",
            thawed: "0",
            seen: (second.join("cgroup.events"), "frozen 1"),
        })
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let text = std::fs::read_to_string(&self.seen.0)?;
        Ok(text.lines().any(|line| line == self.seen.1))
    }

    fn thaw(&self) -> io::Result<()> {
        std::fs::write(&self.file, self.thawed)
    }
}

/// A frozen cgroup; thawed when dropped.
#[derive(Debug)]
pub(super) struct Frozen {
    switch: Switch,
    note: PathBuf,
    cgroup: String,
}

impl Frozen {
    /// Freezes `cgroup` and notes it in the folder `notes`. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`SnapshotError::Freeze`] when there is no such cgroup or it does not freeze in time. It is
    /// not frozen then.
    pub(super) fn freeze(
        cgroup: &str,
        notes: &Path,
        clock: &dyn Clock,
        runtime: &Handle,
    ) -> Result<Self, SnapshotError> {
        let fail = |reason: String| SnapshotError::Freeze {
            cgroup: cgroup.to_owned(),
            reason,
        };
        let switch = Switch::of(cgroup).ok_or_else(|| fail("it has no freezer".to_owned()))?;
        let note = notes.join(Digest::of(cgroup.as_bytes()).to_string());
        std::fs::create_dir_all(notes)
            .and_then(|()| std::fs::write(&note, cgroup))
            .map_err(|error| fail(error.to_string()))?;
        // From here on, whatever happens, it is thawed.
        let frozen = Self {
            switch,
            note,
            cgroup: cgroup.to_owned(),
        };
        let failed = |error: io::Error| fail(error.to_string());
        let switch = &frozen.switch;
        std::fs::write(&switch.file, switch.frozen).map_err(failed)?;
        let deadline = clock.elapsed() + FREEZE_DEADLINE;
        let mut polls: u32 = 0;
        while !switch.is_frozen().map_err(failed)? {
            if clock.elapsed() > deadline {
                return Err(fail("it does not freeze in time".to_owned()));
            }
            runtime.block_on(clock.sleep(FREEZE_POLL));
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(POLLS_PER_TRY) {
                // A process that waits for one that froze first never freezes: let both go on.
                switch.thaw().map_err(failed)?;
                runtime.block_on(clock.sleep(THAW_PAUSE));
                std::fs::write(&switch.file, switch.frozen).map_err(failed)?;
            }
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        match self.switch.thaw() {
            Ok(()) => drop(std::fs::remove_file(&self.note)),
            // Its processes may all have been killed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(std::fs::remove_file(&self.note));
            }
            Err(error) => tracing::error!(cgroup = self.cgroup, %error, "sandbox stays frozen"),
        }
    }
}

/// Thaws what a daemon noted as frozen and was killed before it thawed.
pub(crate) fn thaw_noted(notes: &Path) {
    let Ok(entries) = std::fs::read_dir(notes) else {
        return;
    };
    for note in entries.flatten().map(|entry| entry.path()) {
        let bounded = std::fs::metadata(&note).is_ok_and(|m| m.len() <= NOTE_BYTES_MAX);
        let cgroup = bounded
            .then(|| std::fs::read_to_string(&note).ok())
            .flatten();
        let switch = cgroup.as_deref().and_then(Switch::of);
        if let Some(Err(error)) = switch.map(|switch| switch.thaw()) {
            tracing::error!(?cgroup, %error, "sandbox stays frozen");
            continue;
        }
        tracing::warn!(?cgroup, "thaw what a killed daemon left frozen");
        drop(std::fs::remove_file(&note));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nacre_blobstore::SystemClock;

    use super::*;

    /// A process in a cgroup of its own.
    struct Scene {
        process: Child,
        cgroup: String,
        directory: PathBuf,
        notes: tempfile::TempDir,
    }

    impl Scene {
        fn new(name: &str) -> Self {
            let roots = ["freezer", "unified", ""].map(|sub| Path::new(CGROUPS).join(sub));
            let root = roots
                .into_iter()
                .find(|root| root.join("cgroup.procs").exists());
            let cgroup = format!("/nacre-test-{name}-{}", std::process::id());
            let directory = root.unwrap().join(&cgroup[1..]);
            std::fs::create_dir(&directory).expect("these tests need root");
            let process = Command::new("sleep").arg("1000").spawn().unwrap();
            let procs = directory.join("cgroup.procs");
            std::fs::write(procs, process.id().to_string()).unwrap();
            Self {
                process,
                cgroup,
                directory,
                notes: tempfile::tempdir().unwrap(),
            }
        }

        fn freeze(&self) -> Result<Frozen, SnapshotError> {
            // With workers: a handle does not drive the clock of a runtime that has none.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()
                .unwrap();
            let clock = SystemClock::new();
            Frozen::freeze(&self.cgroup, self.notes.path(), &clock, runtime.handle())
        }

        fn is_frozen(&self) -> bool {
            Switch::of(&self.cgroup).unwrap().is_frozen().unwrap()
        }

        fn notes(&self) -> usize {
            std::fs::read_dir(self.notes.path()).unwrap().count()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            Switch::of(&self.cgroup).unwrap().thaw().unwrap();
            self.process.kill().unwrap();
            self.process.wait().unwrap();
            while std::fs::remove_dir(&self.directory).is_err() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_cgroup_is_frozen_until_the_guard_is_dropped() {
        let scene = Scene::new("guard");
        let frozen = scene.freeze().unwrap();
        assert!(scene.is_frozen());
        assert_eq!(scene.notes(), 1);
        drop(frozen);
        assert!(!scene.is_frozen());
        assert_eq!(scene.notes(), 0);
    }

    #[test]
    fn what_a_killed_daemon_left_frozen_is_thawed() {
        let scene = Scene::new("killed");
        // As if the process ended here.
        std::mem::forget(scene.freeze().unwrap());
        assert!(scene.is_frozen());
        thaw_noted(scene.notes.path());
        assert!(!scene.is_frozen());
        assert_eq!(scene.notes(), 0);
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_cgroups() {
        for bad in ["", "/", "/..", "a/../..", "/nacre-there-is-none"] {
            assert!(Switch::of(bad).is_none(), "{bad:?}");
        }
    }
}
