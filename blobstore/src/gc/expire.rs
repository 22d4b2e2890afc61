//! Refs and leases whose time is over.

use std::time::Duration;

use super::mark::{Marked, traced};
use super::{GcError, GcProgress, Run};
use crate::lease::LEASES_FOLDER;
use crate::{Key, Record, RecordError, RefName, StoreError, delete_ref, list_leases, read_ref};

/// How long the trace of something that no other ref names is kept: an image may come back.
const TRACE_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an expired lease stays, for whoever looks for its holder.
const LEASE_KEEP: Duration = Duration::from_secs(3600);

impl Run {
    /// Marks, and deletes the refs that have expired: those that [`GcOptions::expiry`] names, and
    /// old traces of what is gone.
    ///
    /// [`GcOptions::expiry`]: super::GcOptions::expiry
    pub(super) async fn expire(&mut self) -> Result<(), GcError> {
        let mut traces = Vec::new();
        let mut others = Vec::new();
        let store = &*self.store;
        let with_expiry = self.options.expiry.is_some();
        let seen = |name: RefName, target: crate::Ref| {
            if traced(&name).is_some() {
                traces.push((name, target.changed_ms));
            } else if with_expiry {
                others.push(name);
            }
        };
        self.report.refs = self.marked.follow_refs(store, seen).await?;
        self.tell(GcProgress::Marked(self.report.refs));

        let now_ms = self.clock.now_ms();
        let mut expired = Vec::new();
        for name in others {
            if self.has_expired(&name, now_ms).await? {
                expired.push(name);
            }
        }
        let keep_ms = u64::try_from(TRACE_KEEP.as_millis()).unwrap_or(u64::MAX);
        for (name, changed_ms) in traces {
            let of = traced(&name).and_then(|of| of.parse().ok());
            let is_needed = of.is_none_or(|of| self.marked.trees.contains(&of));
            if !is_needed && changed_ms.saturating_add(keep_ms) < now_ms {
                expired.push(name);
            }
        }
        self.report.refs_expired = expired.len() as u64;
        if expired.is_empty() || self.options.dry_run {
            return Ok(());
        }
        for name in &expired {
            delete_ref(&*self.store, name).await?;
        }
        self.marked = Marked::default();
        self.mark().await
    }

    /// Asks whether a ref has expired, as it is right now: it may have been moved since it was
    /// followed. One that is moved in the instant before its deletion is deleted all the same.
    async fn has_expired(&self, name: &RefName, now_ms: u64) -> Result<bool, GcError> {
        let Some(expiry) = &self.options.expiry else {
            return Ok(false);
        };
        let Some((target, _)) = read_ref(&*self.store, name).await? else {
            return Ok(false);
        };
        match Record::read(&*self.store, target.record).await {
            Ok(record) => Ok(expiry(name, &record, now_ms)),
            Err(RecordError::Store(StoreError::NotFound(_))) => Ok(false),
            Err(source) => Err(GcError::Record {
                name: name.to_string(),
                source,
            }),
        }
    }

    /// Removes the leases of holders that died long ago.
    ///
    /// One that is taken over at this moment is lost to its new holder, who learns of it at its next
    /// renewal, as of any loss.
    pub(super) async fn remove_old_leases(&self) -> Result<(), GcError> {
        let keep_ms = u64::try_from(LEASE_KEEP.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.now_ms();
        for (name, lease) in list_leases(&*self.store).await? {
            if !lease.is_live(now_ms.saturating_sub(keep_ms)) {
                let key = Key::new(format!("{LEASES_FOLDER}/{name}"))?;
                self.store.delete(&key).await?;
            }
        }
        Ok(())
    }
}
