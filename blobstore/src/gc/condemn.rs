//! Condemning what nothing reaches.

use std::collections::{BTreeSet, HashSet};

use futures::TryStreamExt;

use super::condemned::{self, Collected, Condemned, NOTE_OBJECTS_MAX, Note};
use super::moved::{Moved, moved_key};
use super::{GcError, GcProgress, Run};
use crate::crash::CrashPoint;
use crate::{Key, Lease, PackName};

/// Objects that a run condemns at most, and that may be condemned at all; the next run goes on.
const CONDEMNED_MAX: usize = 1 << 20;
/// Objects that are listed between two reports of progress.
const LISTED_STEP: u64 = 10_000;

impl Run {
    /// Condemns what no ref reached when this run last marked. What has been stored since may be
    /// among it: its writer, or the next mark, takes it off.
    pub(super) async fn condemn(&mut self, lease: &Lease) -> Result<(), GcError> {
        let mut notes = condemned::read_notes(&*self.store).await?;
        for note in &mut notes {
            self.pardon(note).await?;
        }
        let fresh = self.list(&notes).await?;
        lease.check()?;
        self.remove_moves().await?;
        let condemned_ms = self.clock.now_ms();
        let fresh: Vec<_> = fresh.into_iter().collect();
        for objects in fresh.chunks(NOTE_OBJECTS_MAX) {
            let note = Condemned {
                condemned_ms,
                doomed_ms: None,
                objects: objects.iter().copied().collect(),
            };
            condemned::write_note(&*self.store, &note, self.id).await?;
            self.options.crash.reach(CrashPoint::GcCondemned);
        }
        Ok(())
    }

    /// Deletes the notes of what moved that no record needs and that lead to nothing any more.
    async fn remove_moves(&mut self) -> Result<(), GcError> {
        loop {
            let moves = &self.marked.moves.0;
            let leads_on = |to: &PackName| self.listed_moves.contains(to) || moves.contains_key(to);
            let dead =
                |moved: &Moved| moved.records.is_empty() && !moved.packs.iter().any(leads_on);
            let dead: Vec<PackName> = moves
                .iter()
                .filter(|(_, (moved, _))| dead(moved))
                .map(|(pack, _)| *pack)
                .collect();
            if dead.is_empty() {
                return Ok(());
            }
            for pack in dead {
                self.store.delete(&moved_key(pack)).await?;
                self.marked.moves.0.remove(&pack);
            }
        }
    }

    /// Takes off a note what refs reach again.
    async fn pardon(&mut self, note: &mut Note) -> Result<(), GcError> {
        let before = note.says.objects.len();
        let marked = &self.marked;
        note.says.objects.retain(|object| !marked.contains(object));
        let pardoned = before - note.says.objects.len();
        if pardoned > 0 && note.replace(&*self.store).await? {
            self.report.rescued += pardoned as u64;
        }
        Ok(())
    }

    /// Lists the store and returns what is neither reached nor on one of the `notes`.
    pub(super) async fn list(&mut self, notes: &[Note]) -> Result<BTreeSet<Collected>, GcError> {
        let noted: HashSet<Collected> = notes
            .iter()
            .flat_map(|note| note.says.objects.iter().copied())
            .collect();
        let moves = self.marked.moves.0.values();
        let led = moves.flat_map(|(moved, _)| &moved.packs);
        let led: HashSet<Collected> = led.map(|pack| Collected::from(*pack)).collect();
        let mut fresh = BTreeSet::new();
        let mut listed = 0;
        for folder in Collected::folders() {
            let mut objects = self.store.list(&folder);
            while let Some(object) = objects.try_next().await? {
                listed += 1;
                if listed % LISTED_STEP == 0 {
                    self.tell(GcProgress::Listed(listed));
                }
                let Some(found) = Collected::from_key(&object.key) else {
                    continue;
                };
                if led.contains(&found) {
                    self.listed_moves.extend(PackName::from_key(&object.key));
                }
                self.report.bytes += object.size_bytes;
                self.report.packs += u64::from(is_pack(&object.key));
                if self.marked.contains(&found) {
                    continue;
                }
                self.report.bytes_garbage += object.size_bytes;
                if !noted.contains(&found) && noted.len() + fresh.len() < CONDEMNED_MAX {
                    fresh.insert(found);
                }
            }
        }
        self.report.held = noted.len() as u64;
        self.report.condemned = fresh.len() as u64;
        Ok(fresh)
    }
}

/// Tells whether a key is that of a pack itself, not of the copy of its index.
fn is_pack(key: &Key) -> bool {
    key.as_str().starts_with("packs/") || key.as_str().starts_with("trees/")
}
