//! The snapshots: table, index and directories as one.
//!
//! A change is checked, handed to the index and made in the table under one lock, and answered
//! when the index has it on the disk: what was answered survives a power loss, and the disk has the
//! changes in the order of the table. When a write fails all after it do, and the table is filled
//! anew from what the disk has. Directories are made before the record that names them and
//! removed after it is gone; a crash in between leaves a directory, which `Cleanup` removes.

mod attach;
mod compare;
mod held;
mod reap;
mod show;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nacre_blobstore::{Clock, TreeId};
use nacre_fs::mount::Lower;
use tokio::sync::mpsc;

use super::counters::Counters;
use super::disk::Disk;
use super::error::SnapshotsError;
use super::filter::Filter;
use super::index::{Change, SnapshotIndex, Written};
use super::labels::{self, Labels};
use super::lazy::LazyLayers;
use super::mounts::{self, Mount, OpenedLayer};
use super::options::Options;
use super::places;
use super::record::{Kind, Snapshot, Usage};
use super::shown::Shown;
use super::table::{Chain, Table};
use super::usage::{Gauge, measure};
use crate::daemon::MountMode;
pub(super) use compare::Compared;
use held::{Held, held_trees};
use reap::Reaper;

/// Committed snapshots that wait to be measured; others are when they are asked for.
const MEASURE_QUEUE_MAX: usize = 1024;

/// What the lock is for.
#[derive(Debug, Default)]
struct State {
    table: Table,
    /// Numbers of directories that are being made, or whose record is being removed.
    busy: HashSet<u64>,
}

/// The snapshots of a node.
#[derive(Debug)]
pub(super) struct Snapshots {
    state: Mutex<State>,
    index: SnapshotIndex,
    disk: Arc<Disk>,
    gauge: Arc<Gauge>,
    reaper: Reaper,
    lazy: Arc<dyn LazyLayers>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    to_measure: mpsc::Sender<String>,
}

