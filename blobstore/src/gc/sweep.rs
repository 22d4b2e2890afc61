//! Deleting what was condemned long enough ago.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::condemned::{self, Collected, CollectedKind, Note};
use super::moved::moved_key;
use super::{GC_LEASE, GcError, GcProgress, Run, epoch};
use crate::crash::CrashPoint;
use crate::lease::CLOCK_SKEW_MAX_MS;
use crate::{Lease, RecordId, list_leases};

/// How long objects are deleted after they were doomed, by the collector's own clock. What is left
/// is doomed anew.
const DOOM_DELETES: Duration = Duration::from_secs(120);
/// When a note is doomed for longer than this, its collector has died and nothing that it sent is
/// under way: [`DOOM_DELETES`], the longest time that a request takes with all its retries, and
/// twice the difference of clocks.
pub(super) const DOOM_ENDS_MS: u64 = (120 + 180) * 1000 + 2 * CLOCK_SKEW_MAX_MS;
/// The longest time that a request takes until it is applied, with all its retries.
const REQUEST_MAX_MS: u64 = 180 * 1000;
/// A lease that was acquired so long after a note's time may have missed the note: clocks differ,
/// and the note may have taken its time to be written.
const LEASE_MARGIN_MS: u64 = REQUEST_MAX_MS + CLOCK_SKEW_MAX_MS;
/// Notes that are doomed at once at most: each round marks anew.
const ROUND_NOTES_MAX: usize = 4;
/// Rounds of a run at most; the next run goes on.
const ROUNDS_MAX: usize = 256;
/// Objects that are deleted at once at most.
const DELETES_MAX: usize = 16;
/// Objects that are deleted between two looks at clock and lease.
const GROUP_OBJECTS: usize = 256;

/// Notes, by whether what is on them may be deleted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) due: Vec<Note>,
    pub(super) held: Vec<Note>,
}

impl Run {
    /// Deletes what is on notes that are due and is still not reached.
    pub(super) async fn sweep(&mut self, lease: &Lease) -> Result<(), GcError> {
        let mut deleting = false;
        for _ in 0..ROUNDS_MAX {
            let notes = condemned::read_notes(&*self.store).await?;
            let mut due = self.due(notes).await?.due;
            due.truncate(ROUND_NOTES_MAX);
            if due.is_empty() {
                break;
            }
            lease.check()?;
            if !deleting {
                epoch::advance(&*self.store, true).await?;
                deleting = true;
            }
            self.round(due, lease).await?;
        }
        if deleting {
            epoch::advance(&*self.store, false).await?;
            self.options.crash.reach(CrashPoint::GcSwept);
        }
        Ok(())
    }

    /// Tells the notes whose hold is over and that are older than every live lease from the rest.
    pub(super) async fn due(&mut self, notes: Vec<Note>) -> Result<Sorted, GcError> {
        let now_ms = self.clock.now_ms();
        let hold_ms = u64::try_from(self.options.hold.as_millis()).unwrap_or(u64::MAX);
        let mut leases = list_leases(&*self.store).await?;
        // The holder's last request may still be on its way when the lease is over.
        let since_ms = now_ms.saturating_sub(REQUEST_MAX_MS);
        leases.retain(|(name, lease)| name != GC_LEASE && lease.is_live(since_ms));
        let mut sorted = Sorted::default();
        self.report.leases = 0;
        for note in notes {
            let since_ms = note.says.condemned_ms;
            let newest_ms = since_ms.saturating_add(LEASE_MARGIN_MS);
            let older = leases.iter().filter(|l| l.1.acquired_ms <= newest_ms);
            let older = older.count() as u64;
            let is_over = since_ms.saturating_add(hold_ms) <= now_ms;
            if is_over {
                self.report.leases = self.report.leases.max(older);
            }
            if is_over && older == 0 {
                sorted.due.push(note);
            } else {
                sorted.held.push(note);
            }
        }
        Ok(sorted)
    }

