//! Trees that come to and go from sandboxes that exist.

use std::io;
use std::path::{Path, PathBuf};

use super::{Launcher, blocking};
use crate::enter::{Inside, MountedDevice};
use crate::error::LaunchError;
use crate::sandbox::Sandbox;
use crate::sandbox::mounts::{Mounts, NumberedMount, check_target};
use crate::spec::{RuntimeKind, TreeMount, VolumeVersion};

/// A tree that is mounted in a sandbox.
#[derive(Debug, Clone)]
pub struct MountInfo {
    /// What is mounted where.
    pub tree: TreeMount,
    /// Tells this mount from all others, on any node.
    pub id: String,
    /// The overlay upper directory: what the sandbox wrote to it.
    pub upper: PathBuf,
    /// A file in which whoever makes snapshots of `upper` may keep what is learned of it.
    pub snapshot_state: PathBuf,
}

/// The mounts of a sandbox, which no other command changes meanwhile.
#[derive(Debug)]
pub struct LockedMounts {
    sandbox: Sandbox,
}

impl Launcher {
    /// Locks the mounts of a sandbox, until the result is dropped.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`]; [`LaunchError::Busy`] when another command is at work on it.
    pub fn lock_mounts(&self, name: &str) -> Result<LockedMounts, LaunchError> {
        let sandbox = Sandbox::open(&self.sandboxes, name)?;
        sandbox.lock()?;
        Ok(LockedMounts { sandbox })
    }
}

impl LockedMounts {
    /// Returns what is mounted.
    ///
    /// # Errors
    /// [`LaunchError::Corrupt`], [`LaunchError::Io`].
    pub fn list(&self) -> Result<Vec<MountInfo>, LaunchError> {
        mount_infos(&self.sandbox)
    }

    /// Mounts a tree in the running sandbox, with nothing written to it yet. What is mounted there
    /// by nacre is replaced: what is open in it stays valid, and what was written to it stays on the
    /// disk until the sandbox is removed, but nobody can see it any more.
    ///
    /// Ends half way when killed: the tree is mounted on the host, and recorded, or not.
    ///
    /// # Errors
    /// [`LaunchError::Invalid`] when the sandbox does not run, or the runtime is gVisor;
    /// [`LaunchError::Busy`] when another tree is mounted below the place; [`LaunchError::Io`]. The
    /// mounts are as they were then.
    pub async fn mount(self, tree: TreeMount) -> Result<Self, LaunchError> {
        blocking(move || {
            self.mount_now(tree)?;
            Ok(self)
        })
        .await
    }

    fn mount_now(&self, tree: TreeMount) -> Result<(), LaunchError> {
        let inside = self.inside()?;
        let before = self.sandbox.mounts()?;
        self.check_below(&before, &tree.target)?;
        let mut after = before.clone();
        let replaced = before.at(&tree.target).cloned();
        if let Some(replaced) = &replaced {
            after.mounts.retain(|mount| mount != replaced);
        }
        let target = PathBuf::from(&tree.target);
        let failed = || LaunchError::io("mount in sandbox", &target);
        let added = after.add(tree)?;
        let dirs = self.sandbox.mount_dirs(added.number);
        dirs.create(&added.tree.lower).map_err(failed())?;
        let old = replaced.map(|mount| self.sandbox.mount_dirs(mount.number));
        let mounted = || {
            let device = match &old {
                Some(old) => Some(MountedDevice::at(&old.merged()).map_err(failed())?),
                None => None,
            };
            dirs.mount(&added.tree)?;
            // Before it is in there: what is recorded and not there can be taken away.
            self.sandbox.set_mounts(&after)?;
            let entered = inside.mount(&dirs.merged(), &target, device);
            entered.map_err(failed())
        };
        match (mounted(), old) {
            (Ok(()), Some(old)) => old.umount(),
            (Ok(()), None) => Ok(()),
            (Err(error), _) => {
                self.sandbox.set_mounts(&before)?;
                dirs.umount()?;
                Err(error)
            }
        }
    }

