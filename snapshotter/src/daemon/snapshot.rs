//! Making snapshots of sandboxes.

mod again;
mod request;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{
    CrashPoint, ItemKind, Lease, PackName, Record, RecordKind, RefError, SecureError, StoreError,
    TreeId, WriterOptions, load_packs, resolve_packs, secure, sync_index,
};
use tokio::runtime::Handle;

use super::api::{CreateSnapshot, CreatedSnapshot, Rung};
use super::mountable::Mountable;
use super::node::{FROZEN_FOLDER, Node, NodeError};
use crate::pending::Entry;
use crate::snapshot::{
    Capture, Captured, FoldBase, Globs, SnapshotError, SnapshotKind, SnapshotPayload, Tools,
    claim_key, key_ref, name_snapshot,
};
use request::check;

/// What a creation works on.
struct Creation {
    request: CreateSnapshot,
    from: Arc<Mountable>,
    began: Duration,
}

impl Creation {
    /// Returns the root tree below the upper directory.
    fn base(&self) -> Result<TreeId, NodeError> {
        let no_tree = |name: &String| NodeError::NoTree(name.clone());
        match &self.request.tree {
            Some(tree) => tree.parse().map_err(|_| no_tree(tree)),
            None => (self.from.tree()).ok_or_else(|| no_tree(&self.request.started_from)),
        }
    }
}

/// Where a snapshot is made.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// On this node, to be uploaded later.
    Here,
    /// In the store, under a lease.
    Store(&'a Lease),
}

impl Node {
    /// Makes a snapshot of what was written to an upper directory. With [`Rung::Local`] it is on
    /// the disk of this node when this returns, usable there, and on its way to the store; else it
    /// is durable in the store. With a key that was used before, returns what the first creation
    /// did.
    ///
    /// Costs in time, memory and requests what was written since the last snapshot of the directory,
    /// and the listings of the directories that it is in: beside at most two packs with the copies
    /// of their indexes the requests for a lease, the record and the names. With [`Rung::Local`] it
    /// needs no request to succeed, but for the key.
    ///
    /// # Errors
    /// [`NodeError::Snapshot`]; nothing has the name then that had it not before.
    pub async fn create_snapshot(
        &self,
        request: CreateSnapshot,
    ) -> Result<CreatedSnapshot, NodeError> {
        let began = self.options.clock.elapsed();
        check(&request)?;
        let from = self.find_image(&request.started_from).await?;
        let creation = Creation {
            request,
            from,
            began,
        };
        if let Some(first) = self.created_before(&creation).await? {
            return Ok(first);
        }
        // What the sandbox was started from is being loaded, or known; what could not be had then
        // is asked for again, so that what is known of it is all, or why not.
        let packs = &creation.from.record.packs;
        self.loader.expect(packs).await?;
        self.loader.settled(packs).await;
        load_packs(&self.store, &self.index, packs).await?;
        if creation.request.wait == Rung::Local {
            self.pending.room().await;
            return self.create_by(&creation, Way::Here).await;
        }
        let holder = format!("snapshot of {}", creation.request.sandbox);
        let random = getrandom::u64().map_err(|_| NodeError::Stopped)?;
        let name = format!("snapshot-{random:016x}");
        let (store, clock) = (&self.options.store, &self.options.clock);
        let lease = Lease::acquire(Arc::clone(store), Arc::clone(clock), &name, &holder).await;
        let lease = lease.map_err(SnapshotError::from)?;
        let created = self.create_by(&creation, Way::Store(&lease)).await;
        // Nobody waits for that; a lease that cannot be given back expires by itself.
        drop(tokio::spawn(async move {
            if let Err(error) = lease.release().await {
                tracing::warn!(%error, "could not release lease");
            }
        }));
        created
    }

    async fn create_by(
        &self,
        creation: &Creation,
        way: Way<'_>,
    ) -> Result<CreatedSnapshot, NodeError> {
        let once = async || {
            let capture = capture_of(creation)?;
            let tools = match way {
                Way::Here => self.staging_tools(),
                Way::Store(_) => self.capture_tools(),
            };
            let captured = self.capture(&creation.from, capture, tools).await?;
            self.publish(creation, captured, way).await
        };
        match once().await {
            // What the index knows may have been collected; what is known from the last time, too.
            Err(NodeError::Snapshot(
                error @ (SnapshotError::Missing(_) | SnapshotError::Secure(SecureError::Gone(_))),
            )) => {
                tracing::info!(%error, "capture again");
                drop(std::fs::remove_file(&creation.request.state));
                sync_index(&self.store, &self.index).await?;
                once().await
            }
            created => created,
        }
    }

