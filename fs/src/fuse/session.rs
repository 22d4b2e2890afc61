//! Mounting, taking over, and what must hold when a mount ends.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;

use super::handshake::{can_resend, resend, resume};
use super::in_use::{is_in_use, is_mounted_at};
use super::keeper::{KeeperOptions, Link, Negotiated, SessionRecord, Taken};
use super::{Adapter, Shared};
use crate::View;
use crate::mount::is_mount_point;

/// Threads that read requests of one mount.
const FUSE_THREADS: usize = 4;
/// How far the kernel reads ahead in one file, in KiB. A page fault waits for all that is read around
/// it, of which more may be missing; who reads in order is ahead by other means (`node_cache/read_ahead.rs`).
const READ_AHEAD_KIB: u32 = 64;
/// Dead mounts that may be stacked on a mount point before it is given up.
const STALE_MOUNTS_MAX: usize = 16;
/// How long a session that is left finishes what it answers. The next daemon does the rest.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

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
    /// which must outlive the session. A request that waits for longer than `wait_max`, whatever
    /// for, is answered with `EIO`; what it waits for goes on.
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
        wait_max: Duration,
    ) -> Result<ContentSession, SessionError> {
        detach_dead(mount_point)?;
        let shared = Shared::default();
        let adapter = Adapter::new(view, runtime, shared.clone(), wait_max);
        let fail = |source| kernel("mount", mount_point, source);
        let session = Session::new(adapter, mount_point, &config()).map_err(fail)?;
        let session = Self::serve(mount_point, session, shared)?;
        set_read_ahead(mount_point);
        Ok(session)
    }

    /// As [`ContentMount::mount`], but for a session that outlives this process: goes on with the one
    /// that a keeper holds for `mount_point`, and else mounts and starts a keeper.
    ///
    /// Requests that the daemon before had read and not answered are answered by this one. Inode
    /// numbers mean what they meant: `view` notes them in a log from now on. Whoever calls this is
    /// the only daemon of this mount point, by a lock that ends with its process.
    ///
    /// # Errors
    /// [`SessionError::Kernel`]. Without a working keeper it mounts nevertheless, and says so in the
    /// log.
    pub fn keep(
        mount_point: &Path,
        view: Arc<View>,
        runtime: Handle,
        wait_max: Duration,
        options: KeeperOptions,
    ) -> Result<ContentSession, SessionError> {
        if let Some(taken) = Taken::ask(&options) {
            let is_there = is_mounted_at(taken.record.device, mount_point);
            let restored =
                is_there.then(|| view.resume_inodes(&options.inode_log, taken.record.id));
            match restored {
                Some(Ok(inodes)) => {
                    tracing::info!(inodes, "take the session over");
                    let shared = Shared::default();
                    let adapter = Adapter::new(view, runtime, shared.clone(), wait_max);
                    return Self::take_over(mount_point, adapter, shared, taken, options);
                }
                Some(Err(error)) => tracing::error!(%error, "the kept session cannot go on"),
                None => tracing::warn!("the kept session is not mounted here any more"),
            }
            taken.end();
        }
        detach_all(mount_point)?;
        let mut session = Self::mount(mount_point, Arc::clone(&view), runtime, wait_max)?;
        session.start_keeper(&view, options);
        Ok(session)
    }

    fn take_over(
        mount_point: &Path,
        adapter: Adapter,
        shared: Shared,
        taken: Taken,
        options: KeeperOptions,
    ) -> Result<ContentSession, SessionError> {
        let fail = |source| kernel("take over", mount_point, source);
        let session = resume(adapter, &taken.device, &taken.record.negotiated, config());
        let session = session.map_err(fail)?;
        resend(session.as_fd()).map_err(fail)?;
        let mut session = Self::serve(mount_point, session, shared)?;
        session.link = Some(Link::resume(taken, options).map_err(fail)?);
        Ok(session)
    }

    fn serve(
        mount_point: &Path,
        session: Session<Adapter>,
        shared: Shared,
    ) -> Result<ContentSession, SessionError> {
        let fail = |source| kernel("mount", mount_point, source);
        let device = session.as_fd().try_clone_to_owned().map_err(fail)?;
        let background = session.spawn().map_err(fail)?;
        Ok(ContentSession {
            mount_point: mount_point.to_path_buf(),
            background: Some(background),
            device: Some(device),
            shared,
            link: None,
            is_mounted: true,
        })
    }
}

/// A live mount. Dropping it without [`ContentSession::unmount`] detaches it, unless it is kept: then
/// that is as if the process had died.
#[derive(Debug)]
pub struct ContentSession {
    mount_point: PathBuf,
    background: Option<BackgroundSession>,
    device: Option<std::os::fd::OwnedFd>,
    shared: Shared,
    link: Option<Link>,
    is_mounted: bool,
}

