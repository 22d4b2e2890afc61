//! Collection: deleting what no ref reaches, beside writers on other nodes.
//!
//! ```text
//! unreachable --mark--> condemned --hold, and no older lease--> doomed --mark again--> deleted
//!                           |                                      |
//!                  a writer takes it off the note         reached meanwhile: kept
//! ```
//! A writer may come to rely on an object that nothing reaches yet. So objects are *condemned*
//! first, in notes that writers read before they change a ref ([`secure`]); what they need they
//! take off. Objects are deleted only once the hold is over, no lease is live that is older than
//! the note, the note says that they are *doomed*, and a mark made after all that still does not
//! reach them. `docs/SEMANTICS.md` has the argument why no ref ever reaches what is deleted.
//!
//! Deletes go in the reverse order of writes: refs, records, metadata images, trees, chunks. A run
//! may die anywhere: its notes stay, and the next run goes on. One run at a time, by a lease.

mod census;
mod condemn;
mod condemned;
mod epoch;
mod expire;
mod mark;
mod moved;
mod repack;
mod rescue;
mod sweep;
mod usage;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::crash::CrashHook;
use crate::envelope::EnvelopeError;
use crate::refs::RefError;
use crate::{
    BlobStore, Clock, Key, Lease, LeaseError, PackName, Record, RecordError, RefName, StoreError,
};

pub(crate) use condemned::condemned_keys;
pub use condemned::{Collected, CollectedKind, Condemned};
pub use epoch::{Epoch, read_epoch};
pub use moved::{Moved, resolve_packs};
pub(crate) use moved::{Moves, successors};
pub use repack::{REPACK_BYTES_MAX, REPACK_SHARE_PERCENT};
pub use rescue::{SECURED_FOR, SecureError, Secured, secure};
pub use usage::{RootUsage, Usage, usage};

use mark::Marked;
use sweep::Sorted;

/// How long objects stay condemned by default.
pub const GC_HOLD: Duration = Duration::from_secs(24 * 3600);
/// The lease that one collector at a time holds.
const GC_LEASE: &str = "gc";

/// Says which refs have expired at a time, in milliseconds since 1970.
pub type Expiry = dyn Fn(&RefName, &Record, u64) -> bool + Send + Sync;

/// How to collect.
#[derive(Clone)]
pub struct GcOptions {
    /// How long objects stay condemned before they are deleted. Below some minutes a writer that
    /// stops to run for longer than its lease holds may find its chunks gone.
    pub hold: Duration,
    /// Only tell what would happen.
    pub dry_run: bool,
    /// Bytes that are copied at most to free packs of which little is needed; 0 to leave all as
    /// they are, which saves the reading of all trees.
    pub repack_bytes: u64,
    /// Packs of which less than so many percent are needed are repacked.
    pub repack_share_percent: u64,
    /// Who collects, for people.
    pub holder: String,
    /// Which refs are deleted because their time is over. None by default.
    pub expiry: Option<Arc<Expiry>>,
    /// Is told how the run goes on.
    pub progress: Option<Arc<dyn Fn(GcProgress) + Send + Sync>>,
    /// What tests do at each point of the run.
    pub crash: CrashHook,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            hold: GC_HOLD,
            dry_run: false,
            repack_bytes: REPACK_BYTES_MAX,
            repack_share_percent: REPACK_SHARE_PERCENT,
            holder: String::new(),
            expiry: None,
            progress: None,
            crash: CrashHook::default(),
        }
    }
}

impl fmt::Debug for GcOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GcOptions(hold: {:?}, dry_run: {})",
            self.hold, self.dry_run
        )
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcProgress {
    /// So many refs were followed.
    Marked(u64),
    /// So many objects are being deleted.
    Deleting(u64),
    /// So many objects were deleted since.
    Deleted(u64),
    /// So many objects of the store were looked at.
    Listed(u64),
}

