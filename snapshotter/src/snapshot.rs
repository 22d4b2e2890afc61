//! Snapshots: what sandboxes wrote, stored as the difference from what they were started from.
//!
//! ```text
//! upper directory --walk, frozen--> contents --chunk, hash--> data packs
//!                                   directories --over the base's trees--> tree packs
//! ```
//! A snapshot is a record with a whole, merged tree; what that shares with its base is the base's.
//! Order of writes: data packs, tree packs, the record, the ref of its key, the ref of its name: in
//! the store, or in what this node has staged, with an entry ([`crate::pending`]) in the place of
//! the refs. A snapshot that was not answered for left garbage at most.

mod capture;
mod clones;
mod contents;
mod error;
mod fold;
mod freeze;
mod glob;
mod overlay;
mod payload;
pub(crate) mod sealed;
mod stack;
mod state;
mod upper;

use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, Clock, Digest, Lease, Record, RecordError, RecordId, RecordKind, Ref, RefError,
    RefName, RefNameError, StoreError, TreeId, delete_ref, list_refs, read_ref, secure, write_ref,
};

pub(crate) use capture::{Capture, Captured, Tools};
pub use error::SnapshotError;
pub(crate) use fold::FoldBase;
pub(crate) use freeze::thaw_noted;
pub(crate) use glob::Globs;
pub use payload::{SnapshotKind, SnapshotPayload, VolumePayload};
pub(crate) use stack::Stack;

/// The namespace of the refs of snapshots. One without a name is called by its id.
pub const SNAPSHOTS_NAMESPACE: &str = "snapshots";
/// The namespace of the refs by which a retried creation finds the first one's result.
pub const SNAPSHOT_KEYS_NAMESPACE: &str = "snapshot-keys";

/// Times that others may move a name first, before a snapshot is called by its id.
const NAMING_ATTEMPTS_MAX: usize = 8;

/// A snapshot that was found in a store.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name; of one that has none its id.
    pub name: String,
    /// The id of its record.
    pub id: RecordId,
    /// Its record.
    pub record: Record,
    /// What the record says of it.
    pub payload: SnapshotPayload,
}

/// Returns the ref of the snapshot called `name`.
///
/// # Errors
/// [`RefNameError`] for text that can be no name.
pub fn snapshot_ref(name: &str) -> Result<RefName, RefNameError> {
    format!("{SNAPSHOTS_NAMESPACE}/{name}").parse()
}

/// Returns the ref of an idempotency key, which may be any text.
pub(crate) fn key_ref(key: &str) -> Result<RefName, RefNameError> {
    format!("{SNAPSHOT_KEYS_NAMESPACE}/{}", Digest::of(key.as_bytes())).parse()
}

impl Snapshot {
    /// Finds a snapshot by name, or by its whole id.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Kind`], and errors of the store.
    pub async fn find(store: &dyn BlobStore, name: &str) -> Result<Self, SnapshotError> {
        if let Ok(id) = name.parse() {
            return Self::read(store, name, id).await;
        }
        match read_ref(store, &snapshot_ref(name)?).await? {
            Some((target, _)) => Self::read(store, name, target.record).await,
            None => Err(SnapshotError::NotFound(name.to_owned())),
        }
    }

    async fn read(store: &dyn BlobStore, name: &str, id: RecordId) -> Result<Self, SnapshotError> {
        let record = match Record::read(store, id).await {
            Err(RecordError::Store(StoreError::NotFound(_))) => {
                return Err(SnapshotError::NotFound(name.to_owned()));
            }
            read => read?,
        };
        Self::of(name, id, record)
    }

    /// Takes a record for what it says to be.
    ///
    /// # Errors
    /// [`SnapshotError::Kind`] when that is no snapshot.
    pub(crate) fn of(name: &str, id: RecordId, record: Record) -> Result<Self, SnapshotError> {
        if record.kind != RecordKind::Snapshot {
            return Err(SnapshotError::Kind(name.to_owned()));
        }
        let payload = SnapshotPayload::decode(name, &record.payload)?;
        Ok(Self {
            name: name.to_owned(),
            id,
            record,
            payload,
        })
    }

    /// Returns all snapshots, sorted by name; one with several names occurs with each.
    ///
    /// # Errors
    /// [`SnapshotError`] for the first that cannot be read.
    pub async fn list(store: &dyn BlobStore) -> Result<Vec<Self>, SnapshotError> {
        let mut snapshots = Vec::new();
        for reference in list_refs(store, Some(SNAPSHOTS_NAMESPACE)).await? {
            // One that was removed since it was listed is no error.
            if let Some((target, _)) = read_ref(store, &reference).await? {
                let name = reference.as_str();
                let name = name.split_once('/').map_or(name, |(_, name)| name);
                snapshots.push(Self::read(store, name, target.record).await?);
            }
        }
        Ok(snapshots)
    }

