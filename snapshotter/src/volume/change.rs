//! Moving the heads of volumes.

use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, Clock, CrashHook, CrashPoint, Lease, Record, RecordId, RecordKind, Ref, RefError,
    StoreError, Version, read_epoch, resolve_packs, secure, write_ref,
};

use super::{Volume, check_name, first, remove_versions, version_ref, volume_ref, write_first};
use crate::snapshot::{SnapshotError, SnapshotPayload, name_snapshot};

/// Times that others may move a head first, before one who only restores gives up.
const ATTEMPTS_MAX: usize = 64;

/// Changes refs of volumes, under a lease that was acquired before anything was looked at.
#[derive(Debug)]
pub(crate) struct Leased {
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    lease: Lease,
    crash: CrashHook,
}

impl Leased {
    /// Acquires a lease; `holder` says who has it, for people.
    pub(crate) async fn acquire(
        store: &Arc<dyn BlobStore>,
        clock: &Arc<dyn Clock>,
        holder: &str,
        crash: CrashHook,
    ) -> Result<Self, SnapshotError> {
        let name = format!("volume-{}", super::random_id()?);
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        let lease = Lease::acquire(Arc::clone(&store), Arc::clone(&clock), &name, holder).await?;
        Ok(Self {
            store,
            clock,
            lease,
            crash,
        })
    }

    /// Gives the lease back; one that cannot be given back expires by itself.
    pub(crate) async fn release(self) {
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
    }

    /// Stores the record of a version.
    pub(crate) async fn put(&self, record: &Record) -> Result<RecordId, SnapshotError> {
        let (id, bytes) = record.encode();
        self.store.put(&id.key(), bytes.into()).await?;
        self.crash.reach(CrashPoint::RecordPutAfter);
        Ok(id)
    }

    /// Moves the head of a volume from the version `head`, whose ref was `seen`, to the stored record
    /// `next`; `false` when someone else moved it first. The version that it leaves has a ref of its
    /// own before.
    pub(crate) async fn advance(
        &self,
        (head, seen): (&Volume, &Version),
        (next, record): (RecordId, &Record),
    ) -> Result<bool, SnapshotError> {
        let (store, clock) = (&*self.store, &*self.clock);
        let left = secure(store, clock, head.record_id, &head.record, None).await?;
        let secured = secure(store, clock, next, record, None).await?;
        self.lease.check()?;
        left.check(clock)?;
        let target = |record| Ref {
            record,
            changed_ms: clock.now_ms(),
        };
        let version = version_ref(&head.version)?;
        match write_ref(store, &version, target(head.record_id), None).await {
            // By someone who was as far as this.
            Err(error) if is_raced(&error) => {}
            kept => kept?,
        }
        self.crash.reach(CrashPoint::VersionKept);
        self.lease.check()?;
        secured.check(clock)?;
        let reference = volume_ref(&head.name)?;
        match write_ref(store, &reference, target(next), Some(seen)).await {
            Err(error) if is_raced(&error) => {
                let now = Volume::find(store, &head.name).await;
                let gone = match &now {
                    Ok(now) => now.version.id != head.version.id,
                    Err(error) => matches!(error, SnapshotError::NoVolume(_)),
                };
                if gone {
                    // Removed meanwhile: its versions must not stay.
                    remove_versions(store, &head.version.id).await?;
                }
                now.map(|_| false)
            }
            moved => {
                moved?;
                self.crash.reach(CrashPoint::RefChanged);
                Ok(true)
            }
        }
    }

    /// Makes a volume of a tree that is stored. Nothing has the name before.
    pub(crate) async fn create(&self, name: &str, record: Record) -> Result<Volume, SnapshotError> {
        check_name(&*self.store, name).await?;
        let id = self.put(&record).await?;
        let secured = secure(&*self.store, &*self.clock, id, &record, None).await?;
        self.lease.check()?;
        secured.check(&*self.clock)?;
        let target = Ref {
            record: id,
            changed_ms: self.clock.now_ms(),
        };
        write_first(&*self.store, name, target).await?;
        self.crash.reach(CrashPoint::RefChanged);
        Volume::read(&*self.store, name, id).await
    }
}

/// Tells whether someone else was faster.
fn is_raced(error: &RefError) -> bool {
    matches!(
        error,
        RefError::Store {
            source: StoreError::Exists(_) | StoreError::Conflict(_) | StoreError::NotFound(_),
            ..
        }
    )
}