/// What a run found and did; with [`GcOptions::dry_run`] what it would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Refs that were followed.
    pub refs: u64,
    /// Refs that were deleted because their time was over.
    pub refs_expired: u64,
    /// Packs that are left in the store.
    pub packs: u64,
    /// Bytes of all objects that are left, but for refs, leases and notes.
    pub bytes: u64,
    /// Those of them that no ref reaches: condemned by this or an earlier run.
    pub bytes_garbage: u64,
    /// Objects that were condemned.
    pub condemned: u64,
    /// Condemned objects that wait for their hold to pass.
    pub held: u64,
    /// Condemned objects that are needed again.
    pub rescued: u64,
    /// Objects that were deleted: packs, records and metadata images.
    pub deleted: u64,
    /// Packs of which so little is needed that they are worth repacking.
    pub sparse: u64,
    /// Bytes that this would free.
    pub bytes_sparse: u64,
    /// Packs that were repacked: nothing needs them any more.
    pub repacked: u64,
    /// Bytes of the packs that were written in their place.
    pub bytes_repacked: u64,
    /// Leases that keep objects from being deleted whose hold is over.
    pub leases: u64,
}

/// Why collection ended early. What was condemned stays so; nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store failed.
    #[error("collect garbage: {0}")]
    Store(#[from] StoreError),
    /// A ref cannot be followed, so it is not known what it needs.
    #[error("collect garbage: {0}")]
    Ref(#[from] RefError),
    /// The record of a ref cannot be read, so it is not known what it needs.
    #[error("collect garbage: ref {name}: {source}")]
    Record {
        /// The ref.
        name: String,
        /// What is wrong.
        source: RecordError,
    },
    /// Another collector is at work, or this one was too slow to renew its lease.
    #[error("collect garbage: {0}")]
    Lease(#[from] LeaseError),
    /// A note or the epoch is damaged or of a later version.
    #[error("collect garbage: {key}: {source}")]
    Envelope {
        /// The object.
        key: Key,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The store has more objects than this version collects.
    #[error("collect garbage: more than {0} objects")]
    TooMany(usize),
}

/// One run.
struct Run {
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    options: GcOptions,
    marked: Marked,
    report: GcReport,
    /// Packs that something moved to and that are there.
    listed_moves: BTreeSet<PackName>,
    /// Tells this run's notes from those of others.
    id: u64,
}

/// Collects garbage: deletes what was condemned long enough ago, and condemns what no ref reaches.
///
/// Costs a listing of the store, two requests for each ref, one for each record, and one or two
/// for each object that is deleted. Memory: some 60 bytes for each object that is kept. May be
/// cancelled; the lease then expires by itself, and the next run goes on.
///
/// # Errors
/// [`GcError`]; [`LeaseError::Held`] inside when another run is at work.
pub async fn gc(
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    options: GcOptions,
) -> Result<GcReport, GcError> {
    let mut run = Run {
        id: clock.now_ms(),
        store,
        clock,
        options,
        marked: Marked::default(),
        report: GcReport::default(),
        listed_moves: BTreeSet::new(),
    };
    if run.options.dry_run {
        return run.rehearse().await;
    }
    let holder = run.options.holder.clone();
    let (store, clock) = (Arc::clone(&run.store), Arc::clone(&run.clock));
    let lease = Lease::acquire(store, clock, GC_LEASE, &holder).await?;
    let report = run.collect(&lease).await;
    // A lease that cannot be given back expires by itself.
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "could not release lease");
    }
    report
}

impl Run {
    async fn collect(&mut self, lease: &Lease) -> Result<GcReport, GcError> {
        self.expire().await?;
        self.sweep(lease).await?;
        self.repack(lease).await?;
        self.condemn(lease).await?;
        self.remove_old_leases().await?;
        Ok(self.report)
    }

    /// Finds what would be done.
    async fn rehearse(&mut self) -> Result<GcReport, GcError> {
        self.expire().await?;
        let notes = condemned::read_notes(&*self.store).await?;
        let Sorted { mut due, held } = self.due(notes).await?;
        for note in &due {
            let reached = |object: &&Collected| self.marked.contains(object);
            let rescued = note.says.objects.iter().filter(reached).count() as u64;
            self.report.rescued += rescued;
            self.report.deleted += note.says.objects.len() as u64 - rescued;
        }
        due.extend(held);
        if self.options.repack_bytes > 0 {
            self.find_sparse().await?;
        }
        self.list(&due).await?;
        self.report.held -= self.report.deleted + self.report.rescued;
        Ok(self.report)
    }

    /// Follows all refs as they are now.
    async fn mark(&mut self) -> Result<(), GcError> {
        self.report.refs = self.marked.follow_refs(&*self.store, |_, _| ()).await?;
        self.tell(GcProgress::Marked(self.report.refs));
        Ok(())
    }

    fn tell(&self, progress: GcProgress) {
        if let Some(tell) = &self.options.progress {
            tell(progress);
        }
    }
}

#[cfg(test)]
mod tests;
