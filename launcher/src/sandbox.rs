//! A sandbox on disk: `ROOT/sandboxes/NAME/`.
//!
//! ```text
//! sandbox.json        the record; its flock is held by who changes the sandbox
//! bundle/config.json  the OCI bundle        etc/     files shown in the sandbox's /etc
//! upper/ work/        the overlay's         rootfs/  where it is mounted
//! runtime/            the runtime's state   init.json, exit.json   the process
//! stdout.log stderr.log                     output of a detached sandbox
//! snapshot.state                            a cache of whoever makes snapshots of it
//! mounts.json mounts/ the trees that are mounted in it, if any
//! ```
//! A sandbox appears by one rename and disappears by one, so a crash never leaves part of one under
//! its name. After a power loss a sandbox made just before may be missing as a whole. What a dead
//! process left half made or half removed has a name that starts with a dot and is swept later.

mod init;
pub(crate) mod mounts;

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nacre_fs::mount::{self, Lower, OverlaySpec, Umount, UpperDirs};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bundle::Process;
use crate::error::LaunchError;
use crate::runtime::Runtime;
use crate::spec::{Network, RuntimeKind};
pub(crate) use init::Init;
use mounts::Mounts;

/// Version of `sandbox.json`.
const RECORD_VERSION: u32 = 2;
/// Longest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 4 << 20;
/// Longest name.
const NAME_BYTES_MAX: usize = 63;
/// What a sandbox half made, and one half removed, are called first.
const STAGING_PREFIX: &str = ".new-";
const REMOVED_PREFIX: &str = ".gone-";

/// `sandbox.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) container_id: String,
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) started_from: String,
    pub(crate) created_ms: u64,
    pub(crate) runtime: RuntimeKind,
    pub(crate) network: Network,
    pub(crate) stop_signal: i32,
    pub(crate) lower: Lower,
    pub(crate) process: Process,
}

impl Record {
    pub(crate) const VERSION: u32 = RECORD_VERSION;
}

/// Checks a name that a caller gave.
pub(crate) fn check_name(name: &str) -> Result<(), LaunchError> {
    let valid = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if valid {
        return Ok(());
    }
    Err(LaunchError::Invalid(format!(
        "{name:?} is no sandbox name (1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ . -, starting with a \
         letter or digit)"
    )))
}

/// A sandbox that exists.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    /// The open `sandbox.json`, for its lock.
    file: File,
}

impl Sandbox {
    /// Publishes a new sandbox, locked. `etc` are the files for its `/etc`.
    pub(crate) fn create(
        sandboxes: &Path,
        name: &str,
        record: Record,
        config: &Value,
        etc: &[(&str, Vec<u8>)],
        mounts: &Mounts,
    ) -> Result<Self, LaunchError> {
        // Shared with other creators; the sweeper wants it alone.
        let sweep_lock =
            File::open(sandboxes).map_err(LaunchError::io("open directory", sandboxes))?;
        flock(&sweep_lock, FlockOperation::LockShared)
            .map_err(LaunchError::io("lock", sandboxes))?;
        let staging = sandboxes.join(format!("{STAGING_PREFIX}{}", record.container_id));
        let filled = fill(&staging, &record, config, etc, mounts)
            .map_err(LaunchError::io("write sandbox", name));
        let dir = sandboxes.join(name);
        let published = filled.and_then(|file| {
            match renameat_with(CWD, &staging, CWD, &dir, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) => {
                    Err(LaunchError::Busy(name.to_owned(), "the name is taken"))
                }
                renamed => renamed
                    .map(|()| file)
                    .map_err(LaunchError::io("name sandbox", name)),
            }
        });
        if published.is_err() {
            remove_tree(&staging)?;
        }
        published.map(|file| Self {
            name: name.to_owned(),
            dir,
            record,
            file,
        })
    }

    /// Opens a sandbox by name.
    pub(crate) fn open(sandboxes: &Path, name: &str) -> Result<Self, LaunchError> {
        check_name(name)?;
        let dir = sandboxes.join(name);
        let path = dir.join("sandbox.json");
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(LaunchError::NotFound(name.to_owned()));
            }
            opened => opened.map_err(LaunchError::io("open", &path))?,
        };
        let record: Record = read_json(&file, &path)?;
        if record.version != RECORD_VERSION {
            let reason = format!("version {} is not {RECORD_VERSION}", record.version);
            return Err(LaunchError::Corrupt { path, reason });
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
            record,
            file,
        })
    }

    /// Takes the lock for a change, without waiting.
    pub(crate) fn lock(&self) -> Result<(), LaunchError> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| LaunchError::Busy(self.name.clone(), "another command is at work on it"))
    }

    pub(crate) fn unlock(&self) -> Result<(), LaunchError> {
        flock(&self.file, FlockOperation::Unlock).map_err(LaunchError::io("unlock", &self.name))
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::new(
            self.record.runtime,
            self.record.network,
            self.dir.join("runtime"),
        )
    }

    /// Mounts the root file system. With `is_ephemeral` nothing that is written there is ever synced:
    /// otherwise overlayfs writes all of the disk below out when it is unmounted, what the node just
    /// fetched with it (`fs/overlayfs/super.c`, `ovl_sync_fs`), to keep files that are removed next.
    pub(crate) fn mount_rootfs(&self, is_ephemeral: bool) -> Result<(), LaunchError> {
        let mut options = overlay_options(&self.record.lower);
        options.extend(is_ephemeral.then(|| "volatile".to_owned()));
        mount::overlay(&OverlaySpec {
            lower: self.record.lower.clone(),
            upper: Some(UpperDirs {
                upper: self.dir.join("upper"),
                work: self.dir.join("work"),
            }),
            target: self.rootfs(),
            options,
        })?;
        Ok(())
    }

    /// Removes the files of a sandbox whose process is dead; needs the lock.
    pub(crate) fn remove_files(self) -> Result<(), LaunchError> {
        for point in mount::mounts_below(&self.dir)? {
            mount::umount(&point, Umount::Detach)?;
        }
        let removed = format!("{REMOVED_PREFIX}{}", self.record.container_id);
        let removed = self.dir.with_file_name(removed);
        renameat_with(CWD, &self.dir, CWD, &removed, RenameFlags::NOREPLACE)
            .map_err(LaunchError::io("remove sandbox", &self.name))?;
        remove_tree(&removed)
    }
}

