//! The trees mounted in a sandbox: `mounts.json`, and for each a directory `mounts/NUMBER/`.
//!
//! ```text
//! upper/ work/   the overlay's    merged/   where it is mounted on the host
//! state          a cache of whoever makes snapshots of `upper`
//! ```
//! The host's mount is what the sandbox's is a copy of: it keeps the layers below in use, and is
//! found and taken away as the root file system is. Numbers are not used twice.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nacre_fs::mount::{self, Lower, OverlaySpec, Umount, UpperDirs};
use serde::{Deserialize, Serialize};

use super::{Sandbox, init};
use crate::error::LaunchError;
use crate::spec::{ExtraMount, TreeMount};

/// Version of `mounts.json`.
const MOUNTS_VERSION: u32 = 1;
/// Most trees that may be mounted in one sandbox at a time.
pub(crate) const TREE_MOUNTS_MAX: usize = 256;

/// `mounts.json`: what is mounted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounts {
    version: u32,
    /// The number of the next mount.
    next: u32,
    pub(crate) mounts: Vec<NumberedMount>,
}

/// A tree that is mounted in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberedMount {
    pub(crate) number: u32,
    pub(crate) tree: TreeMount,
}

impl Mounts {
    /// Numbers the mounts that a sandbox starts with; what holds others comes before these.
    pub(crate) fn of(trees: &[TreeMount]) -> Result<Self, LaunchError> {
        let mut mounts = Self {
            version: MOUNTS_VERSION,
            next: 0,
            mounts: Vec::new(),
        };
        let mut trees = trees.to_vec();
        trees.sort_by_key(|tree| tree.target.split('/').count());
        for tree in trees {
            mounts.add(tree)?;
        }
        Ok(mounts)
    }

    /// Adds a mount, which must be the only one at its place.
    pub(crate) fn add(&mut self, tree: TreeMount) -> Result<NumberedMount, LaunchError> {
        check_target(&tree.target)?;
        let invalid = |reason: String| Err(LaunchError::Invalid(reason));
        if self.at(&tree.target).is_some() {
            return invalid(format!("two mounts at {}", tree.target));
        }
        if self.mounts.len() >= TREE_MOUNTS_MAX {
            return invalid(format!("more than {TREE_MOUNTS_MAX} mounts"));
        }
        let mount = NumberedMount {
            number: self.next,
            tree,
        };
        self.next = self.next.saturating_add(1);
        self.mounts.push(mount.clone());
        Ok(mount)
    }

    /// Returns the mount at a place.
    pub(crate) fn at(&self, target: &str) -> Option<&NumberedMount> {
        self.mounts.iter().find(|mount| mount.tree.target == target)
    }
}

/// Checks that a place is absolute, not the root, and written in one way only.
pub(crate) fn check_target(target: &str) -> Result<(), LaunchError> {
    let plain = target.strip_prefix('/').is_some_and(|names| {
        !names
            .split('/')
            .any(|name| matches!(name, "" | "." | "..") || name.contains('\0'))
    });
    if plain {
        return Ok(());
    }
    Err(LaunchError::Invalid(format!(
        "mount at {target:?}: it must be absolute, not the root, and without . and .."
    )))
}

/// The directories of a mount.
#[derive(Debug, Clone)]
pub(crate) struct MountDirs(PathBuf);

impl MountDirs {
    pub(crate) fn of(sandbox: &Path, number: u32) -> Self {
        Self(sandbox.join("mounts").join(number.to_string()))
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    pub(crate) fn merged(&self) -> PathBuf {
        self.0.join("merged")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Makes the directories. What a killed process left of them is taken away first.
    pub(crate) fn create(&self, lower: &Lower) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).recursive(true).create(&self.0)?;
        for name in ["work", "merged", "upper"] {
            private.create(self.0.join(name))?;
        }
        mount::copy_root_attributes(lower.top(), &self.upper())
    }

    /// Mounts the tree on the host, private: what is mounted in the sandbox stays there.
    pub(crate) fn mount(&self, tree: &TreeMount) -> Result<(), LaunchError> {
        mount::overlay(&OverlaySpec {
            lower: tree.lower.clone(),
            upper: Some(UpperDirs {
                upper: self.upper(),
                work: self.0.join("work"),
            }),
            target: self.merged(),
            options: super::overlay_options(&tree.lower),
        })?;
        mount::make_private(&self.merged(), tree.read_only)?;
        Ok(())
    }

