//! Telling an observer what is read, by whom, and how long it took.
//!
//! The number of the process that asked travels with the work for its request as a task-local, so
//! that what is between the kernel and the cache need not pass it on. Work that others share (a
//! fetch under way) belongs to nobody; each who waits for it is told of.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use nacre_blobstore::{ContentId, Tier, TreeId};

tokio::task_local! {
    static REQUESTER: u32;
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accessed {
    /// Bytes of a content.
    Content {
        /// The content.
        content: ContentId,
        /// Its length.
        size_bytes: u64,
        /// What was asked for, cut to the length.
        range: Range<u64>,
    },
    /// A directory.
    Tree(TreeId),
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// What was read.
    pub what: Accessed,
    /// The process that asked for it, by the numbers of this process's PID namespace.
    pub pid: u32,
    /// When it was asked for, by [`Clock::elapsed`](nacre_blobstore::Clock::elapsed).
    pub at: Duration,
    /// How long it took.
    pub waited: Duration,
    /// Where the bytes were; of several the farthest.
    pub tier: Tier,
}

/// Whoever wants to know what is read.
pub trait AccessObserver: fmt::Debug + Send + Sync + 'static {
    /// Tells whether accesses are wanted at the moment; asked before each.
    fn is_active(&self) -> bool;

    /// Takes note of a read. Must not block: the read waits for it.
    fn accessed(&self, access: Access);
}

/// Runs the work for a request of process `pid`.
pub(crate) fn on_behalf_of<F: Future>(pid: u32, work: F) -> impl Future<Output = F::Output> {
    REQUESTER.scope(pid, work)
}

/// Returns the process whose request is being worked on, if it is known.
pub(crate) fn requester() -> Option<u32> {
    REQUESTER.try_with(|pid| *pid).ok().filter(|pid| *pid != 0)
}
