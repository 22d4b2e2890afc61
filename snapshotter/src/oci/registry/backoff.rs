//! How long to wait before a request is sent again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use crate::oci::error::OciError;

/// Longest wait that a registry may ask for. One that wants more is not waited for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub(super) attempts_max: u32,
    pub(super) first: Duration,
    pub(super) max: Duration,
}

impl Backoff {
    /// Starts to count the attempts at one thing.
    pub(super) const fn start(self) -> Attempts {
        Attempts { backoff: self, failed: 0 }
    }
}

/// The failed attempts at one thing.
#[derive(Debug)]
pub(super) struct Attempts {
    backoff: Backoff,
    failed: u32,
}

impl Attempts {
    /// Waits before the next attempt, for as long as the registry asked (`Retry-After`) or a
    /// random time. Returns `error` instead when there is to be no further attempt.
    pub(super) async fn wait(
        &mut self,
        error: OciError,
        asked: Option<Duration>,
    ) -> Result<(), OciError> {
        self.failed += 1;
        let too_long = asked.is_some_and(|asked| asked > RETRY_AFTER_MAX);
        if !error.is_retryable() || too_long || self.failed >= self.backoff.attempts_max {
            return Err(error);
        }
        let jitter = self.jitter();
        let wait = asked.map_or(jitter, |asked| asked + jitter.min(self.backoff.first));
        tracing::debug!(%error, failed = self.failed, ?wait, "registry request is repeated");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Returns a random time below the bound, which doubles from attempt to attempt.
    fn jitter(&self) -> Duration {
        let doublings = self.failed.saturating_sub(1);
        let bound = self.backoff.first.saturating_mul(2_u32.saturating_pow(doublings));
        // A fresh `RandomState` is seeded differently each time.
        let random = RandomState::new().build_hasher().finish();
        let bound_us = u64::try_from(bound.min(self.backoff.max).as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random % bound_us.max(1))
    }
}
