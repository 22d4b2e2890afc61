//! All snapshots in memory, and the rules of what may become of them. Does no I/O.
//!
//! Keys of views and active snapshots and names of committed ones are one key space, as in
//! containerd. A snapshot is changed by replacing it, so who holds one has it as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nacre_blobstore::TreeId;

use super::error::SnapshotsError;
use super::filter::{Filter, Narrowed};
use super::labels::Labels;
use super::record::{Kind, RemoteLayer, Snapshot};
use super::shown::Shown;

/// Most snapshots; each takes about a KiB of memory.
const SNAPSHOTS_MAX: usize = 1 << 20;
/// Most bytes of a key or name.
const NAME_BYTES_MAX: usize = 4096;
/// Most snapshots from one down to the root: overlayfs takes no more layers.
const DEPTH_MAX: usize = 500;

/// The layers below a snapshot, topmost first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The numbers of those with a directory.
    pub(super) directories: Vec<u64>,
    /// What is below all these and served from the store.
    pub(super) remote: Option<RemoteLayer>,
}

impl Chain {
    /// Returns the trees that a snapshot over these layers needs mounts of, `shown` among them.
    pub(super) fn needs(&self, shown: &[Shown]) -> Vec<TreeId> {
        let layers = self.remote.into_iter();
        let layers = layers.chain(shown.iter().map(|shown| shown.layer));
        layers.map(|layer| layer.tree).collect()
    }
}

/// The snapshots.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_name: BTreeMap<String, Arc<Snapshot>>,
    children: HashMap<String, BTreeSet<String>>,
    /// Names whose record cannot be read; they can only be removed.
    damaged: BTreeSet<String>,
}

impl Table {
    /// Fills a table with what the index has. A bad row is logged and kept as such.
    pub(super) fn load(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let mut table = Self::default();
        for (name, record) in rows {
            // Whoever wrote the row wrote text.
            let name = String::from_utf8_lossy(&name).into_owned();
            match Snapshot::decode(&name, &record) {
                Some(snapshot) => table.insert(Arc::new(snapshot)),
                None => {
                    tracing::error!(name, "the record of a snapshot is damaged");
                    table.damaged.insert(name);
                }
            }
        }
        table
    }

    /// Returns a snapshot.
    pub(super) fn get(&self, name: &str) -> Result<&Arc<Snapshot>, SnapshotsError> {
        if self.damaged.contains(name) {
            return Err(SnapshotsError::Damaged(name.to_owned()));
        }
        let found = self.by_name.get(name);
        found.ok_or_else(|| SnapshotsError::NotFound(name.to_owned()))
    }

