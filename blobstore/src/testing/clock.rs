//! A clock that follows tokio's, which tests can pause.

use std::time::Duration;

use crate::Clock;

/// Time as tokio tells it: with `start_paused`, sleeping takes none.
#[derive(Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
}

impl TokioClock {
    /// Starts a clock at 1970-01-01. Needs a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "a clock of its own, for tests")]
    pub fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait::async_trait]
impl Clock for TokioClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
