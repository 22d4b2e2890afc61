//! A store that answers late: a measuring aid.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};
use crate::Clock;

/// Objects that one request of a listing returns, at S3.
const LIST_PAGE_OBJECTS: usize = 1000;

/// Adds a fixed latency to every request, so that benchmarks over a local store see what a distant
/// one costs. A listing waits once for every 1,000 objects.
#[derive(Debug)]
pub struct DelayStore {
    inner: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    delay: Duration,
}

impl DelayStore {
    /// Delays each request to `inner` by `delay`.
    pub fn new(inner: Arc<dyn BlobStore>, clock: Arc<dyn Clock>, delay: Duration) -> Self {
        Self {
            inner,
            clock,
            delay,
        }
    }

    async fn wait(&self) {
        self.clock.sleep(self.delay).await;
    }
}

#[async_trait::async_trait]
impl BlobStore for DelayStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.wait().await;
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.wait().await;
        self.inner.get_range(key, range).await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.wait().await;
        self.inner.get_part(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.wait().await;
        self.inner.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.wait().await;
        self.inner.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.wait().await;
        self.inner.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.wait().await;
        self.inner.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.wait().await;
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let (clock, delay) = (Arc::clone(&self.clock), self.delay);
        let objects = self.inner.list(prefix).enumerate();
        futures::stream::once(async move {
            clock.sleep(delay).await;
            objects.then(move |(index, object)| {
                let clock = Arc::clone(&clock);
                async move {
                    if index > 0 && index % LIST_PAGE_OBJECTS == 0 {
                        clock.sleep(delay).await;
                    }
                    object
                }
            })
        })
        .flatten()
        .boxed()
    }
}
