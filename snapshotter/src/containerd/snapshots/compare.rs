//! Which snapshot two sets of mounts differ by.
//!
//! containerd compares mounts, not snapshots. Those of nacre name the directory of their snapshot;
//! they are recognised when they are, option by option, what this node would answer now for that
//! snapshot and for a view of its parent. Anything else is somebody else's to compare.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::SnapshotsError;
use super::super::mounts::{self, Mount};
use super::super::record::{Kind, RemoteLayer, Snapshot};
use super::super::table::Chain;
use super::Snapshots;

/// A snapshot with files of its own, and what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Its key or name.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) upper: PathBuf,
    /// The directories below, lowest first.
    pub(crate) below: Vec<PathBuf>,
    /// What is below these and served from the store.
    pub(crate) remote: Option<RemoteLayer>,
}

impl Snapshots {
    /// Returns the snapshot by which `right` differs from `left`, if there is one: `right` are its
    /// mounts, or those of a view of it, and `left` those of a view of its parent.
    ///
    /// # Errors
    /// [`SnapshotsError::Unavailable`] when a layer cannot be made ready.
    pub(in super::super) async fn compared(
        &self,
        left: &[Mount],
        right: &[Mount],
    ) -> Result<Option<Compared>, SnapshotsError> {
        let Some((snapshot, chain)) = self.named_by(right) else {
            return Ok(None);
        };
        self.ready_with_below(&snapshot, &chain).await?;
        let opened = self.open_chain(&chain, None).await?;
        let number = snapshot.number;
        let below = || mounts::lower(&self.disk, &chain, opened.as_ref());
        let of_view = |lower, number| -> Result<_, SnapshotsError> {
            let root = mounts::root(&self.disk, number, Kind::View, lower, opened.as_ref())?;
            Ok(mounts::all(root, Vec::new()))
        };
        let own = if snapshot.kind == Kind::Active {
            self.own_mounts(&snapshot, &chain).await?
        } else {
            let mut lower = below();
            lower.layers.insert(0, self.disk.files(number));
            of_view(lower, number)?
        };
        let is_parent = if below().layers.is_empty() {
            left.is_empty() || self.is_empty_view(left)
        } else {
            are_equal(left, &of_view(below(), number)?)
        };
        if !is_parent || !are_equal(right, &own) {
            return Ok(None);
        }
        Ok(Some(self.described(&snapshot, &chain)))
    }

    /// Returns the active snapshot whose name `matches`.
    ///
    /// # Errors
    /// [`SnapshotsError::Precondition`] when its directory cannot be made ready.
    pub(in super::super) async fn find_written(
        &self,
        matches: impl Fn(&str) -> bool,
    ) -> Result<Option<Compared>, SnapshotsError> {
        let found = {
            let state = self.lock();
            let mut all = state.table.all();
            let found = all.find(|found| found.kind == Kind::Active && matches(&found.name));
            found.and_then(|found| {
                let chain = state.table.chain(&found.parent).ok()?;
                Some((Arc::clone(found), chain))
            })
        };
        let Some((snapshot, chain)) = found else {
            return Ok(None);
        };
        self.ready_with_below(&snapshot, &chain).await?;
        Ok(Some(self.described(&snapshot, &chain)))
    }

    fn described(&self, snapshot: &Snapshot, chain: &Chain) -> Compared {
        let files = |number: &u64| self.disk.files(*number);
        Compared {
            name: snapshot.name.clone(),
            upper: files(&snapshot.number),
            below: chain.directories.iter().rev().map(files).collect(),
            remote: chain.remote,
        }
    }

    /// Returns the active or committed snapshot whose directory is on top in `mounts`, and the
    /// layers below it.
    fn named_by(&self, mounts: &[Mount]) -> Option<(Arc<Snapshot>, Chain)> {
        let number = number(mounts)?;
        let state = self.lock();
        let mut all = state.table.all();
        let found = all.find(|snapshot| {
            let has_directory = snapshot.kind != Kind::View && snapshot.remote.is_none();
            snapshot.number == number && has_directory
        });
        let found = Arc::clone(found?);
        let chain = state.table.chain(&found.parent).ok()?;
        Some((found, chain))
    }

    /// Tells whether mounts are those of a view of nothing.
    fn is_empty_view(&self, mounts: &[Mount]) -> bool {
        let Some(number) = number(mounts) else {
            return false;
        };
        let empty = mounts::lower(&self.disk, &Chain::default(), None);
        let expected = mounts::root(&self.disk, number, Kind::View, empty, None);
        let state = self.lock();
        let mut all = state.table.all();
        let is_view = all.any(|snapshot| {
            snapshot.number == number && snapshot.kind == Kind::View && snapshot.parent.is_empty()
        });
        is_view && expected.is_ok_and(|expected| are_equal(mounts, &[expected]))
    }
}

/// Returns the number of the directory that is on top in mounts that may be of a snapshot: in the
/// first, for others are shown below its root.
fn number(mounts: &[Mount]) -> Option<u64> {
    let mount = mounts.first()?;
    let options = || mount.options.iter();
    let upper = options().find_map(|option| option.strip_prefix("upperdir="));
    let lower = options().find_map(|option| option.strip_prefix("lowerdir="));
    // A path with a colon in it is written with a backslash, and compared later.
    let lower = lower.and_then(|paths| paths.split_inclusive("/fs").next());
    let files = Path::new(upper.or(lower).unwrap_or(&mount.source));
    let number = files.parent()?.file_name()?.to_str()?;
    number.parse().ok().filter(|_| files.ends_with("fs"))
}

/// Compares mounts; options have no order.
fn are_equal(one: &[Mount], other: &[Mount]) -> bool {
    let sorted = |mounts: &[Mount]| -> Vec<Mount> {
        let mut mounts = mounts.to_vec();
        for mount in &mut mounts {
            mount.options.sort_unstable();
        }
        mounts
    };
    sorted(one) == sorted(other)
}
