//! What one start has read so far.

use std::collections::HashSet;
use std::time::Duration;

use nacre_blobstore::{CHUNK_BYTES_MAX, TRACE_ENTRIES_MAX, TraceEntry, Traced, TreeId};
use nacre_fs::{Access, Accessed};

use super::coverage::Coverage;

/// A recording is over when nothing new was read for so long,
const QUIET: Duration = Duration::from_secs(10);
/// or after so long.
const LENGTH_MAX: Duration = Duration::from_secs(60);
/// Reads of large contents are widened to multiples of this, so that neighbours join.
const BLOCK_BYTES: u64 = 64 << 10;

/// The first reads of a start, in their order.
#[derive(Debug)]
pub(super) struct Recording {
    began: Duration,
    /// When something was read that was not before.
    news: Duration,
    entries: Vec<TraceEntry>,
    contents: Coverage,
    trees: HashSet<TreeId>,
}

impl Recording {
    /// Begins at the time `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            began: now,
            news: now,
            entries: Vec::new(),
            contents: Coverage::default(),
            trees: HashSet::new(),
        }
    }

    /// Takes note of a read, if it is one of something new.
    pub(super) fn add(&mut self, access: &Access) {
        if self.entries.len() >= TRACE_ENTRIES_MAX {
            return;
        }
        let what = match access.what {
            Accessed::Tree(tree) => self.trees.insert(tree).then_some(Traced::Tree(tree)),
            Accessed::Content {
                content,
                size_bytes,
                ref range,
            } => {
                let range = if size_bytes <= CHUNK_BYTES_MAX as u64 {
                    0..size_bytes
                } else {
                    let end_bytes = range.end.next_multiple_of(BLOCK_BYTES).min(size_bytes);
                    range.start / BLOCK_BYTES * BLOCK_BYTES..end_bytes
                };
                let what = Traced::Content {
                    content,
                    size_bytes,
                    offset_bytes: range.start,
                    len_bytes: range.end - range.start,
                };
                self.contents.add(content, range).then_some(what)
            }
        };
        let Some(what) = what else { return };
        let entry = TraceEntry {
            what,
            starts: 1,
            unread: 0,
            at_us: micros(access.at.saturating_sub(self.began)),
            waited_us: micros(access.waited),
            tier: access.tier,
        };
        self.news = self.news.max(access.at);
        let last = self.entries.last_mut();
        if !last.is_some_and(|last| join(last, &entry)) {
            self.entries.push(entry);
        }
    }

    /// Tells whether nothing more belongs to this start.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.news) > QUIET
            || now.saturating_sub(self.began) > LENGTH_MAX
            || self.entries.len() >= TRACE_ENTRIES_MAX
    }

    /// Returns what was read, in the order in which it was asked for.
    pub(super) fn into_entries(mut self) -> Vec<TraceEntry> {
        self.entries.sort_by_key(|entry| entry.at_us);
        self.entries
    }
}

/// Extends an entry by one that goes on where it ends.
fn join(last: &mut TraceEntry, next: &TraceEntry) -> bool {
    let (
        Traced::Content {
            content,
            offset_bytes,
            len_bytes,
            ..
        },
        Traced::Content {
            content: next_content,
            offset_bytes: next_offset,
            len_bytes: next_len,
            ..
        },
    ) = (&mut last.what, &next.what)
    else {
        return false;
    };
    let continues = content == next_content
        && *offset_bytes <= *next_offset
        && *next_offset <= *offset_bytes + *len_bytes;
    if continues {
        *len_bytes = (*len_bytes).max(next_offset + next_len - *offset_bytes);
        last.waited_us = last.waited_us.saturating_add(next.waited_us);
        last.tier = last.tier.max(next.tier);
    }
    continues
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::{ContentId, Digest, Tier};

    use super::*;

    fn access(name: &str, size_bytes: u64, range: std::ops::Range<u64>, at_ms: u64) -> Access {
        Access {
            what: Accessed::Content {
                content: ContentId::new(Digest::of(name.as_bytes())),
                size_bytes,
                range,
            },
            pid: 1,
            at: Duration::from_millis(at_ms),
            waited: Duration::from_millis(20),
            tier: Tier::Origin,
        }
    }

    fn ranges(recording: Recording) -> Vec<(u64, u64)> {
        let range = |entry: TraceEntry| match entry.what {
            Traced::Content {
                offset_bytes,
                len_bytes,
                ..
            } => (offset_bytes, len_bytes),
            Traced::Tree(_) => panic!("no tree was read"),
        };
        recording.into_entries().into_iter().map(range).collect()
    }

    #[test]
    fn small_contents_are_whole_and_large_ones_by_blocks() {
        let mut recording = Recording::new(Duration::ZERO);
        let mib = 1 << 20;
        recording.add(&access("small", 5000, 4096..5000, 1));
        recording.add(&access("small", 5000, 0..4096, 2));
        recording.add(&access("large", 4 * mib, 100..200, 3));
        recording.add(&access("large", 4 * mib, 300..400, 4));
        recording.add(&access("large", 4 * mib, 65_536..65_537, 5));
        recording.add(&access("large", 4 * mib, 4 * mib - 1..4 * mib, 6));
        recording.add(&access("empty", 0, 0..0, 7));
        assert_eq!(
            ranges(recording),
            [(0, 5000), (0, 131_072), (4 * mib - 65_536, 65_536)]
        );
    }

    #[test]
    fn a_start_is_over_when_it_is_quiet_or_long() {
        let mut recording = Recording::new(Duration::from_secs(5));
        assert!(!recording.is_over(Duration::from_secs(15)));
        assert!(recording.is_over(Duration::from_millis(15_001)));
        recording.add(&access("a", 10, 0..10, 14_000));
        assert!(!recording.is_over(Duration::from_millis(15_001)));
        recording.add(&access("a", 10, 0..10, 23_000));
        assert!(recording.is_over(Duration::from_millis(24_001)), "not new");
        for second in 0..60 {
            recording.add(&access(&second.to_string(), 10, 0..10, 1000 * (5 + second)));
            assert!(!recording.is_over(Duration::from_secs(5 + second)));
        }
        assert!(recording.is_over(Duration::from_millis(65_001)));
    }
}
