//! A store that fails on demand and counts what it is asked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{BlobStore, Key, ObjectInfo, StoreError, Version};

/// A method of [`BlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// [`BlobStore::get`]
    Get,
    /// [`BlobStore::get_range`] and [`BlobStore::get_part`]
    GetRange,
    /// [`BlobStore::size`]
    Size,
    /// [`BlobStore::put`]
    Put,
    /// [`BlobStore::create`]
    Create,
    /// [`BlobStore::replace`]
    Replace,
    /// [`BlobStore::delete`]
    Delete,
    /// [`BlobStore::list`]
    List,
}

impl Operation {
    /// Those that return bodies.
    pub const READS: [Self; 2] = [Self::Get, Self::GetRange];
    /// Those that store bodies.
    pub const WRITES: [Self; 3] = [Self::Put, Self::Create, Self::Replace];

    const fn verb(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::GetRange => "get range of",
            Self::Size => "get size of",
            Self::Put => "put",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The request fails and was not applied.
    FailBefore,
    /// The request is applied, but its answer is lost.
    FailAfter,
    /// A body that is read ends after so many bytes, and nothing says so. A listing ends in an
    /// error after so many objects.
    Truncate(usize),
    /// The bit of this number (modulo the body's length in bits) of a body that is read is flipped.
    FlipBit(usize),
    /// The request takes so much longer, by tokio's clock, which tests can pause.
    Delay(Duration),
}

/// A fault, which requests it hits, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    operations: Vec<Operation>,
    key_prefix: String,
    times: u64,
}

impl Fault {
    /// Makes a fault that hits every request, until the store is healed.
    pub const fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            operations: Vec::new(),
            key_prefix: String::new(),
            times: u64::MAX,
        }
    }

    /// Hits only these operations.
    #[must_use]
    pub fn on(mut self, operations: &[Operation]) -> Self {
        self.operations = operations.to_vec();
        self
    }

    /// Hits only keys (and listed folders) whose text starts with `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.key_prefix);
        self
    }

    /// Hits only the next `times` of them.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    fn hits(&self, operation: Operation, target: &str) -> bool {
        self.times > 0
            && (self.operations.is_empty() || self.operations.contains(&operation))
            && target.starts_with(&self.key_prefix)
    }
}

/// Requests of one operation so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests, failed ones too.
    pub requests: u64,
    /// Bytes of the bodies that were returned, or handed in to be stored, failed ones too.
    pub bytes: u64,
}

/// A [`BlobStore`] with faults and counters.
///
/// Of the faults that hit a request, the one injected first that has hits left is used up; delays
/// add to it. Nothing is random: the caller says what fails.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn BlobStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    partitioned: bool,
    counts: BTreeMap<Operation, Count>,
    hits: u64,
}

/// What one request has to suffer.
#[derive(Debug, Default)]
struct Plan {
    delay: Duration,
    kind: Option<FaultKind>,
}

impl FaultStore {
    /// Wraps `inner`; healthy at first.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Lets the next `times` reads of bodies fail.
    pub fn fail_next_gets(&self, times: u64) {
        self.inject(
            Fault::new(FaultKind::FailBefore)
                .on(&Operation::READS)
                .times(times),
        );
    }

    /// Lets the next `times` writes fail without being applied.
    pub fn fail_next_puts_before(&self, times: u64) {
        self.inject(
            Fault::new(FaultKind::FailBefore)
                .on(&Operation::WRITES)
                .times(times),
        );
    }

    /// Lets the next `times` writes be applied but their answers be lost.
    pub fn fail_next_puts_after(&self, times: u64) {
        self.inject(
            Fault::new(FaultKind::FailAfter)
                .on(&Operation::WRITES)
                .times(times),
        );
    }

    /// Cuts the bodies of the next `times` reads to `len_bytes`.
    pub fn truncate_next_gets(&self, times: u64, len_bytes: usize) {
        self.inject(
            Fault::new(FaultKind::Truncate(len_bytes))
                .on(&Operation::READS)
                .times(times),
        );
    }

    /// Flips one bit in the bodies of the next `times` reads.
    pub fn flip_bit_in_next_gets(&self, times: u64, bit: usize) {
        self.inject(
            Fault::new(FaultKind::FlipBit(bit))
                .on(&Operation::READS)
                .times(times),
        );
    }

    /// Slows every request down.
    pub fn delay(&self, delay: Duration) {
        self.inject(Fault::new(FaultKind::Delay(delay)));
    }

    /// Cuts the store off (every request fails at once) or joins it again.
    pub fn set_partitioned(&self, partitioned: bool) {
        self.state().partitioned = partitioned;
    }

