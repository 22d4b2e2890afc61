//! Making one trace of what several starts read.

use std::collections::HashSet;

use nacre_blobstore::{TRACE_ENTRIES_MAX, Trace, TraceEntry, Traced};

use super::coverage::Coverage;

/// What was not read so often counts half, and so does what was: starts of now count more than those
/// of once.
const UNREAD_MAX: u32 = 16;

/// Adds a start to a trace. What the trace has keeps its place; what is new follows. Returns
/// whether anything is new: without that, counting the start is not worth a write.
pub(super) fn merge(trace: &mut Trace, recorded: &[TraceEntry]) -> bool {
    let mut now = Coverage::default();
    let mut trees = HashSet::new();
    for entry in recorded {
        match entry.what {
            Traced::Content { content, .. } => {
                now.add(content, range(&entry.what));
            }
            Traced::Tree(tree) => drop(trees.insert(tree)),
        }
    }
    let mut known = Coverage::default();
    let mut known_trees = HashSet::new();
    for entry in &mut trace.entries {
        let seen_again = match entry.what {
            Traced::Content { content, .. } => {
                let range = range(&entry.what);
                known.add(content, range.clone());
                now.touches(content, &range)
            }
            Traced::Tree(tree) => {
                known_trees.insert(tree);
                trees.contains(&tree)
            }
        };
        entry.starts = entry.starts.saturating_add(seen_again.into());
    }
    trace.starts = trace.starts.saturating_add(1);
    let room = TRACE_ENTRIES_MAX.saturating_sub(trace.entries.len());
    let new: Vec<TraceEntry> = recorded
        .iter()
        .filter(|entry| match entry.what {
            Traced::Content { content, .. } => known.add(content, range(&entry.what)),
            Traced::Tree(tree) => known_trees.insert(tree),
        })
        .take(room)
        .copied()
        .collect();
    trace.entries.extend(&new);
    !new.is_empty()
}

/// Notes a checked start, which did not read those of the entries for which `unread` holds. Forgets what
/// was not read for long.
pub(super) fn note_unread(trace: &mut Trace, unread: &[bool]) {
    for (entry, unread) in trace.entries.iter_mut().zip(unread) {
        entry.unread = entry.unread.saturating_add((*unread).into());
        if entry.unread >= UNREAD_MAX {
            entry.starts /= 2;
            entry.unread /= 2;
        }
    }
    trace.entries.retain(|entry| entry.starts > 0);
}

/// Returns the range of a content that an entry names; of a tree an empty one.
fn range(what: &Traced) -> std::ops::Range<u64> {
    match what {
        Traced::Content {
            offset_bytes,
            len_bytes,
            ..
        } => *offset_bytes..offset_bytes.saturating_add(*len_bytes),
        Traced::Tree(_) => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::{ContentId, Digest, Tier, TreeId};

    use super::*;

    fn entry(what: Traced) -> TraceEntry {
        TraceEntry {
            what,
            starts: 1,
            unread: 0,
            at_us: 0,
            waited_us: 0,
            tier: Tier::Origin,
        }
    }

    fn content(name: &str, offset_bytes: u64, len_bytes: u64) -> TraceEntry {
        entry(Traced::Content {
            content: ContentId::new(Digest::of(name.as_bytes())),
            size_bytes: 100,
            offset_bytes,
            len_bytes,
        })
    }

    #[test]
    fn the_union_keeps_the_order_and_counts_starts() {
        let tree = entry(Traced::Tree(TreeId::new(Digest::of(b"t"))));
        let mut trace = Trace::default();
        assert!(merge(
            &mut trace,
            &[content("a", 0, 50), tree, content("b", 0, 9)]
        ));
        assert!(
            !merge(&mut trace, &[content("b", 2, 3), tree]),
            "nothing new"
        );
        assert!(merge(
            &mut trace,
            &[content("c", 0, 1), content("a", 40, 20)]
        ));
        let found: Vec<_> = trace.entries.iter().map(|e| (e.what, e.starts)).collect();
        assert_eq!(
            found,
            [
                (content("a", 0, 50).what, 2),
                (tree.what, 2),
                (content("b", 0, 9).what, 2),
                (content("c", 0, 1).what, 1),
                (content("a", 40, 20).what, 1),
            ]
        );
        assert_eq!(trace.starts, 3);
    }

    #[test]
    fn what_few_starts_read_is_not_wanted_and_then_forgotten() {
        let (often, seldom) = (content("often", 0, 9), content("seldom", 0, 9));
        let mut trace = Trace::default();
        assert!(merge(&mut trace, &[often, seldom]));
        let wanted = |trace: &Trace| trace.wanted().map(|e| e.what).collect::<Vec<_>>();
        for _ in 0..3 {
            note_unread(&mut trace, &[false, true]);
            assert_eq!(wanted(&trace), [often.what, seldom.what]);
        }
        note_unread(&mut trace, &[false, true]);
        assert_eq!(wanted(&trace), [often.what], "one of five");
        assert!(!merge(&mut trace, &[seldom]), "it is known");
        assert_eq!(wanted(&trace), [often.what, seldom.what], "two of six");
        for _ in 0..12 {
            note_unread(&mut trace, &[false, true]);
        }
        let seldom = trace.entries[1];
        assert_eq!((seldom.starts, seldom.unread), (1, 8), "of 2 and 16");
        for _ in 0..8 {
            assert_eq!(trace.entries.len(), 2);
            note_unread(&mut trace, &[false, true]);
        }
        assert_eq!(trace.entries.len(), 1, "it is forgotten");
    }

    #[test]
    fn a_full_trace_takes_no_more() {
        let mut trace = Trace::default();
        let many: Vec<_> = (0..TRACE_ENTRIES_MAX)
            .map(|n| content(&n.to_string(), 0, 1))
            .collect();
        assert!(merge(&mut trace, &many));
        assert!(!merge(&mut trace, &[content("new", 0, 1)]));
        assert_eq!(trace.entries.len(), TRACE_ENTRIES_MAX);
    }
}
