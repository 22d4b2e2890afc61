//! When not to ask a member: after failures in a row, for a while, then with one request at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures in a row after which a member is not asked.
pub(crate) const FAILURES_MAX: u32 = 3;
/// How long it rests at first; doubles with every probe that fails.
pub(crate) const REST_FIRST: Duration = Duration::from_millis(500);
/// Bound of that.
const REST_MAX: Duration = Duration::from_secs(15);
/// After so long a probe without outcome counts as lost, and the next one may go.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Whether a member may be asked. Times are the clock's elapsed time.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Resting { until: Duration, rest: Duration },
    Probing { lost_at: Duration, rest: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Tells whether to ask. Of a member that has rested one request finds out how it is.
    pub(crate) fn allows(&self, now: Duration) -> bool {
        let mut state = self.lock();
        let (due, rest) = match *state {
            State::Closed { .. } => return true,
            State::Resting { until, rest } => (until, rest),
            State::Probing { lost_at, rest } => (lost_at, rest),
        };
        if now >= due {
            let lost_at = now + PROBE_MAX;
            *state = State::Probing { lost_at, rest };
        }
        now >= due
    }

    /// Tells whether the member answers, as far as is known.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.lock(), State::Closed { .. })
    }

    /// Notes an answer. Returns whether the member is back by it.
    pub(crate) fn succeeded(&self) -> bool {
        let before = std::mem::take(&mut *self.lock());
        !matches!(before, State::Closed { .. })
    }

    /// Notes that there was no answer. Returns whether the member rests from now on.
    pub(crate) fn failed(&self, now: Duration) -> bool {
        let mut state = self.lock();
        let rest = match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < FAILURES_MAX {
                    return false;
                }
                REST_FIRST
            }
            // It was asked before it rested.
            State::Resting { .. } => return false,
            State::Probing { rest, .. } => (*rest * 2).min(REST_MAX),
        };
        let until = now + rest;
        *state = State::Resting { until, rest };
        rest == REST_FIRST
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_member_rests_after_failures_in_a_row_and_is_probed_by_one() {
        let breaker = Breaker::default();
        assert!(!breaker.failed(MS) && !breaker.failed(MS));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed(MS) && !breaker.failed(MS), "counted anew");
        assert!(breaker.allows(MS));
        assert!(breaker.failed(MS));
        assert!(!breaker.is_closed() && !breaker.allows(MS));
        assert!(!breaker.failed(2 * MS), "late news");
        let rested = MS + REST_FIRST;
        assert!(!breaker.allows(rested - MS));
        assert!(breaker.allows(rested));
        assert!(!breaker.allows(rested), "one at a time");
        assert!(!breaker.failed(rested));
        assert!(!breaker.allows(rested + REST_FIRST), "twice as long");
        assert!(breaker.allows(rested + 2 * REST_FIRST));
        assert!(breaker.succeeded());
        assert!(breaker.is_closed() && breaker.allows(rested));
    }

    #[test]
    fn rests_are_bounded_and_lost_probes_do_not_end_them_for_good() {
        let breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            breaker.failed(MS);
        }
        let mut now = MS;
        for _ in 0..20 {
            now += REST_MAX;
            assert!(breaker.allows(now));
            breaker.failed(now);
        }
        now += REST_MAX;
        assert!(breaker.allows(now) && !breaker.allows(now));
        assert!(breaker.allows(now + PROBE_MAX), "the probe was lost");
    }
}
