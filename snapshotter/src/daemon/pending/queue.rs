//! What is pending, as plain values.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use futures::TryStreamExt;
use nacre_blobstore::{BlobStore, Key, PackKind, PackName};

use super::super::api::{PendingSnapshot, Rung};
use super::super::node::NodeError;
use crate::pending::{ENTRIES_MAX, Entry};
use crate::snapshot::SnapshotError;

/// Key, bytes, and when it was written in milliseconds since 1970; 0 for now.
pub(super) type StagedObject = (Key, u64, u64);

/// A pending snapshot and how its upload stands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// The packs of its record; none when that cannot be read.
    packs: BTreeSet<PackName>,
    reached: Rung,
    attempts: u32,
    error: Option<String>,
    /// Whether it cannot become durable as far as is known.
    failed: bool,
    /// When it is tried next.
    not_before: Duration,
    running: bool,
    cancelled: bool,
}

#[derive(Debug)]
struct Object {
    size_bytes: u64,
    written_ms: u64,
    /// Whether the store has it.
    stored: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    entries: BTreeMap<u64, Held>,
    objects: BTreeMap<Key, Object>,
    bytes: u64,
    bytes_max: u64,
    next: u64,
    expects_objects: bool,
    /// Numbers whose entries are being written, and their keys.
    reserved: BTreeMap<u64, Option<String>>,
}

/// What comes of asking for a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    Number(u64),
    /// A pending snapshot was made with the key.
    Taken,
    /// One is about to be noted that was.
    Busy,
}

/// What is to be done to cancel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// Nothing has that name.
    None,
    /// Its upload must end first.
    Busy,
    /// This entry is to be removed.
    Entry(u64),
}

