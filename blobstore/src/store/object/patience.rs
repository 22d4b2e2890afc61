//! Asking again when nobody answers.
//!
//! A request can be lost without an error: with the server that had taken it, or in a network that
//! was cut and forgot the connection. Whoever waits for its answer waits for nothing, while the same
//! request, made now, would be answered at once.
//!
//! What counts is silence. An answer that comes slowly is not asked for again: on a narrow line
//! that would make all answers slower.
//!
//! Hedged requests: Dean, Barroso, "The Tail at Scale", CACM 2013. Times: Amazon's "Best practices
//! design patterns: optimizing Amazon S3 performance", which has a small request made again after 2
//! seconds, and after 4 more.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::Clock;

/// How long an answer is waited for, unless the whole call has little time.
const SILENT: Duration = Duration::from_secs(2);
/// The part of a call's time after which it is asked again at the latest: a call that is lost is
/// asked twice more in half of its time.
const SILENT_PART: u32 = 8;
/// The part of a call's time after which a body of which nothing more comes is given up.
const STALLED_PART: u32 = 4;

/// For how long what is silent is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    clock: Arc<dyn Clock>,
    silent: Duration,
    stalled: Duration,
}

impl Patience {
    /// For calls that may take `deadline`.
    pub(super) fn new(clock: Arc<dyn Clock>, deadline: Duration) -> Self {
        Self {
            clock,
            silent: SILENT.min(deadline / SILENT_PART),
            stalled: deadline / STALLED_PART,
        }
    }

    /// Returns the first answer to `ask`, also if it is an error. While there is none it is asked
    /// again, each time after twice the time before. Two wait at once, at most: the older one is given
    /// up for a third.
    pub(super) async fn answer<T, F: Future<Output = T>>(&self, ask: impl Fn() -> F) -> T {
        let mut silent = self.silent;
        let mut latest = Box::pin(ask());
        let mut before = None;
        loop {
            let earlier = async {
                match &mut before {
                    Some(earlier) => earlier.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = earlier => return answer,
                answer = &mut latest => return answer,
                () = self.clock.sleep(silent) => {}
            }
            tracing::debug!(?silent, "a store request without an answer is made again");
            before = Some(std::mem::replace(&mut latest, Box::pin(ask())));
            silent = silent.saturating_mul(2);
        }
    }

    /// Awaits the next part of a body; `None` if it does not come.
    pub(super) async fn part<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            part = next => Some(part),
            () = self.clock.sleep(self.stalled) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::testing::TokioClock;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Asks what answers as `answer` says for the number of the request, each after its time. Returns
    /// the answer, when it came, and when was asked.
    async fn hedged(
        deadline: Duration,
        answer: impl Fn(usize) -> Option<Duration>,
    ) -> (usize, Duration, Vec<Duration>) {
        let clock = Arc::new(TokioClock::new());
        let patience = Patience::new(Arc::clone(&clock) as _, deadline);
        let asked = Mutex::new(Vec::new());
        let ask = || {
            let mut asked = asked.lock().unwrap();
            asked.push(clock.elapsed());
            let (number, after) = (asked.len(), answer(asked.len()));
            async move {
                match after {
                    Some(after) => tokio::time::sleep(after).await,
                    None => pending().await,
                }
                number
            }
        };
        let number = patience.answer(ask).await;
        (number, clock.elapsed(), asked.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_answered_is_made_once() {
        let (number, took, asked) =
            hedged(seconds(120), |_| Some(Duration::from_millis(1999))).await;
        assert_eq!((number, took.as_millis(), asked.len()), (1, 1999, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_lost_is_made_again_with_growing_patience() {
        let lost_until = |answered| move |number| (number >= answered).then_some(seconds(1));
        let (number, took, asked) = hedged(seconds(120), lost_until(5)).await;
        let times = [0, 2, 6, 14, 30].map(seconds);
        assert_eq!((number, took), (5, seconds(31)));
        assert_eq!(asked, times);
        let (_, took, asked) = hedged(seconds(8), lost_until(2)).await;
        assert_eq!((took, asked), (seconds(2), vec![seconds(0), seconds(1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_awaited_beside_the_next_request() {
        // The first is still waited for at 5 s, when the second has 3.
        let (number, took, asked) = hedged(seconds(120), |_| Some(seconds(5))).await;
        assert_eq!((number, took, asked.len()), (1, seconds(5), 2));
        // The third at 6 s ends the first; the second answers at 2 + 11.
        let (number, took, asked) = hedged(seconds(120), |_| Some(seconds(11))).await;
        assert_eq!((number, took, asked.len()), (2, seconds(13), 3));
    }
}