    /// Dooms `notes`, marks, and deletes what is on them and not reached.
    async fn round(&mut self, notes: Vec<Note>, lease: &Lease) -> Result<(), GcError> {
        let ends = self.clock.elapsed() + DOOM_DELETES;
        let mut doomed = Vec::new();
        for mut note in notes {
            note.says.doomed_ms = Some(self.clock.now_ms().max(1));
            // A note that a writer has just changed is looked at again in the next round.
            if note.replace(&*self.store).await? {
                doomed.push(note);
            }
        }
        self.options.crash.reach(CrashPoint::GcDoomed);
        // After the notes say so: a writer that did not read them by then has changed its ref.
        self.mark().await?;
        self.options.crash.reach(CrashPoint::GcMarked);
        for note in &mut doomed {
            let before = note.says.objects.len();
            note.says
                .objects
                .retain(|object| !self.marked.contains(object));
            self.report.rescued += (before - note.says.objects.len()) as u64;
        }
        let mut by_kind: BTreeMap<CollectedKind, Vec<Collected>> = BTreeMap::new();
        for object in doomed.iter().flat_map(|note| &note.says.objects) {
            by_kind.entry(object.kind).or_default().push(*object);
        }
        let records = by_kind.get(&CollectedKind::Record);
        self.forget_moves(records.map_or(&[], Vec::as_slice), lease)
            .await?;
        let all: usize = by_kind.values().map(Vec::len).sum();
        self.tell(GcProgress::Deleting(all as u64));
        let mut deleted = 0;
        for objects in by_kind.values() {
            for group in objects.chunks(GROUP_OBJECTS) {
                if !self.delete(group, ends, lease).await? {
                    return self.keep_rest(doomed, deleted).await;
                }
                deleted += group.len();
                self.report.deleted += group.len() as u64;
                self.tell(GcProgress::Deleted(deleted as u64));
            }
        }
        if self.clock.elapsed() > ends {
            return self.keep_rest(doomed, deleted).await;
        }
        for note in &doomed {
            self.store.delete(&note.key).await?;
            self.options.crash.reach(CrashPoint::GcNoteDeleted);
        }
        Ok(())
    }

    /// Takes records that are about to be deleted off the notes of what moved: one that is stored
    /// anew needs the packs that it lists. Before, for its own note keeps writers from relying on
    /// it.
    async fn forget_moves(&mut self, records: &[Collected], lease: &Lease) -> Result<(), GcError> {
        let gone: BTreeSet<_> = records.iter().map(|o| RecordId::new(o.id)).collect();
        for (pack, (moved, version)) in &mut self.marked.moves.0 {
            let before = moved.records.len();
            moved.records.retain(|record| !gone.contains(record));
            if moved.records.len() < before {
                lease.check()?;
                let body = moved.encode().into();
                *version = self.store.replace(&moved_key(*pack), body, version).await?;
                self.options.crash.reach(CrashPoint::RepackForgotten);
            }
        }
        Ok(())
    }

    /// Deletes objects of one kind. Tells whether all are deleted: no request is made after `ends`,
    /// when writers may take objects off the notes again.
    async fn delete(
        &self,
        objects: &[Collected],
        ends: Duration,
        lease: &Lease,
    ) -> Result<bool, GcError> {
        let deletes: Vec<_> = objects
            .iter()
            .map(|object| self.delete_one(*object, ends, lease))
            .collect();
        let mut deletes = stream::iter(deletes).buffer_unordered(DELETES_MAX);
        let mut all = true;
        while let Some(deleted) = deletes.try_next().await? {
            all &= deleted;
        }
        Ok(all)
    }

    async fn delete_one(
        &self,
        object: Collected,
        ends: Duration,
        lease: &Lease,
    ) -> Result<bool, GcError> {
        for key in object.keys() {
            lease.check()?;
            if self.clock.elapsed() > ends {
                return Ok(false);
            }
            self.store.delete(&key).await?;
            self.options.crash.reach(CrashPoint::GcObjectDeleted);
        }
        Ok(true)
    }

    /// Leaves on the notes what this round had no time for. Objects are deleted by kind, so the
    /// first `deleted` of all in their order are gone.
    async fn keep_rest(&self, notes: Vec<Note>, deleted: usize) -> Result<(), GcError> {
        let mut all: Vec<_> = notes
            .iter()
            .flat_map(|note| note.says.objects.iter().copied())
            .collect();
        // Stable: within a kind they were deleted in the order of the notes.
        all.sort_by_key(|object| object.kind);
        let rest: BTreeSet<_> = all.into_iter().skip(deleted).collect();
        for mut note in notes {
            note.says.objects.retain(|object| rest.contains(object));
            note.replace(&*self.store).await?;
        }
        Ok(())
    }
}