impl Snapshots {
    /// Opens the index in `index` and the directories in `folder`. Blocks; must run on a runtime.
    pub(super) fn open(
        index: &Path,
        folder: &Path,
        lazy: Arc<dyn LazyLayers>,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>, SnapshotsError> {
        let index = SnapshotIndex::open(index)?;
        let table = Table::load(index.reload()?);
        let disk = Arc::new(Disk::open(folder)?);
        for snapshot in table.all() {
            disk.keep_free(snapshot.number);
        }
        for tree in held_trees(&table) {
            lazy.hold(tree);
        }
        let (to_measure, names) = mpsc::channel(MEASURE_QUEUE_MAX);
        let snapshots = Arc::new(Self {
            state: Mutex::new(State {
                table,
                busy: HashSet::new(),
            }),
            index,
            gauge: Arc::new(Gauge::new(Arc::clone(&clock))),
            reaper: Reaper::start(Arc::clone(&disk)),
            disk,
            lazy,
            clock,
            counters,
            to_measure,
        });
        drop(tokio::spawn(measure_committed(
            Arc::downgrade(&snapshots),
            names,
        )));
        Ok(snapshots)
    }

    /// Makes a view or an active snapshot and returns its mounts. An active one whose label says
    /// which layer it is to become is answered with [`SnapshotsError::Exists`] when that layer is
    /// there, committed, instead.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        kind: Kind,
        key: &str,
        parent: &str,
        mut labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotsError> {
        let chain = self.lock().table.check_new(key, parent)?;
        let mut options = Options::default();
        if kind == Kind::Active && labels.contains_key(labels::SNAPSHOT_REF) {
            self.attach(key, parent, &mut labels).await?;
        } else if kind == Kind::Active {
            options = Options::read(&labels)?;
        }
        let shown = self.find_shown(&options.mounts).await?;
        self.make_ready(chain.directories.clone()).await?;
        let opened = self.open_chain(&chain, options.mode()).await?;
        let beside = self.shown_mounts(&shown, options.mode()).await?;
        let held = Held::of(&self.lazy, chain.needs(&shown));
        let lower = mounts::lower(&self.disk, &chain, opened.as_ref());
        let number = self
            .create_directory(kind, &lower, options.quota_bytes, &shown)
            .await?;
        let root = mounts::root(&self.disk, number, kind, lower, opened.as_ref());
        let now_ns = self.clock.now_ns();
        let snapshot = Snapshot {
            name: key.to_owned(),
            number,
            parent: parent.to_owned(),
            kind,
            created_ns: now_ns,
            updated_ns: now_ns,
            labels,
            usage: None,
            remote: None,
            shown,
        };
        let made = root.and_then(|root| {
            let mut state = self.lock();
            // It may have been taken, or the parent removed, since it was checked.
            state.table.check_new(key, parent)?;
            let written = self.put(&mut state.table, snapshot)?;
            Ok((mounts::all(root, beside), written))
        });
        let written = match made {
            Ok((answer, written)) => self.written(written).await.map(|()| answer),
            Err(error) => Err(error),
        };
        self.lock().busy.remove(&number);
        match written {
            Ok(answer) => {
                held.keep();
                Ok(answer)
            }
            Err(error) => {
                self.reaper.remove(number).await;
                Err(error)
            }
        }
    }

    /// Returns the mounts of a view or an active snapshot, made ready again if need be.
    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotsError> {
        let (snapshot, chain) = {
            let state = self.lock();
            let snapshot = Arc::clone(state.table.get(key)?);
            let chain = state.table.chain(&snapshot.parent)?;
            (snapshot, chain)
        };
        if snapshot.kind == Kind::Committed {
            return Err(SnapshotsError::Precondition(format!(
                "snapshot {key:?} is committed: only views and active snapshots have mounts"
            )));
        }
        self.ready_with_below(&snapshot, &chain).await?;
        self.own_mounts(&snapshot, &chain).await
    }

    /// Returns the mounts of a view or an active snapshot, whose directories are ready.
    async fn own_mounts(
        &self,
        snapshot: &Snapshot,
        chain: &Chain,
    ) -> Result<Vec<Mount>, SnapshotsError> {
        let mode = Options::of(&snapshot.labels).mode();
        let opened = self.open_chain(chain, mode).await?;
        let lower = mounts::lower(&self.disk, chain, opened.as_ref());
        let (number, kind) = (snapshot.number, snapshot.kind);
        let root = mounts::root(&self.disk, number, kind, lower, opened.as_ref())?;
        let beside = self.shown_mounts(&snapshot.shown, mode).await?;
        Ok(mounts::all(root, beside))
    }

    /// Makes a committed snapshot of an active one. Looks at none of its files.
    pub(super) async fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<(), SnapshotsError> {
        let (written, released) = {
            let mut state = self.lock();
            let now_ns = self.clock.now_ns();
            let committed = state.table.committed(name, key, parent, labels, now_ns)?;
            let released = state.table.needs(state.table.get(key)?);
            let changes = vec![
                Change::Delete(key.to_owned()),
                Change::Put(name.to_owned(), committed.encode()),
            ];
            let written = self.index.hand_over(changes)?;
            self.gauge.forget(committed.number);
            state.table.remove(key);
            state.table.insert(Arc::new(committed));
            (written, released)
        };
        self.written(written).await?;
        self.release(released);
        // When too many wait it is measured when it is asked for.
        drop(self.to_measure.try_send(name.to_owned()));
        Ok(())
    }

    /// Removes a snapshot. Its key is free when this returns; its files go a little later.
    pub(super) async fn remove(&self, name: &str) -> Result<(), SnapshotsError> {
        let (written, removed, released) = {
            let mut state = self.lock();
            state.table.check_remove(name)?;
            let found = state.table.get(name).ok();
            let released = found.map(|found| state.table.needs(found));
            let written = self
                .index
                .hand_over(vec![Change::Delete(name.to_owned())])?;
            let removed = state.table.remove(name);
            if let Some(removed) = &removed {
                state.busy.insert(removed.number);
            }
            (written, removed, released.unwrap_or_default())
        };
        let gone = self.written(written).await;
        if let Some(removed) = removed {
            self.lock().busy.remove(&removed.number);
            if gone.is_ok() {
                self.gauge.forget(removed.number);
                self.reaper.remove(removed.number).await;
            }
        }
        gone?;
        self.release(released);
        Ok(())
    }

    fn release(&self, trees: Vec<TreeId>) {
        for tree in trees {
            self.lazy.release(tree);
        }
    }

    /// Returns a snapshot.
    pub(super) fn stat(&self, name: &str) -> Result<Arc<Snapshot>, SnapshotsError> {
        self.lock().table.get(name).cloned()
    }

    /// Changes labels, those that `mask` names.
    pub(super) async fn update(
        &self,
        name: &str,
        labels: &Labels,
        mask: &[String],
    ) -> Result<Arc<Snapshot>, SnapshotsError> {
        let (written, updated) = {
            let mut state = self.lock();
            let old = Arc::clone(state.table.get(name)?);
            let updated = Snapshot {
                labels: labels::updated(&old.labels, labels, mask)?,
                updated_ns: self.clock.now_ns(),
                ..(*old).clone()
            };
            let written = self.put(&mut state.table, updated)?;
            (written, Arc::clone(state.table.get(name)?))
        };
        self.written(written).await?;
        Ok(updated)
    }

    /// Returns the snapshots that match any of `filters`.
    pub(super) fn list(&self, filters: &[Filter]) -> Vec<Arc<Snapshot>> {
        self.lock().table.matching(filters)
    }

    /// Returns the space that a snapshot's own files take.
    pub(super) async fn usage(&self, name: &str) -> Result<Usage, SnapshotsError> {
        let snapshot = self.stat(name)?;
        if let Some(usage) = snapshot.usage {
            return Ok(usage);
        }
        let files = self.disk.files(snapshot.number);
        let fail = |error| SnapshotsError::disk("measure a snapshot", &error);
        if snapshot.kind != Kind::Committed {
            let measured = self.gauge.usage(snapshot.number, files).await;
            return measured.map_err(fail);
        }
        let usage = measure(files).await.map_err(fail)?;
        let written = {
            let mut state = self.lock();
            match state.table.get(name) {
                Ok(found) if found.number == snapshot.number && found.usage.is_none() => {
                    let measured = Snapshot {
                        usage: Some(usage),
                        ..(**found).clone()
                    };
                    Some(self.put(&mut state.table, measured)?)
                }
                _ => None,
            }
        };
        if let Some(written) = written {
            self.written(written).await?;
        }
        Ok(usage)
    }

    /// Removes the directories that no snapshot has, and waits for those that are being removed.
    pub(super) async fn cleanup(&self) -> Result<(), SnapshotsError> {
        self.reaper.wait().await;
        let (below, used) = {
            let state = self.lock();
            // With a damaged record it is not known whose directories are in use.
            if !state.table.is_whole() {
                tracing::warn!("directories stay, for the record of a snapshot is damaged");
                return Ok(());
            }
            let below = self.disk.number();
            let live = state.table.all().map(|snapshot| snapshot.number);
            (below, live.chain(state.busy.iter().copied()).collect())
        };
        let disk = Arc::clone(&self.disk);
        off_reactor(move || disk.sweep(below, &used)).await
    }

    /// Waits for what was handed over and closes the index. Blocks.
    pub(super) fn close(&self) {
        self.index.close();
    }

    /// Has no record written until what is returned is dropped.
    #[cfg(test)]
    pub(super) fn hold_records(&self) -> std::sync::mpsc::SyncSender<()> {
        self.index.hold()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a snapshot into table and index.
    fn put(&self, table: &mut Table, snapshot: Snapshot) -> Result<Written, SnapshotsError> {
        let change = Change::Put(snapshot.name.clone(), snapshot.encode());
        let written = self.index.hand_over(vec![change])?;
        table.insert(Arc::new(snapshot));
        Ok(written)
    }

    /// Waits until a change is on the disk. When it is not to be, fills the table anew.
    async fn written(&self, written: Written) -> Result<(), SnapshotsError> {
        let closed = || SnapshotsError::Unavailable("the daemon ends".to_owned());
        let error = match written.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err(closed()),
        };
        tracing::error!(%error, "take the snapshots back to what the disk has");
        tokio::task::block_in_place(|| {
            let mut state = self.lock();
            let table = Table::load(self.index.reload()?);
            for tree in held_trees(&table) {
                self.lazy.hold(tree);
            }
            for tree in held_trees(&state.table) {
                self.lazy.release(tree);
            }
            state.table = table;
            Err(error)
        })
    }

    async fn open_chain(
        &self,
        chain: &Chain,
        wanted: Option<MountMode>,
    ) -> Result<Option<OpenedLayer>, SnapshotsError> {
        match chain.remote {
            Some(remote) => self.lazy.open(remote, wanted).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes the directory of a snapshot ready, and those below it.
    async fn ready_with_below(
        &self,
        snapshot: &Snapshot,
        chain: &Chain,
    ) -> Result<(), SnapshotsError> {
        let mut numbers = chain.directories.clone();
        if snapshot.remote.is_none() {
            numbers.push(snapshot.number);
        }
        self.make_ready(numbers).await
    }

    async fn make_ready(&self, numbers: Vec<u64>) -> Result<(), SnapshotsError> {
        if self.disk.are_ready(&numbers) {
            return Ok(());
        }
        let disk = Arc::clone(&self.disk);
        off_reactor(move || disk.ready(&numbers)).await
    }

    /// Takes a number, which is busy until it is taken off, and makes its directory if it needs one:
    /// over layers with the attributes of their root, and with places for what is `shown`.
    async fn create_directory(
        &self,
        kind: Kind,
        lower: &Lower,
        quota_bytes: Option<u64>,
        shown: &[Shown],
    ) -> Result<u64, SnapshotsError> {
        let number = {
            let mut state = self.lock();
            let number = self.disk.number();
            state.busy.insert(number);
            number
        };
        let root = (!lower.layers.is_empty()).then(|| lower.top().to_owned());
        // A view of layers is these layers and nothing of its own.
        if kind == Kind::View && root.is_some() {
            return Ok(number);
        }
        let (disk, lower) = (Arc::clone(&self.disk), lower.clone());
        let paths: Vec<_> = shown.iter().map(|shown| shown.path.clone()).collect();
        let created = off_reactor(move || {
            disk.create(number, root.as_deref(), quota_bytes)?;
            let made = places::make(&disk, number, lower, &paths);
            made.inspect_err(|_| disk.remove(number))
        });
        let created = created.await;
        if created.is_err() {
            self.lock().busy.remove(&number);
        }
        created.map(|()| number)
    }
}

/// Measures committed snapshots, one after the other, for as long as the snapshots are there.
async fn measure_committed(
    snapshots: std::sync::Weak<Snapshots>,
    mut names: mpsc::Receiver<String>,
) {
    while let Some(name) = names.recv().await {
        let Some(snapshots) = snapshots.upgrade() else {
            return;
        };
        match snapshots.usage(&name).await {
            Ok(_) | Err(SnapshotsError::NotFound(_)) => {}
            Err(error) => tracing::debug!(name, %error, "measure a snapshot"),
        }
    }
}

async fn off_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotsError> + Send + 'static,
) -> Result<T, SnapshotsError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(SnapshotsError::Internal(error.to_string())))
}
