//! Storing what starts read: each is merged into the trace of its tree.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, stream};
use nacre_blobstore::{
    BlobStore, Clock, Lease, Record, RecordKind, Ref, RefError, SecureError, StoreError, Trace,
    TraceEntry, TraceError, Traced, TreeId, Version, read_epoch, read_trace, secure, trace_ref,
    write_ref,
};
use nacre_fs::NodeCache;

use super::kin::{Followed, Kin};
use super::merge::{merge, note_unread};
use super::part::Part;
use super::stream::{LOOK_UPS_MAX, missing_of};

/// How often a trace is merged again because another node changed it meanwhile.
const MERGES_MAX: usize = 4;

/// Stores what was recorded.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) clock: Arc<dyn Clock>,
    /// What is on the node, which tells of a checked start what it read.
    pub(super) cache: Option<Arc<NodeCache>>,
}

/// What was seen of a start.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// Who may borrow what becomes of it.
    pub(super) kin: Kin,
    pub(super) entries: Vec<TraceEntry>,
    /// Of which part of its trace nothing came to the node's disk but what was read.
    pub(super) checked: Option<Part>,
    /// The trace that was followed because the tree had none: only what was not on the node is seen,
    /// and this brought there what it names.
    pub(super) borrowed: Arc<OnceLock<Followed>>,
}

impl Publisher {
    /// Merges a start into the trace of its tree, and lends the result to its kin. `false` when nothing
    /// in it is new.
    pub(super) async fn publish(&self, tree: TreeId, start: &Start) -> Result<bool, TraceError> {
        if start.entries.is_empty() {
            return Ok(false);
        }
        // A checked start is always news.
        if start.checked.is_none() && self.merged(tree, start).await?.0.is_none() {
            return Ok(false);
        }
        // What the record relies on, the copies of an older trace and itself, may be condemned.
        let random = getrandom::u64().map_err(|_| TraceError::Random)?;
        let lease = format!("trace-{random:016x}");
        let holder = format!("process {}", std::process::id());
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let lease = Lease::acquire(store, clock, &lease, &holder).await?;
        let published = self.publish_under(&lease, tree, start).await;
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        published
    }

    async fn publish_under(
        &self,
        lease: &Lease,
        tree: TreeId,
        start: &Start,
    ) -> Result<bool, TraceError> {
        let store = &*self.store;
        let name = trace_ref(tree.digest());
        let mut without_copies = false;
        for _ in 0..MERGES_MAX {
            let since = read_epoch(store).await.map_err(SecureError::Gc)?;
            let (record, seen) = self.merged(tree, start).await?;
            let Some(mut record) = record else {
                return Ok(false);
            };
            if without_copies {
                record.packs.clear();
            }
            let id = record.write(store).await?;
            let secured = match secure(store, &*self.clock, id, &record, Some(since)).await {
                Err(SecureError::Gone(_)) => {
                    without_copies = true;
                    continue;
                }
                secured => secured?,
            };
            let still_secured = || {
                lease.check()?;
                Ok::<_, TraceError>(secured.check(&*self.clock)?)
            };
            let target = Ref {
                record: id,
                changed_ms: self.clock.now_ms(),
            };
            still_secured()?;
            match write_ref(store, &name, target, seen.as_ref()).await {
                Err(RefError::Store {
                    source: StoreError::Exists(_) | StoreError::Conflict(_),
                    ..
                }) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    tracing::info!(%tree, bytes = record.payload.len(), "recorded a start");
                    if still_secured().is_ok() {
                        start.kin.lend(store, &*self.clock, target).await;
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Merges a start into the trace of its tree as it is now; returns the record of the result,
    /// `None` when the start tells nothing new, and the state of the trace's ref.
    async fn merged(
        &self,
        tree: TreeId,
        start: &Start,
    ) -> Result<(Option<Record>, Option<Version>), TraceError> {
        let stored = read_trace(&*self.store, &trace_ref(tree.digest())).await?;
        let seen = stored.as_ref().map(|stored| stored.version.clone());
        let base = stored.map(Followed::from);
        let base = base.or_else(|| start.borrowed.get().cloned());
        let Followed { mut trace, copies } = base.unwrap_or_default();
        let mut has_news = false;
        if let Some(part) = start.checked
            && !trace.entries.is_empty()
        {
            let unread = self.unread(&trace.entries, part).await;
            note_unread(&mut trace, &unread);
            has_news = true;
        }
        has_news |= merge(&mut trace, &start.entries);
        Ok((has_news.then(|| trace_record(&trace, copies)), seen))
    }

    /// Tells which entries nobody read on this node: of those that nobody brought there, what is not
    /// there. What cannot be told is taken to be.
    async fn unread(&self, entries: &[TraceEntry], part: Part) -> Vec<bool> {
        let look_ups = entries.iter().copied().map(|entry| async move {
            let Traced::Content { content, .. } = entry.what else {
                return false;
            };
            let was_brought = entry.is_wanted() && !part.holds(&content);
            match &self.cache {
                Some(cache) if !was_brought => {
                    let missing = missing_of(cache, entry).await;
                    missing.is_ok_and(|missing| !missing.is_empty())
                }
                _ => false,
            }
        });
        stream::iter(look_ups)
            .buffered(LOOK_UPS_MAX)
            .collect()
            .await
    }
}

/// Makes the record of a trace with copies in `packs`.
pub(super) fn trace_record(
    trace: &Trace,
    packs: std::collections::BTreeSet<nacre_blobstore::PackName>,
) -> Record {
    Record {
        kind: RecordKind::Trace,
        trees: Vec::new(),
        packs,
        metadata_images: Default::default(),
        payload: trace.encode(),
    }
}
