//! The keys that are asked for most: Space-Saving (Metwally, Agrawal and El Abbadi 2005).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nacre_blobstore::Key;

/// Keys that are counted at once. One that has more than this part of all requests is among them.
const KEYS_MAX: usize = 256;

/// Counts of requests by key.
#[derive(Debug, Default)]
pub(super) struct Hottest {
    counts: Mutex<HashMap<Key, u64>>,
}

impl Hottest {
    /// Counts a request.
    pub(super) fn count(&self, key: &Key) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count += 1;
            return;
        }
        let mut before = 0;
        if counts.len() == KEYS_MAX
            && let Some((least, count)) = counts.iter().min_by_key(|(_, count)| **count)
        {
            before = *count;
            let least = least.clone();
            let _least = counts.remove(&least);
        }
        let _none = counts.insert(key.clone(), before + 1);
    }

    /// Returns the first `len` with their counts, which may be too large, never too small.
    pub(super) fn top(&self, len: usize) -> Vec<(Key, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut top: Vec<_> = counts
            .iter()
            .map(|(key, count)| (key.clone(), *count))
            .collect();
        drop(counts);
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(len);
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_are_asked_for_most_are_found_among_many() {
        let hottest = Hottest::default();
        let key = |name: u64| Key::new(format!("packs/{name}")).unwrap();
        for round in 0..10_000 {
            hottest.count(&key(1_000_000 + round));
            if round % 10 == 0 {
                hottest.count(&key(1));
            }
            if round % 20 == 0 {
                hottest.count(&key(2));
            }
        }
        let top = hottest.top(2);
        assert_eq!((&top[0].0, &top[1].0), (&key(1), &key(2)));
        assert!(top[0].1 >= 1000 && top[0].1 < 1100, "{top:?}");
        assert_eq!(hottest.top(1000).len(), KEYS_MAX);
    }
}