    /// Tells whether a name is taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.damaged.contains(name)
    }

    /// Tells whether the numbers of all directories that are in use are known.
    pub(super) fn is_whole(&self) -> bool {
        self.damaged.is_empty()
    }

    /// Returns all snapshots, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.by_name.values()
    }

    /// Returns how many snapshots there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Checks that a snapshot `key` can be made over `parent`, and returns the layers below it.
    pub(super) fn check_new(&self, key: &str, parent: &str) -> Result<Chain, SnapshotsError> {
        check_name(key)?;
        if self.has(key) {
            return Err(SnapshotsError::Exists(key.to_owned()));
        }
        if self.by_name.len() >= SNAPSHOTS_MAX {
            return Err(SnapshotsError::Exhausted(format!(
                "there are {SNAPSHOTS_MAX} snapshots"
            )));
        }
        if parent.is_empty() {
            return Ok(Chain::default());
        }
        let found = self.get(parent)?;
        if found.kind != Kind::Committed {
            return Err(SnapshotsError::Invalid(format!(
                "parent {parent:?} is not committed"
            )));
        }
        self.chain(parent)
    }

    /// Returns the layers from a committed snapshot down; of `""` none.
    pub(super) fn chain(&self, name: &str) -> Result<Chain, SnapshotsError> {
        let mut chain = Chain::default();
        let mut name = name;
        let mut depth = 0;
        while !name.is_empty() {
            let snapshot = self.get(name)?;
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(SnapshotsError::Precondition(format!(
                    "more than {DEPTH_MAX} layers"
                )));
            }
            match snapshot.remote {
                // Its tree is that of all layers below it, too.
                Some(remote) => {
                    chain.remote = Some(remote);
                    return Ok(chain);
                }
                None => chain.directories.push(snapshot.number),
            }
            name = &snapshot.parent;
        }
        Ok(chain)
    }

    /// Returns the trees that a view or an active snapshot needs mounts of; none for others.
    pub(super) fn needs(&self, snapshot: &Snapshot) -> Vec<TreeId> {
        if snapshot.kind == Kind::Committed {
            return Vec::new();
        }
        let chain = self.chain(&snapshot.parent).unwrap_or_default();
        chain.needs(&snapshot.shown)
    }

    /// Adds a snapshot, or puts it in the place of the one of its name.
    pub(super) fn insert(&mut self, snapshot: Arc<Snapshot>) {
        if !snapshot.parent.is_empty() {
            let siblings = self.children.entry(snapshot.parent.clone()).or_default();
            siblings.insert(snapshot.name.clone());
        }
        self.by_name.insert(snapshot.name.clone(), snapshot);
    }

    /// Takes a snapshot away; `None` when its record was damaged.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Snapshot>> {
        if self.damaged.remove(name) {
            return None;
        }
        let snapshot = self.by_name.remove(name)?;
        if let Some(siblings) = self.children.get_mut(&snapshot.parent) {
            siblings.remove(name);
            if siblings.is_empty() {
                self.children.remove(&snapshot.parent);
            }
        }
        Some(snapshot)
    }

    /// Checks that a snapshot can be removed, whatever kind it is.
    pub(super) fn check_remove(&self, name: &str) -> Result<(), SnapshotsError> {
        if !self.has(name) {
            return Err(SnapshotsError::NotFound(name.to_owned()));
        }
        if self.children.contains_key(name) {
            return Err(SnapshotsError::Precondition(format!(
                "cannot remove snapshot {name:?}: it has children"
            )));
        }
        Ok(())
    }

    /// Returns what `key` becomes when it is committed as `name`. A `parent` other than its own
    /// would move it to other layers.
    pub(super) fn committed(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: Labels,
        now_ns: u64,
    ) -> Result<Snapshot, SnapshotsError> {
        check_name(name)?;
        if self.has(name) {
            return Err(SnapshotsError::Exists(name.to_owned()));
        }
        let active = self.get(key)?;
        if active.kind != Kind::Active {
            return Err(SnapshotsError::Precondition(format!(
                "snapshot {key:?} is not active"
            )));
        }
        if !parent.is_empty() && parent != active.parent {
            return Err(SnapshotsError::Invalid(format!(
                "snapshot {key:?} has another parent than {parent:?}"
            )));
        }
        Ok(Snapshot {
            name: name.to_owned(),
            kind: Kind::Committed,
            created_ns: now_ns,
            updated_ns: now_ns,
            labels,
            // They were the container's, and are no part of its files.
            shown: Vec::new(),
            ..(**active).clone()
        })
    }

    /// Returns the snapshots that match any of `filters`, by name; all without a filter.
    pub(super) fn matching(&self, filters: &[Filter]) -> Vec<Arc<Snapshot>> {
        if filters.is_empty() {
            return self.by_name.values().cloned().collect();
        }
        let mut found = BTreeMap::new();
        for filter in filters {
            let candidates: Box<dyn Iterator<Item = &Arc<Snapshot>>> = match filter.narrowed() {
                Narrowed::Name(name) => Box::new(self.by_name.get(name).into_iter()),
                Narrowed::Parent(parent) if !parent.is_empty() => {
                    let names = self.children.get(parent).into_iter().flatten();
                    Box::new(names.filter_map(|name| self.by_name.get(name)))
                }
                Narrowed::Parent(_) | Narrowed::All => Box::new(self.by_name.values()),
            };
            let matching = candidates.filter(|snapshot| filter.matches(snapshot));
            found.extend(matching.map(|snapshot| (&snapshot.name, snapshot)));
        }
        found.into_values().cloned().collect()
    }
}

fn check_name(name: &str) -> Result<(), SnapshotsError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(SnapshotsError::Invalid(format!(
            "a key or name has 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
