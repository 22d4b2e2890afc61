//! Making snapshots of sandboxes.

use std::collections::BTreeSet;
use std::sync::Arc;

use nacre_blobstore::{
    CrashPoint, ItemKind, Lease, PackName, Record, RecordId, RecordKind, Ref, RefError,
    SecureError, StoreError, TreeId, WriterOptions, load_packs, read_ref, secure, sync_index,
    write_ref,
};
use tokio::runtime::Handle;

use super::api::{CreateSnapshot, CreatedSnapshot};
use super::mountable::Mountable;
use super::node::{FROZEN_FOLDER, Node, NodeError};
use crate::snapshot::{
    Capture, Captured, FoldBase, Globs, Snapshot, SnapshotError, SnapshotKind, SnapshotPayload,
    Tools, key_ref, name_snapshot, snapshot_ref,
};

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Most bytes of labels.
const LABELS_BYTES_MAX: usize = 64 << 10;
/// Longest path of a directory snapshot, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// What a creation works on.
struct Creation {
    request: CreateSnapshot,
    from: Arc<Mountable>,
    began: std::time::Duration,
}

impl Node {
    /// Makes a snapshot of what was written to an upper directory; it is durable in the store when
    /// this returns. With a key that was used before, returns what the first creation did.
    ///
    /// Costs in time, memory and requests what was written since the last snapshot of the directory,
    /// and the listings of the directories that it is in: beside at most two packs with the copies
    /// of their indexes the requests for a lease, the record and the names.
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
        load_packs(&self.options.store, &self.index, packs).await?;
        let holder = format!("snapshot of {}", creation.request.sandbox);
        let random = getrandom::u64().map_err(|_| NodeError::Stopped)?;
        let name = format!("snapshot-{random:016x}");
        let (store, clock) = (&self.options.store, &self.options.clock);
        let lease = Lease::acquire(Arc::clone(store), Arc::clone(clock), &name, &holder).await;
        let lease = lease.map_err(SnapshotError::from)?;
        let created = self.create_under(&creation, &lease).await;
        // Nobody waits for that; a lease that cannot be given back expires by itself.
        drop(tokio::spawn(async move {
            if let Err(error) = lease.release().await {
                tracing::warn!(%error, "could not release lease");
            }
        }));
        created
    }

    async fn create_under(
        &self,
        creation: &Creation,
        lease: &Lease,
    ) -> Result<CreatedSnapshot, NodeError> {
        let once = async || {
            let capture = capture_of(creation)?;
            let captured = self.capture(&creation.from, capture).await?;
            self.publish(creation, captured, lease).await
        };
        match once().await {
            // What the index knows may have been collected; what is known from the last time, too.
            Err(NodeError::Snapshot(
                error @ (SnapshotError::Missing(_) | SnapshotError::Secure(SecureError::Gone(_))),
            )) => {
                tracing::info!(%error, "capture again");
                drop(std::fs::remove_file(&creation.request.state));
                sync_index(&self.options.store, &self.index).await?;
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
    ) -> Result<(Captured, BTreeSet<PackName>), NodeError> {
        let tools = self.capture_tools();
        let base = self.fold_base(from).await;
        let lower = from.record.packs.clone();
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
    async fn fold_base(&self, from: &Mountable) -> FoldBase {
        let of = |image: &Mountable| FoldBase {
            tree: image.tree(),
            packs: image.record.packs.clone(),
        };
        if from.base == from.id.to_string() {
            return of(from);
        }
        match self.find_image(&from.base).await {
            Ok(image) => of(&image),
            Err(error) => {
                tracing::debug!(%error, "fold without the image at the start of the line");
                FoldBase::default()
            }
        }
    }

    /// Writes the record and then the refs.
    async fn publish(
        &self,
        creation: &Creation,
        (captured, packs): (Captured, BTreeSet<PackName>),
        lease: &Lease,
    ) -> Result<CreatedSnapshot, NodeError> {
        let Creation { request, from, .. } = creation;
        let store = &*self.options.store;
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
        store
            .put(&id.key(), bytes.into())
            .await
            .map_err(SnapshotError::from)?;
        self.options.crash.reach(CrashPoint::RecordPutAfter);
        // Nothing keeps what the sandbox was started from: its name may be gone since.
        let clock = &*self.options.clock;
        let secured = secure(store, clock, id, &record, None).await;
        let secured = secured.map_err(SnapshotError::from)?;
        lease.check().map_err(SnapshotError::from)?;
        secured.check(clock).map_err(SnapshotError::from)?;
        if let Some(key) = &request.key
            && !self.claim(key, id, now_ms).await?
            && let Some(first) = self.created_before(creation).await?
        {
            return Ok(first);
        }
        let unnamed = id.to_string();
        let name = request.name.as_ref().unwrap_or(&unnamed);
        name_snapshot(store, id, name, now_ms).await?;
        self.options.crash.reach(CrashPoint::RefChanged);
        let created = CreatedSnapshot {
            snapshot: unnamed.clone(),
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
            durability: DURABLE.to_owned(),
            skipped: captured.skipped.clone(),
        };
        if let Some(base) = from.tree() {
            captured.remember(&request.path, unnamed, &request.state, base);
        }
        Ok(created)
    }

    /// Takes a key for a snapshot; `false` when it is taken.
    async fn claim(&self, key: &str, record: RecordId, now_ms: u64) -> Result<bool, NodeError> {
        let target = Ref {
            record,
            changed_ms: now_ms,
        };
        let reference = key_ref(key).map_err(SnapshotError::from)?;
        match write_ref(&*self.options.store, &reference, target, None).await {
            Err(RefError::Store {
                source: StoreError::Exists(_),
                ..
            }) => Ok(false),
            written => Ok(written.map(|()| true).map_err(SnapshotError::from)?),
        }
    }

    /// Returns the result of the first creation with the key of this one, under the name that this
    /// one asks for: the first may have ended before it gave that.
    async fn created_before(
        &self,
        creation: &Creation,
    ) -> Result<Option<CreatedSnapshot>, NodeError> {
        let request = &creation.request;
        let Some(key) = &request.key else {
            return Ok(None);
        };
        let store = &*self.options.store;
        let reference = key_ref(key).map_err(SnapshotError::from)?;
        let found = read_ref(store, &reference)
            .await
            .map_err(SnapshotError::from)?;
        let Some((target, _)) = found else {
            return Ok(None);
        };
        let id = target.record.to_string();
        let first = Snapshot::find(store, &id).await?;
        let name = request.name.as_ref().unwrap_or(&id);
        let reference = snapshot_ref(name).map_err(SnapshotError::from)?;
        let named = read_ref(store, &reference).await;
        if named.map_err(SnapshotError::from)?.is_none() {
            name_snapshot(store, target.record, name, self.options.clock.now_ms()).await?;
        }
        let tree = first.tree();
        let parent = self.find_image(&first.payload.parent).await.ok();
        Ok(Some(CreatedSnapshot {
            unchanged: parent.is_some_and(|parent| parent.tree() == tree),
            tree: tree.map(|tree| tree.to_string()).unwrap_or_default(),
            name: request.name.clone(),
            snapshot: id,
            parent: first.payload.parent,
            base: first.payload.base,
            added: 0,
            modified: 0,
            removed: 0,
            bytes_changed: first.payload.bytes_changed,
            bytes_uploaded: 0,
            frozen_ms: 0.0,
            cloned: 0,
            total_ms: self.milliseconds_since(creation.began),
            durability: DURABLE.to_owned(),
            skipped: Vec::new(),
        }))
    }

    pub(super) fn milliseconds_since(&self, began: std::time::Duration) -> f64 {
        let elapsed = self.options.clock.elapsed().saturating_sub(began);
        elapsed.as_secs_f64() * 1000.0
    }
}

/// The last step of the ladder: the store has it.
const DURABLE: &str = "durable";

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
    let Creation { request, from, .. } = creation;
    Ok(Capture {
        upper: request.upper.clone(),
        state: request.state.clone(),
        base: from
            .tree()
            .ok_or_else(|| NodeError::NoTree(request.started_from.clone()))?,
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

fn check(request: &CreateSnapshot) -> Result<(), SnapshotError> {
    let invalid = |reason: &str| Err(SnapshotError::Invalid(reason.to_owned()));
    let path_ok = request.path.len() <= PATH_BYTES_MAX
        && request.path.starts_with('/')
        && !request
            .path
            .split('/')
            .any(|part| matches!(part, "." | ".."));
    if !path_ok {
        return invalid("the path is not absolute, or has `.` or `..` in it");
    }
    if request
        .key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX)
    {
        return invalid("the key is empty or longer than 1024 bytes");
    }
    let label_bytes = |(key, value): (&String, &String)| key.len() + value.len();
    if request.labels.iter().map(label_bytes).sum::<usize>() > LABELS_BYTES_MAX {
        return invalid("the labels are longer than 64 KiB");
    }
    if request
        .name
        .as_ref()
        .is_some_and(|name| name.parse::<RecordId>().is_ok())
    {
        return invalid("the name looks like an id");
    }
    if let Some(name) = &request.name {
        snapshot_ref(name)?;
    }
    Ok(())
}