    /// Takes a tree away from the sandbox, and forgets what was written to it; what is open in it
    /// stays valid.
    ///
    /// # Errors
    /// [`LaunchError::NotMounted`]; otherwise as for [`mount`](Self::mount).
    pub async fn umount(self, target: &str) -> Result<Self, LaunchError> {
        let target = target.to_owned();
        blocking(move || {
            self.umount_now(&target)?;
            Ok(self)
        })
        .await
    }

    fn umount_now(&self, target: &str) -> Result<(), LaunchError> {
        check_target(target)?;
        let mut mounts = self.sandbox.mounts()?;
        let Some(mount) = mounts.at(target).cloned() else {
            let (name, target) = (self.sandbox.name.clone(), target.to_owned());
            return Err(LaunchError::NotMounted { name, target });
        };
        self.check_below(&mounts, target)?;
        let inside = self.inside()?;
        let dirs = self.sandbox.mount_dirs(mount.number);
        let taken = || {
            let device = MountedDevice::at(&dirs.merged())?;
            inside.umount(Path::new(target), device)
        };
        match taken() {
            // A command that was killed recorded it and did not come to mount it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            taken => taken.map_err(LaunchError::io("unmount in sandbox", target))?,
        }
        mounts.mounts.retain(|kept| kept.number != mount.number);
        self.sandbox.set_mounts(&mounts)?;
        dirs.umount()
    }

    /// Notes which version of its volume a mount shows now.
    ///
    /// # Errors
    /// [`LaunchError::Io`], [`LaunchError::NotMounted`].
    pub fn set_version(&self, target: &str, version: VolumeVersion) -> Result<(), LaunchError> {
        let mut mounts: Mounts = self.sandbox.mounts()?;
        let mut at = mounts.mounts.iter_mut();
        let Some(mount) = at.find(|mount| mount.tree.target == target) else {
            let (name, target) = (self.sandbox.name.clone(), target.to_owned());
            return Err(LaunchError::NotMounted { name, target });
        };
        mount.tree.volume = Some(version);
        self.sandbox.set_mounts(&mounts)
    }

    /// Refuses to change what holds another mount, which would go with it or be hidden.
    fn check_below(&self, mounts: &Mounts, target: &str) -> Result<(), LaunchError> {
        let below = |path: &str| {
            let rest = path.strip_prefix(target);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        if mounts.mounts.iter().any(|mount| below(&mount.tree.target)) {
            let reason = "another tree is mounted below; take that away first";
            return Err(LaunchError::Busy(self.sandbox.name.clone(), reason));
        }
        Ok(())
    }

    /// Opens the namespace of the running sandbox.
    fn inside(&self) -> Result<Inside, LaunchError> {
        if self.sandbox.record.runtime == RuntimeKind::Runsc {
            let reason = "gVisor takes no mounts after the start; use --mount of run";
            return Err(LaunchError::Invalid(reason.to_owned()));
        }
        let init = match self.sandbox.init()? {
            Some(init) => init.pidfd(),
            None => Ok(None),
        };
        let name = &self.sandbox.name;
        let init = init.map_err(LaunchError::io("open process of", name))?;
        let init = init.ok_or_else(|| LaunchError::Invalid(format!("{name} is not running")))?;
        Ok(Inside { init })
    }
}

pub(super) fn mount_infos(sandbox: &Sandbox) -> Result<Vec<MountInfo>, LaunchError> {
    let info = |mount: NumberedMount| {
        let dirs = sandbox.mount_dirs(mount.number);
        MountInfo {
            id: format!("{}-{}", sandbox.record.container_id, mount.number),
            upper: dirs.upper(),
            snapshot_state: dirs.state(),
            tree: mount.tree,
        }
    };
    Ok(sandbox.mounts()?.mounts.into_iter().map(info).collect())
}