    /// Captures, and finds the packs that the snapshot needs.
    pub(super) async fn capture(
        &self,
        from: &Mountable,
        capture: Capture,
        tools: Tools,
    ) -> Result<(Captured, BTreeSet<PackName>), NodeError> {
        let base = self.fold_base(from).await?;
        let lower = self.needed_packs(from).await?;
        let captured = tokio::task::spawn_blocking(move || {
            let mut captured = tools.capture(&capture)?;
            let (mut packs, missing) = tools.index.packs_of(captured.items.iter().copied())?;
            if let Some(item) = missing.first() {
                return Err(SnapshotError::Missing(item.to_string()));
            }
            packs.extend(lower);
            if tools.should_fold(&packs, &base)? {
                let (folded, stats) = tools.fold(captured.tree, base)?;
                captured.stats.bytes_stored += stats.bytes_stored;
                packs = folded;
            }
            Ok((captured, packs))
        });
        Ok(captured.await.map_err(|_| NodeError::Stopped)??)
    }

    /// Returns the tools that write to what is staged.
    fn staging_tools(&self) -> Tools {
        Tools {
            store: Arc::clone(&self.pending.staged),
            ..self.capture_tools()
        }
    }

    pub(super) fn capture_tools(&self) -> Tools {
        Tools {
            store: Arc::clone(&self.options.store),
            index: Arc::clone(&self.index),
            reader: Arc::clone(&self.reader),
            clock: Arc::clone(&self.options.clock),
            writer: WriterOptions {
                crash: self.options.crash.clone(),
                ..WriterOptions::default()
            },
            runtime: Handle::current(),
            notes: self.options.root.join(FROZEN_FOLDER),
        }
    }

    /// Returns the packs that hold items which were just stored, or found stored.
    pub(super) fn packs_of(
        &self,
        items: impl IntoIterator<Item = ItemKind>,
    ) -> Result<BTreeSet<PackName>, NodeError> {
        let (packs, missing) = self.index.packs_of(items)?;
        match missing.first() {
            Some(item) => Err(SnapshotError::Missing(item.to_string()).into()),
            None => Ok(packs),
        }
    }

    /// Returns what is never copied when packs are folded: nothing, if the image is gone.
    async fn fold_base(&self, from: &Mountable) -> Result<FoldBase, NodeError> {
        let of = async |image: &Mountable| {
            Ok(FoldBase {
                tree: image.tree(),
                packs: self.needed_packs(image).await?,
            })
        };
        if from.base == from.id.to_string() {
            return of(from).await;
        }
        match self.find_image(&from.base).await {
            Ok(image) => of(&image).await,
            Err(error) => {
                tracing::debug!(%error, "fold without the image at the start of the line");
                Ok(FoldBase::default())
            }
        }
    }

    /// Returns the packs that a record needs: the store is asked only if any that it lists is gone
    /// and was repacked.
    pub(super) async fn needed_packs(
        &self,
        from: &Mountable,
    ) -> Result<BTreeSet<PackName>, NodeError> {
        let packs = &from.record.packs;
        for pack in packs {
            if self.index.is_moved(*pack)? {
                let resolved = resolve_packs(&*self.options.store, from.id, &from.record).await;
                return Ok(resolved.map_err(SnapshotError::from)?);
            }
        }
        Ok(packs.clone())
    }

    /// Writes the record and then the refs, or the entry that stands for them.
    async fn publish(
        &self,
        creation: &Creation,
        (captured, packs): (Captured, BTreeSet<PackName>),
        way: Way<'_>,
    ) -> Result<CreatedSnapshot, NodeError> {
        let Creation { request, from, .. } = creation;
        let parent = match captured.parent(&request.path) {
            Some(parent) => self.find_image(parent).await.ok(),
            None => None,
        };
        let parent = parent.unwrap_or_else(|| Arc::clone(from));
        let now_ms = self.options.clock.now_ms();
        let payload = SnapshotPayload {
            kind: kind_of(&request.path),
            path: request.path.clone(),
            parent: parent.id.to_string(),
            base: from.base.clone(),
            sandbox: request.sandbox.clone(),
            created_ms: now_ms,
            expires_ms: request.ttl_ms.map(|ttl| now_ms.saturating_add(ttl)),
            key: request.key.clone(),
            labels: request.labels.clone(),
            config: from.config.clone(),
            bytes_changed: captured.bytes_changed(),
            volume: None,
        };
        let record = record(from, captured.tree, packs, &payload);
        let (id, bytes) = record.encode();
        let bytes_uploaded = captured.stats.bytes_stored + bytes.len() as u64;
        let is_first = match way {
            Way::Here => {
                self.note_here(request, from, (&record, bytes), now_ms)
                    .await?
            }
            Way::Store(lease) => {
                let stored = self.name_in_store(request, (&record, bytes), now_ms, lease);
                stored.await?
            }
        };
        if !is_first {
            let first = self.created_before(creation).await?;
            return Ok(first.ok_or_else(|| raced(request.key.as_deref()))?);
        }
        let created = CreatedSnapshot {
            snapshot: id.to_string(),
            name: request.name.clone(),
            tree: captured.tree.to_string(),
            parent: payload.parent,
            base: payload.base,
            unchanged: parent.tree() == Some(captured.tree),
            added: captured.added(),
            modified: captured.modified(),
            removed: captured.removed(),
            bytes_changed: payload.bytes_changed,
            bytes_uploaded,
            frozen_ms: captured.frozen.as_secs_f64() * 1000.0,
            cloned: captured.cloned,
            total_ms: self.milliseconds_since(creation.began),
            durability: match way {
                Way::Here => Rung::Local,
                Way::Store(_) => Rung::Durable,
            },
            skipped: captured.skipped.clone(),
        };
        if let Ok(base) = creation.base() {
            captured.remember(&request.path, id.to_string(), &request.state, base);
        }
        Ok(created)
    }