    /// Removes all faults and the partition. The counts stay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.partitioned = false;
    }

    /// Returns how often `operation` was asked so far.
    pub fn count(&self, operation: Operation) -> Count {
        self.state()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or_default()
    }

    /// Returns how many requests of any kind were made so far.
    pub fn requests(&self) -> u64 {
        self.state()
            .counts
            .values()
            .map(|count| count.requests)
            .sum()
    }

    /// Returns how often a fault hit a request so far.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// Sets all counts to zero.
    pub fn reset_counts(&self) {
        self.state().counts.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_bytes(&self, operation: Operation, len: usize) {
        self.state().counts.entry(operation).or_default().bytes += len as u64;
    }

    /// Counts a request and decides what happens to it.
    fn plan(&self, operation: Operation, target: &str) -> Plan {
        let mut state = self.state();
        let state = &mut *state;
        state.counts.entry(operation).or_default().requests += 1;
        let mut plan = Plan::default();
        if state.partitioned {
            plan.kind = Some(FaultKind::FailBefore);
            return plan;
        }
        for fault in &mut state.faults {
            if !fault.hits(operation, target) {
                continue;
            }
            match &fault.kind {
                FaultKind::Delay(delay) => plan.delay += *delay,
                kind if plan.kind.is_none() => plan.kind = Some(kind.clone()),
                _ => continue,
            }
            state.hits += 1;
            fault.times -= u64::from(fault.times != u64::MAX);
        }
        plan
    }

    /// Does one request as planned.
    async fn request<T>(
        &self,
        operation: Operation,
        key: &Key,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<(T, Option<FaultKind>), StoreError> {
        let plan = self.plan(operation, key.as_str());
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        if plan.kind == Some(FaultKind::FailBefore) {
            return Err(injected(operation, key.as_str()));
        }
        let outcome = request.await?;
        if plan.kind == Some(FaultKind::FailAfter) {
            return Err(injected(operation, key.as_str()));
        }
        Ok((outcome, plan.kind))
    }

    /// Counts and damages a body that was read.
    fn body(&self, operation: Operation, body: Bytes, kind: Option<&FaultKind>) -> Bytes {
        let body = match kind {
            Some(FaultKind::Truncate(len)) => body.slice(..body.len().min(*len)),
            Some(FaultKind::FlipBit(bit)) if !body.is_empty() => {
                let mut damaged = BytesMut::from(&body[..]);
                let index = bit / 8 % body.len();
                damaged[index] ^= 1 << (bit % 8);
                damaged.freeze()
            }
            _ => body,
        };
        self.add_bytes(operation, body.len());
        body
    }
}

fn injected(operation: Operation, target: &str) -> StoreError {
    StoreError::unavailable(operation.verb(), target, "injected fault")
}

#[async_trait::async_trait]
impl BlobStore for FaultStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        let request = self.inner.get(key, limit_bytes);
        let ((body, version), kind) = self.request(Operation::Get, key, request).await?;
        Ok((self.body(Operation::Get, body, kind.as_ref()), version))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let request = self.inner.get_range(key, range);
        let (body, kind) = self.request(Operation::GetRange, key, request).await?;
        Ok(self.body(Operation::GetRange, body, kind.as_ref()))
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let request = self.inner.get_part(key, range);
        let ((body, actual), kind) = self.request(Operation::GetRange, key, request).await?;
        Ok((self.body(Operation::GetRange, body, kind.as_ref()), actual))
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        Ok(self
            .request(Operation::Size, key, self.inner.size(key))
            .await?
            .0)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.add_bytes(Operation::Put, body.len());
        self.request(Operation::Put, key, self.inner.put(key, body))
            .await
            .map(drop)
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.add_bytes(Operation::Create, body.len());
        Ok(self
            .request(Operation::Create, key, self.inner.create(key, body))
            .await?
            .0)
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.add_bytes(Operation::Replace, body.len());
        let request = self.inner.replace(key, body, expected);
        Ok(self.request(Operation::Replace, key, request).await?.0)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.request(Operation::Delete, key, self.inner.delete(key))
            .await
            .map(drop)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let plan = self.plan(Operation::List, prefix);
        let error = Err(injected(Operation::List, prefix));
        let objects = self.inner.list(prefix);
        let objects = match plan.kind {
            Some(FaultKind::FailBefore) => futures::stream::iter([error]).boxed(),
            Some(FaultKind::FailAfter) => objects.chain(futures::stream::iter([error])).boxed(),
            Some(FaultKind::Truncate(count)) => objects
                .take(count)
                .chain(futures::stream::iter([error]))
                .boxed(),
            Some(FaultKind::FlipBit(_) | FaultKind::Delay(_)) | None => objects,
        };
        futures::stream::once(async move {
            if !plan.delay.is_zero() {
                tokio::time::sleep(plan.delay).await;
            }
            objects
        })
        .flatten()
        .boxed()
    }
}

#[cfg(test)]
mod tests;