    /// Takes a name away, or all names of a snapshot that is given by its id. What no other ref
    /// needs becomes garbage; with the last name goes the key that the snapshot was made with.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] when nothing has that name.
    pub async fn remove(store: &dyn BlobStore, name: &str) -> Result<(), SnapshotError> {
        let found = Self::find(store, name).await?;
        let by_id = name.parse::<RecordId>().is_ok();
        let (mut removed, mut left) = (0_u64, 0_u64);
        for reference in list_refs(store, Some(SNAPSHOTS_NAMESPACE)).await? {
            let target = read_ref(store, &reference).await?;
            if target.is_none_or(|(target, _)| target.record != found.id) {
                continue;
            }
            if by_id || reference == snapshot_ref(name)? {
                delete_ref(store, &reference).await?;
                removed += 1;
            } else {
                left += 1;
            }
        }
        if removed == 0 {
            return Err(SnapshotError::NotFound(name.to_owned()));
        }
        if let (0, Some(key)) = (left, &found.payload.key) {
            // It may have been that of another one before this was durable.
            let reference = key_ref(key)?;
            let target = read_ref(store, &reference).await?;
            if target.is_some_and(|(target, _)| target.record == found.id) {
                delete_ref(store, &reference).await?;
            }
        }
        Ok(())
    }

    /// Gives the snapshot `name` another name, taking that from whatever has it, unless someone
    /// else moves it at the same time. `holder` says who does so, for a lease.
    ///
    /// # Errors
    /// [`SnapshotError::Ref`] with a conflict when someone was faster.
    pub async fn tag(
        store: &Arc<dyn BlobStore>,
        clock: &Arc<dyn Clock>,
        name: &str,
        tag: &str,
        holder: &str,
    ) -> Result<Self, SnapshotError> {
        // The name that it has now may go at any time, and what it names be collected.
        let lease_name = format!("tag-{}", Digest::of(tag.as_bytes()));
        let lease =
            Lease::acquire(Arc::clone(store), Arc::clone(clock), &lease_name, holder).await?;
        let tagged = async {
            let found = Self::find(&**store, name).await?;
            let secured = secure(&**store, &**clock, found.id, &found.record, None).await?;
            lease.check()?;
            secured.check(&**clock)?;
            name_snapshot(&**store, found.id, tag, clock.now_ms()).await?;
            Ok(Self {
                name: tag.to_owned(),
                ..found
            })
        };
        let tagged = tagged.await;
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        tagged
    }

    /// Returns the root tree.
    pub fn tree(&self) -> Option<TreeId> {
        self.record.trees.last().copied()
    }
}

/// Tells whether a record is that of a snapshot whose time is over at `now_ms`: whether collection
/// may take its names and keys.
pub fn is_expired(record: &Record, now_ms: u64) -> bool {
    record.kind == RecordKind::Snapshot
        && SnapshotPayload::decode("", &record.payload)
            .is_ok_and(|payload| payload.expires_ms.is_some_and(|at| at <= now_ms))
}

/// Takes a key for a snapshot; `false` when another one has it.
pub(crate) async fn claim_key(
    store: &dyn BlobStore,
    key: &str,
    record: RecordId,
    now_ms: u64,
) -> Result<bool, SnapshotError> {
    let target = Ref {
        record,
        changed_ms: now_ms,
    };
    let reference = key_ref(key)?;
    match write_ref(store, &reference, target, None).await {
        Err(error) if is_raced(&error) => {
            let now = read_ref(store, &reference).await?;
            Ok(now.is_some_and(|(now, _)| now.record == record))
        }
        written => Ok(written.map(|()| true)?),
    }
}

/// Gives a snapshot that was made at `created_ms` the name that it asked for then, unless something
/// got the name later; that keeps it, and the snapshot is called by its id. Doing it twice changes
/// nothing.
pub(crate) async fn name_late(
    store: &dyn BlobStore,
    record: RecordId,
    name: Option<&str>,
    created_ms: u64,
) -> Result<(), SnapshotError> {
    let unnamed = record.to_string();
    if let Some(name) = name {
        let reference = snapshot_ref(name)?;
        for _ in 0..NAMING_ATTEMPTS_MAX {
            let before = read_ref(store, &reference).await?;
            let seen = match &before {
                Some((target, _)) if target.record == record => return Ok(()),
                Some((target, _)) if target.changed_ms > created_ms => {
                    return name_snapshot(store, record, &unnamed, created_ms).await;
                }
                before => before.as_ref().map(|(_, version)| version),
            };
            let target = Ref {
                record,
                changed_ms: created_ms,
            };
            match write_ref(store, &reference, target, seen).await {
                Err(error) if is_raced(&error) => {}
                written => return Ok(written?),
            }
        }
    }
    name_snapshot(store, record, name.unwrap_or(&unnamed), created_ms).await
}

/// Tells whether someone else changed a ref first.
fn is_raced(error: &RefError) -> bool {
    matches!(
        error,
        RefError::Store {
            source: StoreError::Exists(_) | StoreError::Conflict(_),
            ..
        }
    )
}

/// Gives a snapshot a name by compare-and-swap. Who does so at the same time for the same snapshot is
/// not in the way: forks of one state, captured in the same millisecond, are one snapshot.
pub(crate) async fn name_snapshot(
    store: &dyn BlobStore,
    record: RecordId,
    name: &str,
    now_ms: u64,
) -> Result<(), SnapshotError> {
    let reference = snapshot_ref(name)?;
    let before = read_ref(store, &reference).await?;
    let target = Ref {
        record,
        changed_ms: now_ms,
    };
    let seen = before.as_ref().map(|(_, version)| version);
    let error = match write_ref(store, &reference, target, seen).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let is_conflict = is_raced(&error);
    match read_ref(store, &reference).await {
        Ok(Some((now, _))) if is_conflict && now.record == record => Ok(()),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