impl Volume {
    /// Makes the version `number` the head again, as a new version, whatever the head is.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`], [`SnapshotError::NoVersion`]; [`SnapshotError::Moved`] when
    /// others keep moving the head.
    pub async fn restore(
        store: &Arc<dyn BlobStore>,
        clock: &Arc<dyn Clock>,
        name: &str,
        number: u64,
    ) -> Result<Self, SnapshotError> {
        let holder = format!("restore of volume {name}");
        let leased = Leased::acquire(store, clock, &holder, CrashHook::default()).await?;
        let restored = leased.restore(name, number).await;
        leased.release().await;
        restored
    }

    /// Makes a volume of the head of another one; they are independent from then on. Costs the
    /// same whatever the volume holds.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`]; [`SnapshotError::Taken`] when something has the new name.
    pub async fn fork(
        store: &Arc<dyn BlobStore>,
        clock: &Arc<dyn Clock>,
        name: &str,
        new: &str,
    ) -> Result<Self, SnapshotError> {
        let holder = format!("fork of volume {name}");
        let leased = Leased::acquire(store, clock, &holder, CrashHook::default()).await?;
        let forked = async {
            let head = Self::find(&**store, name).await?;
            let parent = head.record_id.to_string();
            let payload = &head.payload;
            let from = (parent, payload.base.clone(), payload.config.clone());
            let payload = first(from, clock.now_ms())?;
            leased
                .create(new, record_of(&**store, &head, &payload).await?)
                .await
        };
        let forked = forked.await;
        leased.release().await;
        forked
    }

    /// Makes a snapshot of the head, called `tag` or else by its id: it stays what it is, and when
    /// the volume is removed. Returns the head. Costs the same whatever the volume holds.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`]; [`SnapshotError::Ref`] with a conflict when someone gives the
    /// name to something else at the same time.
    pub async fn snapshot(
        store: &Arc<dyn BlobStore>,
        clock: &Arc<dyn Clock>,
        name: &str,
        tag: Option<&str>,
    ) -> Result<Self, SnapshotError> {
        if tag.is_some_and(|tag| tag.parse::<RecordId>().is_ok()) {
            return Err(SnapshotError::Invalid(
                "the name looks like an id".to_owned(),
            ));
        }
        let holder = format!("snapshot of volume {name}");
        let leased = Leased::acquire(store, clock, &holder, CrashHook::default()).await?;
        let made = async {
            // Before the head is looked at, so that what is collected after that is noticed.
            let epoch = read_epoch(&**store).await?;
            let head = Self::find(&**store, name).await?;
            let (id, record) = (head.record_id, &head.record);
            let secured = secure(&**store, &**clock, id, record, Some(epoch)).await?;
            leased.lease.check()?;
            secured.check(&**clock)?;
            let unnamed = id.to_string();
            name_snapshot(&**store, id, tag.unwrap_or(&unnamed), clock.now_ms()).await?;
            Ok(head)
        };
        let made = made.await;
        leased.release().await;
        made
    }
}

impl Leased {
    async fn restore(&self, name: &str, number: u64) -> Result<Volume, SnapshotError> {
        for _ in 0..ATTEMPTS_MAX {
            let (head, seen) = Volume::find_to_change(&*self.store, name).await?;
            let old = head.at(&*self.store, number).await?;
            let payload = head.next(self.clock.now_ms())?;
            let record = record_of(&*self.store, &old, &payload).await?;
            let id = self.put(&record).await?;
            if self.advance((&head, &seen), (id, &record)).await? {
                return Volume::read(&*self.store, name, id).await;
            }
        }
        Err(SnapshotError::Moved(name.to_owned()))
    }
}

/// Makes the record of a new version that shows what `of` does.
async fn record_of(
    store: &dyn BlobStore,
    of: &Volume,
    payload: &SnapshotPayload,
) -> Result<Record, SnapshotError> {
    let tree = of.tree();
    let images = tree.and_then(|tree| Some((tree, *of.record.metadata_images.get(&tree)?)));
    Ok(Record {
        kind: RecordKind::Snapshot,
        trees: tree.into_iter().collect(),
        packs: resolve_packs(store, of.record_id, &of.record).await?,
        metadata_images: images.into_iter().collect(),
        payload: payload.encode(),
    })
}
