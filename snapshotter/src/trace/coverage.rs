//! Which ranges of which contents are known.

use std::collections::HashMap;
use std::ops::Range;

use nacre_blobstore::ContentId;

/// Ranges of contents, each content's sorted and apart from each other.
#[derive(Debug, Default)]
pub(super) struct Coverage(HashMap<ContentId, Vec<Range<u64>>>);

impl Coverage {
    /// Adds a range and tells whether any of it is new. Blank ranges are not.
    pub(super) fn add(&mut self, content: ContentId, range: Range<u64>) -> bool {
        let ranges = self.0.entry(content).or_default();
        let first = ranges.partition_point(|known| known.end < range.start);
        let last = ranges.partition_point(|known| known.start <= range.end);
        if let Some(known) = ranges.get(first)
            && known.start <= range.start
            && range.end <= known.end
        {
            return false;
        }
        if range.is_empty() {
            return false;
        }
        let joined = ranges[first..last.max(first)]
            .iter()
            .fold(range, |a, b| a.start.min(b.start)..a.end.max(b.end));
        ranges.splice(first..last.max(first), [joined]);
        true
    }

    /// Tells whether any byte of a range is known.
    pub(super) fn touches(&self, content: ContentId, range: &Range<u64>) -> bool {
        self.0.get(&content).is_some_and(|ranges| {
            let next = ranges.partition_point(|known| known.end <= range.start);
            ranges
                .get(next)
                .is_some_and(|known| !range.is_empty() && known.start < range.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Digest;

    use super::*;

    #[test]
    fn agrees_with_a_set_of_bytes() {
        let content = ContentId::new(Digest::of(b"x"));
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let mut coverage = Coverage::default();
            let mut bytes = [false; 64];
            for _ in 0..12 {
                let start = random(60);
                let range = start..start + random(5);
                let places =
                    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                let touched = bytes[places.clone()].iter().any(|known| *known);
                assert_eq!(coverage.touches(content, &range), touched, "{range:?}");
                let new = bytes[places.clone()].iter().any(|known| !known);
                assert_eq!(coverage.add(content, range.clone()), new, "{range:?}");
                bytes[places].fill(true);
            }
        }
    }
}