    /// Takes the host's mount away. What is open in it stays valid.
    pub(crate) fn umount(&self) -> Result<(), LaunchError> {
        if mount::is_mount_point(&self.merged())? {
            mount::umount(&self.merged(), Umount::Detach)?;
        }
        Ok(())
    }
}

/// Returns what a runtime is told to show of the mounts that a sandbox starts with.
pub(crate) fn binds(sandbox: &Path, mounts: &Mounts) -> Vec<ExtraMount> {
    let bind = |mount: &NumberedMount| ExtraMount {
        source: MountDirs::of(sandbox, mount.number).merged(),
        target: mount.tree.target.clone().into(),
        read_only: mount.tree.read_only,
    };
    mounts.mounts.iter().map(bind).collect()
}

impl Sandbox {
    /// Returns what is mounted.
    pub(crate) fn mounts(&self) -> Result<Mounts, LaunchError> {
        let path = self.mounts_file();
        let found: Option<Mounts> = init::read_optional(&path)?;
        let Some(mounts) = found else {
            return Mounts::of(&[]);
        };
        let plain = |mount: &NumberedMount| check_target(&mount.tree.target).is_ok();
        if mounts.version == MOUNTS_VERSION && mounts.mounts.iter().all(plain) {
            return Ok(mounts);
        }
        Err(LaunchError::Corrupt {
            path,
            reason: "of another version, or a place that cannot be".to_owned(),
        })
    }

    /// Records what is mounted; needs the lock.
    pub(crate) fn set_mounts(&self, mounts: &Mounts) -> Result<(), LaunchError> {
        init::write_json(&self.mounts_file(), mounts)
    }

    pub(crate) fn mount_dirs(&self, number: u32) -> MountDirs {
        MountDirs::of(&self.dir, number)
    }

    /// Mounts all trees on the host, before the sandbox starts.
    pub(crate) fn mount_trees(&self) -> Result<(), LaunchError> {
        for mount in self.mounts()?.mounts {
            self.mount_dirs(mount.number).mount(&mount.tree)?;
        }
        Ok(())
    }

    fn mounts_file(&self) -> PathBuf {
        self.dir.join("mounts.json")
    }
}

/// Writes `mounts.json` and the directories of a sandbox that is being made.
pub(super) fn fill(staging: &Path, mounts: &Mounts) -> io::Result<()> {
    if mounts.mounts.is_empty() {
        return Ok(());
    }
    for mount in &mounts.mounts {
        MountDirs::of(staging, mount.number).create(&mount.tree.lower)?;
    }
    std::fs::write(staging.join("mounts.json"), serde_json::to_vec(mounts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(target: &str) -> TreeMount {
        TreeMount {
            target: target.to_owned(),
            name: "n".to_owned(),
            opened_from: "id".to_owned(),
            read_only: false,
            lower: Lower::directory("/".into()),
            volume: None,
        }
    }

    #[test]
    fn places_are_absolute_plain_and_taken_once() {
        for bad in ["", "/", "a", "/a/", "//a", "/a//b", "/./a", "/a/..", "/a\0"] {
            let refused = Mounts::of(&[tree(bad)]);
            assert!(matches!(refused, Err(LaunchError::Invalid(_))), "{bad:?}");
        }
        let twice = Mounts::of(&[tree("/a"), tree("/b"), tree("/a")]);
        assert!(matches!(twice, Err(LaunchError::Invalid(_))));
        let many: Vec<_> = (0..=TREE_MOUNTS_MAX)
            .map(|n| tree(&format!("/{n}")))
            .collect();
        assert!(Mounts::of(&many[1..]).is_ok());
        assert!(Mounts::of(&many).is_err());
    }

    #[test]
    fn what_holds_others_is_mounted_first_and_numbers_stay_used() {
        let mut mounts = Mounts::of(&[tree("/a/b/c"), tree("/a"), tree("/d/e")]).unwrap();
        let order: Vec<_> = mounts.mounts.iter().map(|m| &*m.tree.target).collect();
        assert_eq!(order, ["/a", "/d/e", "/a/b/c"]);
        mounts.mounts.clear();
        assert_eq!(mounts.add(tree("/a")).unwrap().number, 3);
    }
}
