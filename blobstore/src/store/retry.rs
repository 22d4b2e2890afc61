//! A store that tries again: the only place that does.
//!
//! A write whose answer was lost may have been applied. `put` is harmless to repeat. `create` and
//! `replace` are repeated as they are, and when a *repeated* one is refused, the stored bytes
//! decide: equal to ours, it was our own write that won, and the call succeeds. Hence:
//!
//! - Racing callers must write different bytes (a lease holds its owner, a ref a counter), or two
//!   of them may take one write for theirs.
//! - If our write was applied, its answer lost, and somebody replaced it before we asked again, the
//!   caller is told `Exists` or `Conflict` though its bytes were there for a moment. It must read
//!   what is there now before it decides, as after any conflict.

mod list;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};
use crate::Clock;

/// How long and how often to try. The waits between attempts grow exponentially with full jitter
/// (Brooker, "Exponential Backoff And Jitter"): any time from zero to the bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 means no retry, and 0 counts as 1.
    pub attempts_max: u32,
    /// Bound of the wait after the first attempt; doubles with each further one.
    pub backoff_first: Duration,
    /// Bound that the waits do not grow past.
    pub backoff_max: Duration,
    /// Time for one call with all its attempts and waits.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// Rides out half a minute of an unavailable store; ends after two minutes whatever happens.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            deadline: Duration::from_secs(120),
        }
    }
}

/// Repeats requests that failed for reasons that may pass ([`StoreError::is_retryable`]).
///
/// After the last attempt the caller gets its error, or [`StoreError::TimedOut`] once the deadline
/// passes in the middle of one.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn BlobStore>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
    jitter: Jitter,
}

impl RetryStore {
    /// Repeats requests to `inner` by `policy`; `seed` decides the jitter.
    pub fn new(
        inner: Arc<dyn BlobStore>,
        clock: Arc<dyn Clock>,
        policy: RetryPolicy,
        seed: u64,
    ) -> Self {
        Self {
            inner,
            shared: Arc::new(Shared {
                clock,
                policy,
                jitter: Jitter::new(seed),
            }),
        }
    }

    /// Runs `attempt`, which is told how many went before it, until it succeeds or is not worth
    /// repeating.
    async fn call<'a, T>(
        &'a self,
        operation: &'static str,
        key: &Key,
        attempt: impl Fn(u32) -> BoxFuture<'a, Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let mut attempts = Attempts::start(&self.shared);
        loop {
            let outcome = tokio::select! {
                biased;
                outcome = attempt(attempts.failed) => outcome,
                () = attempts.deadline() => return Err(StoreError::TimedOut {
                    operation,
                    key: key.clone(),
                    seconds: self.shared.policy.deadline.as_secs(),
                }),
            };
            match outcome {
                Err(error) if error.is_retryable() => attempts.wait(error).await?,
                outcome => return outcome,
            }
        }
    }

    /// Decides what a refused, repeated write means: if the store holds `body`, it was our own
    /// earlier attempt that was applied.
    async fn unless_ours(
        &self,
        key: &Key,
        body: &Bytes,
        refusal: StoreError,
    ) -> Result<Version, StoreError> {
        match self.inner.get(key, body.len() as u64).await {
            Ok((stored, version)) if stored == *body => Ok(version),
            Ok(_) | Err(StoreError::Size { .. } | StoreError::NotFound(_)) => Err(refusal),
            Err(error) => Err(error),
        }
    }
}

#[async_trait::async_trait]
impl BlobStore for RetryStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.call("get", key, |_| self.inner.get(key, limit_bytes))
            .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.call("get range of", key, |_| {
            self.inner.get_range(key, range.clone())
        })
        .await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.call("get part of", key, |_| {
            self.inner.get_part(key, range.clone())
        })
        .await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.call("get size of", key, |_| self.inner.size(key))
            .await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.call("put", key, |_| self.inner.put(key, body.clone()))
            .await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        let body = &body;
        self.call("create", key, |failed| {
            Box::pin(async move {
                match self.inner.create(key, body.clone()).await {
                    Err(refusal @ StoreError::Exists(_)) if failed > 0 => {
                        self.unless_ours(key, body, refusal).await
                    }
                    outcome => outcome,
                }
            })
        })
        .await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        let body = &body;
        self.call("replace", key, |failed| {
            Box::pin(async move {
                match self.inner.replace(key, body.clone(), expected).await {
                    Err(refusal @ StoreError::Conflict(_)) if failed > 0 => {
                        self.unless_ours(key, body, refusal).await
                    }
                    outcome => outcome,
                }
            })
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.call("delete", key, |_| self.inner.delete(key)).await
    }

    /// After trouble the listing starts over and passes over what it has told already; it holds 16
    /// bytes for each object for that. Attempts and deadline count from the last object told.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        list::list(Arc::clone(&self.inner), Arc::clone(&self.shared), prefix)
    }
}

/// The attempts of one call.
#[derive(Debug)]
struct Attempts<'a> {
    shared: &'a Shared,
    started: Duration,
    failed: u32,
}

impl<'a> Attempts<'a> {
    fn start(shared: &'a Shared) -> Self {
        Self {
            shared,
            started: shared.clock.elapsed(),
            failed: 0,
        }
    }

    fn remaining(&self) -> Duration {
        let used = self.shared.clock.elapsed().saturating_sub(self.started);
        self.shared.policy.deadline.saturating_sub(used)
    }

    /// Waits until the call's time is over.
    async fn deadline(&self) {
        self.shared.clock.sleep(self.remaining()).await;
    }

    /// Waits before the next attempt, or returns `error` when there is to be none.
    async fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        let wait = self.shared.backoff(self.failed);
        self.failed += 1;
        if self.failed >= self.shared.policy.attempts_max || wait >= self.remaining() {
            return Err(error);
        }
        tracing::debug!(%error, failed = self.failed, ?wait, "store request is repeated");
        self.shared.clock.sleep(wait).await;
        Ok(())
    }
}

impl Shared {
    fn backoff(&self, failed: u32) -> Duration {
        let doubled = self
            .policy
            .backoff_first
            .saturating_mul(2_u32.saturating_pow(failed));
        self.jitter.below(doubled.min(self.policy.backoff_max))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads retries of many nodes, nothing more.
#[derive(Debug)]
struct Jitter(AtomicU64);

impl Jitter {
    const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .0
            .fetch_add(GAMMA, Ordering::Relaxed)
            .wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns any time up to `bound`, in microseconds.
    fn below(&self, bound: Duration) -> Duration {
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.next() % bound_us.saturating_add(1).max(1))
    }
}

#[cfg(test)]
mod tests;