impl Queue {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            objects: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            next: 1,
            expects_objects: false,
            reserved: BTreeMap::new(),
        }
    }

    pub(super) fn add_object(&mut self, (key, size_bytes, written_ms): StagedObject) {
        let object = Object {
            size_bytes,
            written_ms,
            stored: false,
        };
        if !self.objects.contains_key(&key) {
            self.bytes += size_bytes;
            self.objects.insert(key, object);
        }
    }

    /// Says that objects are going to be staged that are not added before their entry is.
    pub(super) const fn expect_objects(&mut self) {
        self.expects_objects = true;
    }

    /// Returns the keys of packs that may be staged without being known to be.
    pub(super) fn unknown(&self, packs: &BTreeSet<PackName>) -> Vec<Key> {
        let packs = packs.iter().filter(|_| self.expects_objects);
        let keys = packs.flat_map(|name| [name.key(), name.index_key()]);
        keys.filter(|key| !self.objects.contains_key(key)).collect()
    }

    pub(super) fn drop_object(&mut self, key: &Key) {
        if let Some(object) = self.objects.remove(key) {
            self.bytes -= object.size_bytes;
        }
    }

    /// Takes a number for an entry.
    pub(super) fn reserve(&mut self, entry: &Entry) -> Result<Reserved, SnapshotError> {
        if let Some(key) = &entry.key {
            if self.find_key(key).is_some() {
                return Ok(Reserved::Taken);
            }
            if self.reserved.values().flatten().any(|other| other == key) {
                return Ok(Reserved::Busy);
            }
        }
        if self.entries.len() + self.reserved.len() >= ENTRIES_MAX {
            return Err(SnapshotError::Pending(ENTRIES_MAX));
        }
        let number = self.next;
        self.next += 1;
        self.reserved.insert(number, entry.key.clone());
        Ok(Reserved::Number(number))
    }

    pub(super) fn unreserve(&mut self, number: u64) {
        self.reserved.remove(&number);
    }

    pub(super) fn add(&mut self, number: u64, entry: Entry, packs: Option<BTreeSet<PackName>>) {
        self.next = self.next.max(number.saturating_add(1));
        let unread = packs
            .is_none()
            .then(|| "its record cannot be read".to_owned());
        let held = Held {
            entry,
            packs: packs.unwrap_or_default(),
            reached: Rung::Local,
            attempts: 0,
            failed: unread.is_some(),
            error: unread,
            not_before: Duration::ZERO,
            running: false,
            cancelled: false,
        };
        self.entries.insert(number, held);
    }

    pub(super) fn drop_entry(&mut self, number: u64) {
        self.entries.remove(&number);
    }

    pub(super) const fn has_room(&self) -> bool {
        self.bytes < self.bytes_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn find(&self, name: &str) -> Option<(u64, &Held)> {
        let named = |held: &Held| {
            !held.cancelled
                && (held.entry.name.as_deref() == Some(name) || held.entry.snapshot == name)
        };
        let found = self.entries.iter().rev().find(|(_, held)| named(held));
        found.map(|(number, held)| (*number, held))
    }

    pub(super) fn find_key(&self, key: &str) -> Option<Entry> {
        let mut held = self.entries.values();
        let found = held.find(|held| held.entry.key.as_deref() == Some(key) && !held.cancelled);
        found.map(|held| held.entry.clone())
    }

    pub(super) fn list(&self) -> Vec<PendingSnapshot> {
        self.entries.values().map(|held| self.show(held)).collect()
    }

    pub(super) fn get(&self, number: u64) -> Option<PendingSnapshot> {
        self.entries.get(&number).map(|held| self.show(held))
    }

    fn show(&self, held: &Held) -> PendingSnapshot {
        let keys = held
            .packs
            .iter()
            .flat_map(|name| [name.key(), name.index_key()]);
        let left = keys.filter_map(|key| self.objects.get(&key));
        let left = left.filter(|object| !object.stored);
        PendingSnapshot {
            snapshot: held.entry.snapshot.clone(),
            name: held.entry.name.clone(),
            durability: held.reached,
            bytes: left.map(|object| object.size_bytes).sum(),
            attempts: held.attempts,
            error: held.error.clone(),
            failed: held.failed,
        }
    }

    /// Takes the next entry that may be uploaded at `now`: not before an earlier one of its name.
    pub(super) fn take_ready(&mut self, now: Duration) -> Option<(u64, Entry)> {
        let mut names = HashSet::new();
        for (number, held) in &mut self.entries {
            let is_first = held
                .entry
                .name
                .as_ref()
                .is_none_or(|name| names.insert(name));
            if is_first && !held.running && !held.cancelled && held.not_before <= now {
                held.running = true;
                return Some((*number, held.entry.clone()));
            }
        }
        None
    }

    /// Returns when the next entry may be tried.
    pub(super) fn next_time(&self) -> Option<Duration> {
        let waiting = self.entries.values().filter(|held| !held.running);
        waiting.map(|held| held.not_before).min()
    }

    /// Notes that an upload ended early, and when it is tried again.
    pub(super) fn put_back(&mut self, number: u64, error: String, failed: bool, again: Duration) {
        if let Some(held) = self.entries.get_mut(&number) {
            held.running = false;
            held.attempts = held.attempts.saturating_add(1);
            (held.error, held.failed) = (Some(error), failed);
            held.not_before = again;
        }
    }

    /// Notes for all that wait why they do.
    pub(super) fn explain(&mut self, error: &str) {
        for held in self.entries.values_mut().filter(|held| !held.failed) {
            held.error = Some(error.to_owned());
        }
    }

    pub(super) fn attempts(&self, number: u64) -> u32 {
        self.entries.get(&number).map_or(0, |held| held.attempts)
    }

    pub(super) fn reach(&mut self, number: u64, rung: Rung) {
        if let Some(held) = self.entries.get_mut(&number) {
            held.reached = rung;
        }
    }

    pub(super) fn is_cancelled(&self, number: u64) -> bool {
        self.entries.get(&number).is_none_or(|held| held.cancelled)
    }

    /// Decides what is to be done next to cancel all of a name or an id.
    pub(super) fn cancel(&mut self, name: &str) -> Cancelled {
        let mut busy = false;
        for (number, held) in &mut self.entries {
            let is_named = held.entry.name.as_deref() == Some(name) || held.entry.snapshot == name;
            if !is_named {
                continue;
            }
            if held.running {
                // Ends at its next step, unless that is its last.
                held.cancelled = true;
                busy = true;
                continue;
            }
            return Cancelled::Entry(*number);
        }
        if busy {
            Cancelled::Busy
        } else {
            Cancelled::None
        }
    }

    /// Returns those staged objects of packs that the store has not got, as far as is known, with
    /// their sizes: packs of data first, each before the copy of its index.
    pub(super) fn to_store(&self, packs: &BTreeSet<PackName>) -> Vec<(Key, u64)> {
        let of = |kind| packs.iter().filter(move |name| name.kind == kind);
        let ordered = of(PackKind::Data).chain(of(PackKind::Tree));
        let keys = ordered.flat_map(|name| [name.key(), name.index_key()]);
        let staged = |key: Key| {
            let object = self.objects.get(&key).filter(|object| !object.stored)?;
            Some((key, object.size_bytes))
        };
        keys.filter_map(staged).collect()
    }

    /// Notes whether the store has an object.
    pub(super) fn set_stored(&mut self, key: &Key, stored: bool) {
        if let Some(object) = self.objects.get_mut(key) {
            object.stored = stored;
        }
    }

    pub(super) fn staged_packs(&self) -> BTreeSet<PackName> {
        self.objects.keys().filter_map(PackName::from_key).collect()
    }

    /// Returns what no entry needs: what the store has, and what it has not and was written before
    /// `before_ms`.
    pub(super) fn unneeded(&self, before_ms: u64) -> (Vec<Key>, Vec<Key>) {
        let mut needed: HashSet<Key> = HashSet::new();
        for held in self.entries.values() {
            needed.extend(held.entry.record().ok().map(|id| id.key()));
            let keys = held
                .packs
                .iter()
                .flat_map(|name| [name.key(), name.index_key()]);
            needed.extend(keys);
        }
        let unneeded = self.objects.iter().filter(|(key, _)| !needed.contains(key));
        let (stored, rest): (Vec<_>, Vec<_>) = unneeded.partition(|(_, object)| object.stored);
        let is_old = |object: &Object| object.written_ms != 0 && object.written_ms < before_ms;
        let keys = |(key, _): (&Key, &Object)| key.clone();
        let old = rest.into_iter().filter(|(_, object)| is_old(object));
        (
            stored.into_iter().map(keys).collect(),
            old.map(keys).collect(),
        )
    }
}

/// Lists what is staged.
pub(super) async fn staged_objects(staged: &dyn BlobStore) -> Result<Vec<StagedObject>, NodeError> {
    let listed: Vec<_> = staged
        .list("")
        .try_collect()
        .await
        .map_err(SnapshotError::from)?;
    let object = |o: nacre_blobstore::ObjectInfo| (o.key, o.size_bytes, o.modified_ms.max(1));
    Ok(listed.into_iter().map(object).collect())
}