    /// Stages the record and notes it as pending; `false` when another pending one has the key.
    async fn note_here(
        &self,
        request: &CreateSnapshot,
        from: &Mountable,
        (record, bytes): (&Record, Vec<u8>),
        now_ms: u64,
    ) -> Result<bool, NodeError> {
        let id = record.encode().0;
        let staged = self.pending.staged.put(&id.key(), bytes.into()).await;
        staged.map_err(SnapshotError::from)?;
        self.options.crash.reach(CrashPoint::RecordPutAfter);
        let entry = Entry {
            snapshot: id.to_string(),
            name: request.name.clone(),
            key: request.key.clone(),
            created_ms: now_ms,
        };
        self.pending.note(entry, record, &from.record.packs).await
    }

    /// Stores the record and gives it its names; `false` when its key is taken.
    async fn name_in_store(
        &self,
        request: &CreateSnapshot,
        (record, bytes): (&Record, Vec<u8>),
        now_ms: u64,
        lease: &Lease,
    ) -> Result<bool, NodeError> {
        let (store, clock) = (&*self.options.store, &*self.options.clock);
        // It may rely on what is pending.
        self.pending.promote(&record.packs).await?;
        let id = record.encode().0;
        let stored = store.put(&id.key(), bytes.into()).await;
        stored.map_err(SnapshotError::from)?;
        self.options.crash.reach(CrashPoint::RecordPutAfter);
        // Nothing keeps what the sandbox was started from: its name may be gone since.
        let secured = secure(store, clock, id, record, None).await;
        let secured = secured.map_err(SnapshotError::from)?;
        lease.check().map_err(SnapshotError::from)?;
        secured.check(clock).map_err(SnapshotError::from)?;
        if let Some(key) = &request.key
            && !claim_key(store, key, id, now_ms).await?
        {
            return Ok(false);
        }
        let unnamed = id.to_string();
        let name = request.name.as_ref().unwrap_or(&unnamed);
        name_snapshot(store, id, name, now_ms).await?;
        self.options.crash.reach(CrashPoint::RefChanged);
        Ok(true)
    }

    pub(super) fn milliseconds_since(&self, began: Duration) -> f64 {
        let elapsed = self.options.clock.elapsed().saturating_sub(began);
        elapsed.as_secs_f64() * 1000.0
    }
}

/// Says that the first snapshot with a key went while this one was made.
fn raced(key: Option<&str>) -> SnapshotError {
    match key_ref(key.unwrap_or_default()) {
        Ok(name) => SnapshotError::Ref(RefError::Store {
            source: StoreError::Conflict(name.key()),
            name: name.to_string(),
        }),
        Err(error) => error.into(),
    }
}

/// Makes the record; a tree that is the base's has its metadata image, too.
fn record(
    from: &Mountable,
    tree: TreeId,
    packs: BTreeSet<PackName>,
    payload: &SnapshotPayload,
) -> Record {
    let images = &from.record.metadata_images;
    let image = images.get(&tree).map(|image| (tree, *image));
    Record {
        kind: RecordKind::Snapshot,
        trees: vec![tree],
        packs,
        metadata_images: image.into_iter().collect(),
        payload: payload.encode(),
    }
}

fn capture_of(creation: &Creation) -> Result<Capture, NodeError> {
    let request = &creation.request;
    Ok(Capture {
        upper: request.upper.clone(),
        state: request.state.clone(),
        base: creation.base()?,
        cgroup: request.cgroup.clone(),
        path: request.path.clone(),
        excludes: Globs::new(&request.excludes).map_err(SnapshotError::Invalid)?,
    })
}

fn kind_of(path: &str) -> SnapshotKind {
    if path == "/" {
        SnapshotKind::Filesystem
    } else {
        SnapshotKind::Directory
    }
}
