//! What is on the disk, and in which order it may go: an S3-FIFO without locks or files.
//!
//! New contents enter a *small* queue, which has a tenth of the quota; only those that are used
//! again before they reach its end move on to the *main* queue. A scan therefore passes through
//! the small queue and leaves the main one alone. The main queue is a clock: who was used gets
//! another round. A content that was evicted and comes back soon, as the *ghosts* remember, goes
//! to the main queue at once. (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023.) A segmented LRU resists scans as well, but moves an entry at every use.
//!
//! A *use* is a lookup or read at least [`RECENT`] after the one that was counted before: the
//! many reads of one pass over a large file are one use. Nothing used within [`RECENT`] is
//! ever chosen.
//!
//! Memory: 48 bytes for the slot of a content, 4 to 8 in its queue, about 6 in the index.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;
use nacre_blobstore::{ContentId, Digest};

/// How long after its last use a content is not evicted: a kernel that was told of it must be able
/// to open it.
pub(super) const RECENT: Duration = Duration::from_secs(10);
/// The clock's value at the start, so that what was found on the disk is not recent.
const START_S: u32 = 3_600;
/// The small queue's part of the quota is one in this many.
const SMALL_SHARE: u64 = 10;
/// Uses that are told apart.
const USES_MAX: u8 = 3;
/// Entries in use just now that one choice passes over. What is deeper comes up in the next.
const RECENT_MAX: usize = 256;
/// Evicted contents that are remembered, by 4 bytes each.
const GHOSTS: usize = 1 << 17;
/// Unit in which stat(2) counts the space of a file.
const BLOCK_BYTES: u64 = 512;

/// A moment, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u32);

impl Moment {
    /// Converts the time since the clock's start.
    pub(super) fn at(elapsed: Duration) -> Self {
        let seconds = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
        Self(seconds.saturating_add(START_S))
    }

    /// Returns the time since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0).into())
    }
}

/// A content that may be evicted. It is in no queue until it is spared, taken or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) content: ContentId,
    /// Whether its pages were dropped when it was spared before.
    pub(super) aged: bool,
    /// Time since it was written or a use was counted.
    pub(super) quiet: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Chosen,
    /// Removed, with its number still in a queue.
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Small,
    Main,
}

#[derive(Debug)]
struct Slot {
    content: ContentId,
    blocks: u32,
    used: Moment,
    counted: Moment,
    uses: u8,
    aged: bool,
    state: State,
    which: Which,
}

/// Numbers of slots, the next to go at the back.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<u32>,
    blocks: u64,
}

/// All contents on the disk.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    small: Queue,
    main: Queue,
    ghosts: Box<[u32]>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            index: HashTable::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: vec![0; GHOSTS].into_boxed_slice(),
        }
    }
}

