//! Reads that waited in vain, remembered for a moment.
//!
//! read(2) costs the kernel two requests when the first fails: that was read-ahead, and for the page
//! that the process wants it asks once more. Both would wait, so that the process waited for twice the
//! time that it was promised.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::Clock;

use crate::FsError;

/// How long: the kernel asks again at once, once, and whoever else comes has a wait of its own.
const REMEMBERED: Duration = Duration::from_millis(20);
/// Reads that are remembered; of more the oldest is forgotten.
const READS_MAX: usize = 1024;
/// The part of the longest wait after which an error counts as a wait in vain, as one in this many.
const LONG_SHARE: u32 = 2;

/// What a read asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) ino: u64,
    pub(super) start: u64,
    len: u32,
}

impl Asked {
    pub(super) const fn new(ino: u64, start: u64, len: u32) -> Self {
        Self { ino, start, len }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    const fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.len as u64)
    }

    /// Tells whether both want bytes that are the same.
    fn overlaps(&self, other: &Self) -> bool {
        let (own, other_range) = (self.range(), other.range());
        self.ino == other.ino && own.start < other_range.end && other_range.start < own.end
    }
}

/// The reads of a session that waited in vain.
#[derive(Debug)]
pub(super) struct GivenUp {
    reads: Mutex<VecDeque<(Asked, Duration)>>,
    clock: Arc<dyn Clock>,
    wait_max: Duration,
}

impl GivenUp {
    /// Remembers none. Reads may wait for `wait_max`.
    pub(super) fn new(clock: Arc<dyn Clock>, wait_max: Duration) -> Self {
        Self {
            reads: Mutex::default(),
            clock,
            wait_max,
        }
    }

    /// Tells whether something of `read` was waited for in vain just now, and forgets that.
    pub(super) fn take(&self, read: &Asked) -> bool {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.is_empty() {
            return false;
        }
        let now = self.clock.elapsed();
        while reads
            .front()
            .is_some_and(|(_, at)| now.saturating_sub(*at) > REMEMBERED)
        {
            reads.pop_front();
        }
        let found = reads.iter().position(|(other, _)| other.overlaps(read));
        found.and_then(|number| reads.remove(number)).is_some()
    }

    /// Waits for `reading`, but for no longer than a read may take. Remembers `read` when it fails after
    /// a long wait.
    ///
    /// # Errors
    /// [`FsError::Late`], and what `reading` fails with.
    pub(super) async fn unless_late(
        &self,
        read: Asked,
        reading: impl Future<Output = Result<Bytes, FsError>>,
    ) -> Result<Bytes, FsError> {
        let began = self.clock.elapsed();
        let seconds = self.wait_max.as_secs();
        let outcome = tokio::time::timeout(self.wait_max, reading).await;
        let outcome = outcome.unwrap_or(Err(FsError::Late { seconds }));
        if outcome.is_err() {
            let now = self.clock.elapsed();
            if now.saturating_sub(began) >= self.wait_max / LONG_SHARE {
                self.note(read, now);
            }
        }
        outcome
    }

    fn note(&self, read: Asked, now: Duration) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.len() == READS_MAX {
            reads.pop_front();
        }
        reads.push_back((read, now));
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::testing::TokioClock;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(2);

    fn given_up() -> GivenUp {
        GivenUp::new(Arc::new(TokioClock::new()), WAIT_MAX)
    }

    async fn fails_after(wait: Duration) -> Result<Bytes, FsError> {
        tokio::time::sleep(wait).await;
        Err(FsError::Missing)
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waited_in_vain_fails_again_at_once_and_not_for_long() {
        let given_up = given_up();
        let read = Asked::new(7, 4096, 8192);
        let late = given_up.unless_late(read.clone(), std::future::pending());
        let late = late.await;
        assert!(
            matches!(late, Err(FsError::Late { seconds: 2 })),
            "{late:?}"
        );
        assert!(!given_up.take(&Asked::new(7, 0, 4096)), "another page");
        assert!(!given_up.take(&Asked::new(7, 12_288, 4096)));
        assert!(!given_up.take(&Asked::new(8, 4096, 4096)), "another file");
        assert!(given_up.take(&Asked::new(7, 0, 4097)), "the page again");
        assert!(!given_up.take(&Asked::new(7, 0, 4097)), "a read of its own");
        given_up.note(read.clone(), given_up.clock.elapsed());
        tokio::time::sleep(REMEMBERED + Duration::from_millis(1)).await;
        assert!(!given_up.take(&read));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_came_soon_is_not_remembered() {
        let given_up = given_up();
        let (soon, later) = (Asked::new(1, 0, 1), Asked::new(2, 0, 1));
        let error = given_up.unless_late(soon.clone(), fails_after(WAIT_MAX / 4));
        error.await.unwrap_err();
        let error = given_up.unless_late(later.clone(), fails_after(WAIT_MAX * 3 / 4));
        error.await.unwrap_err();
        assert_eq!((given_up.take(&soon), given_up.take(&later)), (false, true));
        let read = given_up.unless_late(soon.clone(), async { Ok(Bytes::new()) });
        assert!(read.await.unwrap().is_empty());
        assert!(!given_up.take(&soon));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let given_up = given_up();
        for ino in 0..=READS_MAX as u64 {
            given_up.note(Asked::new(ino, 0, 1), given_up.clock.elapsed());
        }
        assert!(!given_up.take(&Asked::new(0, 0, 1)));
        assert!(given_up.take(&Asked::new(1, 0, 1)));
    }
}
