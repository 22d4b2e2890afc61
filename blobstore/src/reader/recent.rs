//! A memory cache bounded by bytes that drops what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key, at most `limit_bytes` of them by the sizes given at insertion.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit_bytes: usize,
    used_bytes: usize,
    clock: u64,
    values: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    size_bytes: usize,
    last_use: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: 0,
            clock: 0,
            values: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let slot = self.values.get_mut(key)?;
        self.clock += 1;
        self.by_use.remove(&slot.last_use);
        slot.last_use = self.clock;
        self.by_use.insert(self.clock, *key);
        Some(slot.value.clone())
    }

    /// Returns a value, which does not count as a use.
    pub(super) fn peek(&self, key: &K) -> Option<V> {
        self.values.get(key).map(|slot| slot.value.clone())
    }

    /// Tells whether a value is there, which does not count as a use.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.values.remove(key)?;
        self.by_use.remove(&slot.last_use);
        self.used_bytes -= slot.size_bytes;
        Some(slot.value)
    }

    /// Adds a value, unless it alone is above the limit.
    pub(super) fn insert(&mut self, key: K, value: V, size_bytes: usize) {
        if size_bytes > self.limit_bytes {
            return;
        }
        self.clock += 1;
        let slot = Slot {
            value,
            size_bytes,
            last_use: self.clock,
        };
        if let Some(old) = self.values.insert(key, slot) {
            self.used_bytes -= old.size_bytes;
            self.by_use.remove(&old.last_use);
        }
        self.by_use.insert(self.clock, key);
        self.used_bytes += size_bytes;
        while self.used_bytes > self.limit_bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some(slot) = self.values.remove(&oldest) {
                self.used_bytes -= slot.size_bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_least_recently_used_beyond_the_limit() {
        let mut recent = Recent::new(10);
        recent.insert(1, 'a', 4);
        recent.insert(2, 'b', 4);
        assert_eq!(recent.get(&1), Some('a'));
        recent.insert(3, 'c', 4);
        assert_eq!(
            (recent.get(&1), recent.get(&2), recent.get(&3)),
            (Some('a'), None, Some('c'))
        );
        recent.insert(4, 'd', 11);
        assert_eq!(recent.get(&4), None);
        assert_eq!((recent.peek(&1), recent.peek(&2)), (Some('a'), None));
        recent.insert(3, 'e', 6);
        assert_eq!((recent.get(&1), recent.get(&3)), (Some('a'), Some('e')));
        assert_eq!(recent.used_bytes, 10);
        assert_eq!((recent.remove(&1), recent.remove(&1)), (Some('a'), None));
        assert!(recent.contains(&3) && !recent.contains(&1));
        assert_eq!(recent.used_bytes, 6);
        assert_eq!(recent.values.len(), recent.by_use.len());
    }
}