/// Returns the options of an overlay with an upper directory. Data-only layers bring metacopy and
/// redirects with them; without such layers the upper directory holds whole files and directories.
fn overlay_options(lower: &Lower) -> Vec<String> {
    let options: &[&str] = if lower.data.is_empty() {
        &["redirect_dir=off", "metacopy=off", "index=off"]
    } else {
        &["index=off"]
    };
    options.iter().map(ToString::to_string).collect()
}

fn fill(
    staging: &Path,
    record: &Record,
    config: &Value,
    etc: &[(&str, Vec<u8>)],
    mounts: &Mounts,
) -> io::Result<File> {
    let mut private = DirBuilder::new();
    private.mode(0o711).create(staging)?;
    for name in ["bundle", "rootfs", "work", "etc", "runtime"] {
        private.mode(0o700).create(staging.join(name))?;
    }
    // The upper directory's own attributes are those of the sandbox's root directory.
    private.mode(0o755).create(staging.join("upper"))?;
    mount::copy_root_attributes(record.lower.top(), &staging.join("upper"))?;
    for (name, bytes) in etc {
        std::fs::write(staging.join("etc").join(name), bytes)?;
    }
    std::fs::write(
        staging.join("bundle/config.json"),
        serde_json::to_vec(config)?,
    )?;
    mounts::fill(staging, mounts)?;
    let path = staging.join("sandbox.json");
    let mut file = File::create_new(&path)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    nacre_blobstore::sync_directory(staging)?;
    // A new description: this one is kept open for reading and locking.
    let file = File::open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Reads a JSON file of bounded length.
fn read_json<T: serde::de::DeserializeOwned>(file: &File, path: &Path) -> Result<T, LaunchError> {
    let mut bytes = Vec::new();
    let mut bounded = file.take(RECORD_BYTES_MAX);
    bounded
        .read_to_end(&mut bytes)
        .map_err(LaunchError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| LaunchError::Corrupt {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

/// Removes a directory that has lost its name; what another process removes meanwhile is no error.
fn remove_tree(dir: &Path) -> Result<(), LaunchError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(LaunchError::io("remove directory", dir)(e))
        }
        _ => Ok(()),
    }
}

/// Returns the names of all sandboxes, sorted.
pub(crate) fn names(sandboxes: &Path) -> Result<Vec<String>, LaunchError> {
    let listing = || -> io::Result<Vec<String>> {
        std::fs::read_dir(sandboxes)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let mut names = listing().map_err(LaunchError::io("list", sandboxes))?;
    names.sort();
    names.retain(|name| check_name(name).is_ok());
    Ok(names)
}

/// Removes what processes that died while making or removing a sandbox left behind, unless one is
/// being made right now.
pub(crate) fn sweep(sandboxes: &Path) -> Result<(), LaunchError> {
    let lock = File::open(sandboxes).map_err(LaunchError::io("open directory", sandboxes))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let entries = std::fs::read_dir(sandboxes).map_err(LaunchError::io("list", sandboxes))?;
    for entry in entries {
        let entry = entry.map_err(LaunchError::io("list", sandboxes))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(STAGING_PREFIX) || name.starts_with(REMOVED_PREFIX) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}