impl ContentSession {
    /// Returns where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Tells whether a keeper holds the session, so that it can be left.
    pub const fn is_kept(&self) -> bool {
        self.link.is_some()
    }

    /// Tells whether mounts or overlays other than its own mount point use it, or may do so.
    /// Open files below the mount point make [`ContentSession::unmount`] fail instead.
    pub fn is_in_use(&self) -> bool {
        let device = self.link.as_ref().map(Link::device);
        device.is_none_or(|device| is_in_use(device, &self.mount_point))
    }

    /// Unmounts. Doing so twice is harmless. Bind mounts of subdirectories and overlays on top of
    /// this mount go on being served for as long as they and this session exist. The keeper, if
    /// there is one, ends.
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
        if let Some(link) = self.link.take() {
            link.end();
        }
        Ok(())
    }

    /// Answers nothing new from now on, finishes what it answers in a bounded time, and leaves the
    /// session to the keeper: what the kernel asks waits for the next daemon. This process is to
    /// end soon; its reading threads stay as they are.
    pub async fn leave(mut self) {
        self.shared.is_left.store(true, Ordering::SeqCst);
        self.shared.tasks.close();
        let drained = tokio::time::timeout(LEAVE_DEADLINE, self.shared.tasks.wait());
        if drained.await.is_err() {
            tracing::info!("leave requests that still wait to the next daemon");
        }
        self.abandon();
        if let Some(link) = self.link.take() {
            let left = tokio::task::spawn_blocking(move || link.leave());
            if let Err(error) = left.await {
                tracing::error!(%error, "take leave of the keeper");
            }
        }
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
        self.shared.tasks.close();
        joined.map_err(|error| kernel("serve", &self.mount_point, error))
    }

    /// Notes inode numbers and starts a keeper. What goes wrong with that is logged.
    fn start_keeper(&mut self, view: &View, options: KeeperOptions) {
        let negotiated = self.shared.negotiated.get().copied().unwrap_or_default();
        if !can_resend(&negotiated) {
            tracing::warn!("this kernel cannot send requests again: mounts end with the daemon");
            return;
        }
        if let Err(error) = self.try_start_keeper(view, options, negotiated) {
            tracing::error!(%error, "mounts end with the daemon");
        }
    }

    fn try_start_keeper(
        &mut self,
        view: &View,
        options: KeeperOptions,
        negotiated: Negotiated,
    ) -> io::Result<()> {
        // The last look at the own mount: one that is killed while it waits for itself would not end
        // while a keeper keeps the session alive.
        let id = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let record = SessionRecord {
            id,
            device: fs::metadata(&self.mount_point)?.dev(),
            negotiated,
        };
        view.log_inodes(&options.inode_log, id)?;
        if let Some(device) = self.device.take() {
            self.link = Some(Link::start(options, record, device)?);
        }
        Ok(())
    }

    /// Lets go of the mount without unmounting it, which is what dropping `fuser`'s session does.
    fn abandon(&mut self) {
        self.is_mounted = false;
        std::mem::forget(self.background.take());
    }
}

impl Drop for ContentSession {
    fn drop(&mut self) {
        if self.is_mounted && self.is_kept() {
            self.shared.is_left.store(true, Ordering::SeqCst);
            self.abandon();
        }
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
    // A clone of the descriptor would end with the process, and what was read from it with it.
    config.clone_fd = false;
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

/// Detaches mounts at `mount_point` whose daemon and keeper are gone: what reaches them fails with
/// `ENOTCONN`. Of the calls on the mount point itself only statfs(2) does, as attributes are kept by
/// the kernel.
fn detach_dead(mount_point: &Path) -> Result<(), SessionError> {
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

/// Detaches all that is mounted at `mount_point`, for nobody will serve it any more. Asks nothing
/// of what is mounted, which might wait for ever.
fn detach_all(mount_point: &Path) -> Result<(), SessionError> {
    for _ in 0..STALE_MOUNTS_MAX {
        let fail = |error: crate::mount::MountError| {
            kernel("look at", mount_point, io::Error::other(error.to_string()))
        };
        if !is_mount_point(mount_point).map_err(fail)? {
            return Ok(());
        }
        tracing::info!(path = %mount_point.display(), "detach a mount that nobody serves");
        unmount(mount_point, UnmountFlags::DETACH)
            .map_err(|source| kernel("detach", mount_point, source.into()))?;
    }
    Ok(())
}

/// Sets how far the kernel reads ahead. Only root of the host may; without it reads are slower, not
/// wrong.
fn set_read_ahead(mount_point: &Path) {
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
