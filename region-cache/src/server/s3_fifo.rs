//! Which entry goes first: an S3-FIFO over entries with weights, for both tiers.
//!
//! New entries enter a *small* queue with a tenth of the capacity; only those that are used again
//! move on to the *main* queue, a clock in which who was used gets another round. A scan passes
//! through the small queue and leaves the main one alone. An entry that comes back soon after it
//! went, as the *ghosts* remember, enters the main queue at once. (Yang et al., "FIFO queues are
//! all you need for cache eviction", SOSP 2023.)
//!
//! Uses that follow one another within [`BURST`] are one use: a block is read in several pieces by
//! each who passes over it once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// Within this time after a counted use no other is counted.
const BURST: Duration = Duration::from_secs(2);
/// The small queue's part of the capacity is one in this many.
const SMALL_SHARE: u64 = 10;
/// A queue is cleared of removed entries when it has so many more places than twice the entries.
const STALE_MIN: usize = 1024;
/// Uses that are told apart.
const USES_MAX: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Small,
    Main,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: u64,
    /// Tells the entry from an earlier one of the same key, which a queue may still name.
    serial: u64,
    counted: Duration,
    uses: u8,
    which: Which,
}

#[derive(Debug)]
struct Queue<K> {
    order: VecDeque<(K, u64)>,
    weight: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            weight: 0,
        }
    }
}

/// Entries in the order in which they may go. Evicts nothing by itself: see [`S3Fifo::evict`].
#[derive(Debug)]
pub(super) struct S3Fifo<K, V> {
    entries: HashMap<K, Entry<V>>,
    small: Queue<K>,
    main: Queue<K>,
    ghosts: VecDeque<K>,
    ghost_set: HashSet<K>,
    ghosts_max: usize,
    capacity: u64,
    serial: u64,
}

impl<K: Copy + Eq + Hash, V> S3Fifo<K, V> {
    /// Makes an empty one for entries of `capacity` in all, that remembers `ghosts_max` evicted.
    pub(super) fn new(capacity: u64, ghosts_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::new(),
            ghosts_max,
            capacity,
            serial: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the weight of all entries.
    pub(super) const fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    pub(super) const fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// Returns an entry and counts a use at the time `now`.
    pub(super) fn get(&mut self, key: &K, now: Duration) -> Option<&V> {
        let entry = self.entries.get_mut(key)?;
        if now.saturating_sub(entry.counted) >= BURST {
            entry.uses = USES_MAX.min(entry.uses + 1);
            entry.counted = now;
        }
        Some(&entry.value)
    }

    /// Returns an entry without a use.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Adds an entry, in the place of one of the same key.
    pub(super) fn insert(&mut self, key: K, value: V, weight: u64, now: Duration) {
        let returned = self.ghost_set.contains(&key);
        let which = if returned { Which::Main } else { Which::Small };
        self.add(key, value, weight, now, which);
    }

    /// Adds an entry that is to stay for longer than one that may be of a scan.
    pub(super) fn insert_main(&mut self, key: K, value: V, weight: u64, now: Duration) {
        self.add(key, value, weight, now, Which::Main);
    }

    fn add(&mut self, key: K, value: V, weight: u64, now: Duration, which: Which) {
        drop(self.remove(&key));
        self.serial += 1;
        let serial = self.serial;
        let entry = Entry {
            value,
            weight,
            serial,
            counted: now,
            uses: 0,
            which,
        };
        let _none = self.entries.insert(key, entry);
        self.enqueue(key, serial, weight, which);
    }

    fn enqueue(&mut self, key: K, serial: u64, weight: u64, which: Which) {
        let stale_max = 2 * self.entries.len() + STALE_MIN;
        if self.queue(which).order.len() > stale_max {
            self.compact(which);
        }
        let queue = self.queue(which);
        queue.order.push_front((key, serial));
        queue.weight += weight;
    }

    /// Takes the places of removed entries out of a queue.
    fn compact(&mut self, which: Which) {
        let mut order = std::mem::take(&mut self.queue(which).order);
        order.retain(|(key, serial)| {
            self.entries
                .get(key)
                .is_some_and(|entry| entry.serial == *serial)
        });
        self.queue(which).order = order;
    }

    const fn queue(&mut self, which: Which) -> &mut Queue<K> {
        match which {
            Which::Small => &mut self.small,
            Which::Main => &mut self.main,
        }
    }

    /// Removes an entry. Its place in the queue is passed over when it comes up.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.queue(entry.which).weight -= entry.weight;
        Some(entry.value)
    }

    /// Tells whether the entries weigh more than they may.
    pub(super) const fn is_over(&self) -> bool {
        self.weight() > self.capacity
    }

    /// Removes the entry that is the next to go; `None` when there is none.
    pub(super) fn evict(&mut self) -> Option<(K, V)> {
        loop {
            let small = self.small.weight > self.capacity / SMALL_SHARE;
            let which = match (self.small.order.is_empty(), self.main.order.is_empty()) {
                (true, true) => return None,
                (false, true) => Which::Small,
                (false, false) if small => Which::Small,
                _ => Which::Main,
            };
            let (key, serial) = self.queue(which).order.pop_back()?;
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if entry.serial != serial {
                continue;
            }
            if entry.uses > 0 {
                let weight = entry.weight;
                entry.uses = if which == Which::Small {
                    0
                } else {
                    entry.uses - 1
                };
                entry.which = Which::Main;
                self.queue(which).weight -= weight;
                self.enqueue(key, serial, weight, Which::Main);
                continue;
            }
            if which == Which::Small {
                self.remember(key);
            }
            return self.remove(&key).map(|value| (key, value));
        }
    }

    fn remember(&mut self, key: K) {
        if self.ghosts_max > 0 && self.ghost_set.insert(key) {
            self.ghosts.push_front(key);
            if self.ghosts.len() > self.ghosts_max
                && let Some(oldest) = self.ghosts.pop_back()
            {
                let _gone = self.ghost_set.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
