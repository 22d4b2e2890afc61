//! Leaving a store alone that fails slowly.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::Clock;

/// A store that fails after longer than this costs every question as much.
const SLOW: Duration = Duration::from_secs(1);
/// For so long it is not asked then.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// Until when it is not asked, by the clock.
#[derive(Debug, Default)]
pub(super) struct Rest(Mutex<Duration>);

impl Rest {
    /// Awaits the answer to `ask`; `None`, without asking, while the store is left alone.
    pub(super) async fn ask<T, E>(
        &self,
        clock: &dyn Clock,
        ask: impl Future<Output = Result<T, E>>,
    ) -> Option<Result<T, E>> {
        let began = clock.elapsed();
        if began < *self.until() {
            return None;
        }
        let answer = ask.await;
        let now = clock.elapsed();
        if answer.is_err() && now.saturating_sub(began) > SLOW {
            *self.until() = now + LEFT_ALONE;
        }
        Some(answer)
    }

    fn until(&self) -> MutexGuard<'_, Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::testing::TokioClock;
    use tokio::time::sleep;

    use super::*;

    const SHORT: Duration = Duration::from_millis(900);

    #[tokio::test(start_paused = true)]
    async fn what_fails_slowly_is_left_alone_for_a_while() {
        let (rest, clock) = (Rest::default(), TokioClock::new());
        let ask = async |takes, answer: Result<(), ()>| {
            let asked = async {
                sleep(takes).await;
                answer
            };
            rest.ask(&clock, asked).await
        };
        assert_eq!(ask(SHORT, Err(())).await, Some(Err(())));
        assert_eq!(ask(SLOW * 5, Ok(())).await, Some(Ok(())));
        assert_eq!(ask(SLOW * 5, Err(())).await, Some(Err(())));
        assert_eq!(ask(SHORT, Ok(())).await, None);
        sleep(LEFT_ALONE - SHORT).await;
        assert_eq!(ask(SHORT, Ok(())).await, None);
        sleep(SHORT).await;
        assert_eq!(ask(SHORT, Ok(())).await, Some(Ok(())));
    }
}