impl Table {
    /// Returns the number of contents.
    pub(super) fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Returns the bytes that they take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        (self.small.blocks + self.main.blocks) * BLOCK_BYTES
    }

    /// Returns the bytes of one content.
    pub(super) fn bytes_of(&self, content: ContentId) -> Option<u64> {
        self.find(content)
            .map(|index| u64::from(self.slot(index).blocks) * BLOCK_BYTES)
    }

    /// Tells whether a content was used just now.
    pub(super) fn is_recent(&self, content: ContentId, now: Moment) -> bool {
        self.find(content)
            .is_some_and(|index| now.since(self.slot(index).used) < RECENT)
    }

    /// Adds a content that was just written or opened, or corrects its bytes, and counts a use.
    pub(super) fn insert(&mut self, content: ContentId, bytes: u64, now: Moment) {
        if self.resize(content, bytes, now) {
            return;
        }
        let ghost = self.ghost(content);
        let returned = self.ghosts[ghost.0] == ghost.1;
        let which = if returned { Which::Main } else { Which::Small };
        self.add(content, bytes, now, which);
    }

    /// Adds a content that was found on the disk, unless it is known. Whether it was ever used
    /// twice is not known: it gets the better queue.
    pub(super) fn insert_found(&mut self, content: ContentId, bytes: u64) {
        if self.find(content).is_none() {
            self.add(content, bytes, Moment(0), Which::Main);
        }
    }

    /// Counts a use of a content, and corrects its bytes. `false` when it is not known.
    pub(super) fn resize(&mut self, content: ContentId, bytes: u64, now: Moment) -> bool {
        let Some(index) = self.find(content) else {
            return false;
        };
        self.touch(content, now);
        let (which, old) = (self.slot(index).which, self.slot(index).blocks);
        let new = to_blocks(bytes);
        self.slot_mut(index).blocks = new;
        let queue = self.queue(which);
        queue.blocks = queue.blocks - u64::from(old) + u64::from(new);
        true
    }

    /// Counts a use of a content, if it is known.
    pub(super) fn touch(&mut self, content: ContentId, now: Moment) {
        if let Some(index) = self.find(content) {
            let slot = self.slot_mut(index);
            if now.since(slot.counted) >= RECENT {
                slot.uses = USES_MAX.min(slot.uses + 1);
                slot.counted = now;
            }
            slot.used = now;
        }
    }

    /// Removes a content that is gone, and returns its bytes.
    pub(super) fn remove(&mut self, content: ContentId) -> Option<u64> {
        let index = self.find(content)?;
        let entry = self
            .index
            .find_entry(hash(content), |&other| other == index)
            .ok()?;
        let _vacant = entry.remove();
        let (blocks, which, state) = {
            let slot = self.slot(index);
            (u64::from(slot.blocks), slot.which, slot.state)
        };
        self.queue(which).blocks -= blocks;
        if state == State::Chosen {
            self.vacant.push(index);
        } else {
            self.slot_mut(index).state = State::Dead;
        }
        Some(blocks * BLOCK_BYTES)
    }

    /// Chooses the content that is to be evicted next under a quota of `bytes_max`. `None` when
    /// all that was looked at was used just now.
    pub(super) fn choose(&mut self, bytes_max: u64, now: Moment) -> Option<Candidate> {
        let share = bytes_max / SMALL_SHARE / BLOCK_BYTES;
        let mut recent = 0;
        while recent < RECENT_MAX {
            // What is in front of a recent one is likely to be as new: look at the other queue.
            let small = (self.small.blocks > share) != (recent % 2 == 1);
            let which = match (self.small.order.is_empty(), self.main.order.is_empty()) {
                (true, true) => return None,
                (false, false) if small => Which::Small,
                (false, true) => Which::Small,
                _ => Which::Main,
            };
            let index = self.queue(which).order.pop_back()?;
            let slot = self.slot_mut(index);
            if slot.state == State::Dead {
                self.vacant.push(index);
            } else if now.since(slot.used) < RECENT {
                recent += 1;
                self.queue(which).order.push_front(index);
            } else if slot.uses > 0 {
                slot.uses = if which == Which::Small {
                    0
                } else {
                    slot.uses - 1
                };
                self.enqueue(index, Which::Main);
            } else {
                slot.state = State::Chosen;
                return Some(Candidate {
                    content: slot.content,
                    aged: slot.aged,
                    quiet: now.since(slot.counted),
                });
            }
        }
        None
    }

    /// Puts a candidate back: into the main queue and with a use when it proved to be in use,
    /// otherwise for one more round where it was. `aged` says that its pages were dropped.
    pub(super) fn spare(&mut self, content: ContentId, in_use: bool, aged: bool) {
        if let Some(index) = self.chosen(content) {
            let slot = self.slot_mut(index);
            (slot.state, slot.aged) = (State::Queued, aged);
            slot.uses = u8::from(in_use);
            let which = if in_use { Which::Main } else { slot.which };
            self.enqueue(index, which);
        }
    }

    /// Removes a candidate for good and returns its bytes; spares it when it was used meanwhile.
    pub(super) fn take(&mut self, content: ContentId, now: Moment) -> Option<u64> {
        let index = self.chosen(content)?;
        if now.since(self.slot(index).used) < RECENT {
            self.spare(content, false, false);
            return None;
        }
        let (slot, fingerprint) = self.ghost(content);
        self.ghosts[slot] = fingerprint;
        self.remove(content)
    }

    /// Returns the first content at or after slot `from`, and the slot after it.
    pub(super) fn next(&self, from: usize) -> Option<(ContentId, usize)> {
        let mut slots = self.slots.iter().enumerate().skip(from);
        slots.find_map(|(at, slot)| {
            let known = self.find(slot.content);
            let live = known.is_some_and(|index| index as usize == at);
            live.then_some((slot.content, at + 1))
        })
    }

    fn add(&mut self, content: ContentId, bytes: u64, now: Moment, which: Which) {
        let slot = Slot {
            content,
            blocks: to_blocks(bytes),
            used: now,
            counted: now,
            uses: 0,
            aged: false,
            state: State::Queued,
            which,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                *self.slot_mut(index) = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("a disk has fewer than 2^32 files")
            }
        };
        let blocks = self.slot(index).blocks;
        let queue = self.queue(which);
        queue.order.push_front(index);
        queue.blocks += u64::from(blocks);
        let slots = &self.slots;
        self.index.insert_unique(hash(content), index, |&index| {
            hash(slots[index as usize].content)
        });
    }

    /// Puts a slot that is in no queue to the front of one.
    fn enqueue(&mut self, index: u32, which: Which) {
        let slot = self.slot_mut(index);
        let (old, blocks) = (slot.which, u64::from(slot.blocks));
        slot.which = which;
        self.queue(old).blocks -= blocks;
        let queue = self.queue(which);
        queue.blocks += blocks;
        queue.order.push_front(index);
    }

    fn find(&self, content: ContentId) -> Option<u32> {
        let same = |&index: &u32| self.slot(index).content == content;
        self.index.find(hash(content), same).copied()
    }

    fn chosen(&self, content: ContentId) -> Option<u32> {
        self.find(content)
            .filter(|&index| self.slot(index).state == State::Chosen)
    }

    fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    fn queue(&mut self, which: Which) -> &mut Queue {
        match which {
            Which::Small => &mut self.small,
            Which::Main => &mut self.main,
        }
    }

    /// Returns where a content is remembered, and as what.
    fn ghost(&self, content: ContentId) -> (usize, u32) {
        let hash = hash(content).to_le_bytes();
        let [low, high] = [
            [hash[0], hash[1], hash[2], hash[3]],
            [hash[4], hash[5], hash[6], hash[7]],
        ];
        let slot = u32::from_le_bytes(low) as usize % self.ghosts.len();
        // Zero says that nothing is remembered.
        (slot, u32::from_le_bytes(high) | 1)
    }
}

/// The ids are hashes already.
fn hash(content: ContentId) -> u64 {
    let bytes: &[u8; Digest::LEN] = content.as_bytes();
    let (words, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(words[1])
}

fn to_blocks(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
