//! Ranges of a file, merged.

use std::ops::Range;

/// Ranges with less than this between them become one.
const GAP_BYTES_MAX: u64 = 16 << 10;

/// Sorts ranges, cuts them at `size_bytes`, and makes those one that overlap or are near.
pub(super) fn merge(mut ranges: Vec<Range<u64>>, size_bytes: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let range = range.start..range.end.min(size_bytes);
        if range.is_empty() {
            continue;
        }
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES_MAX) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_merged_and_the_rest_is_cut() {
        let gap = GAP_BYTES_MAX;
        let far = 10 * gap;
        let ranges = vec![far..far + 9, 5..5, 0..10, 2..3, 10 + gap..20 + gap, 8..11];
        assert_eq!(merge(ranges.clone(), u64::MAX), [0..20 + gap, far..far + 9]);
        assert_eq!(merge(ranges.clone(), far + 1), [0..20 + gap, far..far + 1]);
        assert_eq!(merge(ranges.clone(), far).len(), 1);
        assert_eq!(merge(ranges, 0), []);
        assert_eq!(merge(vec![0..1, 2 + gap..3 + gap], 9 + gap).len(), 2);
    }
}
