//! Mounting, and what must hold when a mount ends.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::Adapter;
use crate::View;

/// Threads that read requests of one mount.
const FUSE_THREADS: usize = 4;
/// How far the kernel reads ahead in one file, in KiB: about a frame. More would fetch what a page
/// fault into a shared library does not need; the default of 128 costs a round trip each.
const READ_AHEAD_KIB: u32 = 256;
/// Dead mounts that may be stacked on a mount point before it is given up.
const STALE_MOUNTS_MAX: usize = 16;

/// Why a mount could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Files below the mount point are in use.
    #[error("unmount {0}: files below it are in use")]
    Busy(PathBuf),
    /// The kernel refused.
    #[error("{verb} {path}: {source}")]
    Kernel {
        /// What was asked for.
        verb: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The node's FUSE mount.
#[derive(Debug)]
pub struct ContentMount;

impl ContentMount {
    /// Mounts `view` read-only at `mount_point`, an existing directory. Fetches run on `runtime`,
    /// which must outlive the session.
    ///
    /// What a killed daemon left mounted there, dead, is detached first. All users may enter, and
    /// set-uid bits and devices count as in the trees: keep the folder above from others.
    ///
    /// # Errors
    /// [`SessionError::Kernel`].
    pub fn mount(
        mount_point: &Path,
        view: Arc<View>,
        runtime: Handle,
    ) -> Result<ContentSession, SessionError> {
        detach_stale(mount_point)?;
        let tasks = TaskTracker::new();
        let adapter = Adapter::new(view, runtime, tasks.clone());
        let fail = |source| kernel("mount", mount_point, source);
        let session = Session::new(adapter, mount_point, &config()).map_err(fail)?;
        let background = session.spawn().map_err(fail)?;
        read_further_ahead(mount_point);
        let mount_point = mount_point.to_path_buf();
        Ok(ContentSession {
            mount_point,
            background: Some(background),
            tasks,
            is_mounted: true,
        })
    }
}

/// A live mount. Dropping it without [`ContentSession::unmount`] detaches it.
#[derive(Debug)]
pub struct ContentSession {
    mount_point: PathBuf,
    background: Option<BackgroundSession>,
    tasks: TaskTracker,
    is_mounted: bool,
}

impl ContentSession {
    /// Returns where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Unmounts. Doing so twice is harmless. Bind mounts of subdirectories and overlays on top of
    /// this mount go on being served for as long as they and this session exist.
    ///
    /// # Errors
    /// [`SessionError::Busy`], after which all goes on as before; [`SessionError::Kernel`].
    pub fn unmount(&mut self) -> Result<(), SessionError> {
        if !self.is_mounted {
            return Ok(());
        }
        match unmount(&self.mount_point, UnmountFlags::empty()) {
            // Invalid or absent: someone else unmounted it already.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => self.is_mounted = false,
            Err(Errno::BUSY) => return Err(SessionError::Busy(self.mount_point.clone())),
            Err(error) => return Err(kernel("unmount", &self.mount_point, error.into())),
        }
        Ok(())
    }

    /// Waits until the kernel has let go of an unmounted session: the last bind mount and overlay
    /// are gone and the last request is answered. Blocks; call it off the reactor.
    ///
    /// # Errors
    /// [`SessionError::Kernel`] with what ended the session.
    pub fn wait(mut self) -> Result<(), SessionError> {
        let joined = self
            .background
            .take()
            .map_or(Ok(()), BackgroundSession::join);
        self.tasks.close();
        joined.map_err(|error| kernel("serve", &self.mount_point, error))
    }
}

impl Drop for ContentSession {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = unmount(&self.mount_point, UnmountFlags::DETACH)
        {
            tracing::warn!(path = %self.mount_point.display(), %error, "detach the mount");
        }
    }
}

fn kernel(verb: &'static str, path: &Path, source: io::Error) -> SessionError {
    SessionError::Kernel {
        verb,
        path: path.to_path_buf(),
        source,
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(FUSE_THREADS);
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName("nacre".into()),
        MountOption::Subtype("nacre".into()),
        MountOption::DefaultPermissions,
        MountOption::Suid,
        MountOption::Dev,
        MountOption::NoAtime,
    ];
    config
}

/// Detaches mounts whose daemon is gone: what reaches it fails with `ENOTCONN`. Of the calls on the
/// mount point itself only statfs(2) does, as attributes are kept by the kernel.
fn detach_stale(mount_point: &Path) -> Result<(), SessionError> {
    for _ in 0..STALE_MOUNTS_MAX {
        match rustix::fs::statfs(mount_point) {
            Ok(_) => return Ok(()),
            Err(Errno::NOTCONN) => {
                tracing::info!(path = %mount_point.display(), "detach a dead mount");
                unmount(mount_point, UnmountFlags::DETACH)
                    .map_err(|source| kernel("detach", mount_point, source.into()))?;
            }
            Err(error) => return Err(kernel("look at", mount_point, error.into())),
        }
    }
    let many = io::Error::other("too many dead mounts on top of each other");
    Err(kernel("detach", mount_point, many))
}

/// Lets the kernel read ahead in larger requests than the protocol's handshake can ask for. Only
/// root of the host may; without it reads are slower, not wrong.
fn read_further_ahead(mount_point: &Path) {
    let set = fs::metadata(mount_point).and_then(|metadata| {
        let device = metadata.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        fs::write(file, READ_AHEAD_KIB.to_string())
    });
    if let Err(error) = set {
        tracing::info!(%error, "keep the kernel's default read-ahead");
    }
}
