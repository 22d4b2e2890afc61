//! What the client did, for people and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::wire::Had;

/// Counts since the client was made. Each is exact; together they are not one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStats {
    /// Members on the list.
    pub members: u64,
    /// Members that are not asked because they did not answer.
    pub members_down: u64,
    /// Answers that a member had in memory.
    pub memory: u64,
    /// Answers that a member had on its disk.
    pub disk: u64,
    /// Answers for which a member asked the origin, or did not say.
    pub origin: u64,
    /// Second requests because the first was slow; they cost the origin nothing.
    pub hedged: u64,
    /// Those that were answered first.
    pub hedged_won: u64,
    /// Second requests because a member seemed stuck; they may cost the origin a read.
    pub doubted: u64,
    /// Answers of members that had no capacity left.
    pub busy: u64,
    /// Requests that a member did not answer, or not rightly.
    pub failed: u64,
    /// Requests that went to the origin past the region, whatever the reason.
    pub passed_by: u64,
    /// Those of them that went there because members were busy, under a budget.
    pub relieved: u64,
    /// Wrong answers that were reported to who gave them.
    pub reported: u64,
    /// Objects that were given to members on their way to the origin.
    pub written: u64,
    /// Those of them that fewer than two members took.
    pub written_short: u64,
    /// Records of which this node was told that a burst begins.
    #[serde(default)]
    pub bursts: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    memory: AtomicU64,
    disk: AtomicU64,
    origin: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) hedged_won: AtomicU64,
    pub(crate) doubted: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) passed_by: AtomicU64,
    pub(crate) relieved: AtomicU64,
    pub(crate) reported: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) written_short: AtomicU64,
    pub(crate) bursts: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn answered(&self, had: Had) {
        count(match had {
            Had::Memory => &self.memory,
            Had::Disk => &self.disk,
            Had::Origin => &self.origin,
        });
    }

    pub(crate) fn snapshot(&self, members: usize, members_down: usize) -> RegionStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RegionStats {
            members: members as u64,
            members_down: members_down as u64,
            memory: read(&self.memory),
            disk: read(&self.disk),
            origin: read(&self.origin),
            hedged: read(&self.hedged),
            hedged_won: read(&self.hedged_won),
            doubted: read(&self.doubted),
            busy: read(&self.busy),
            failed: read(&self.failed),
            passed_by: read(&self.passed_by),
            relieved: read(&self.relieved),
            reported: read(&self.reported),
            written: read(&self.written),
            written_short: read(&self.written_short),
            bursts: read(&self.bursts),
        }
    }
}
