//! A store that tells of each request before it is made.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::Operation;
use crate::{BlobStore, Key, ObjectInfo, StoreError, Version};

type Hook = dyn Fn(Operation, &str) -> BoxFuture<'static, ()> + Send + Sync;

/// A [`BlobStore`] that waits for what a test does before each request: to take notes of the order
/// of requests, or to let something else happen between two of them.
#[derive(Clone)]
pub struct HookStore {
    inner: Arc<dyn BlobStore>,
    hook: Arc<Hook>,
}

impl HookStore {
    /// Wraps `inner`; `hook` gets the key or the listed folder.
    pub fn new(
        inner: Arc<dyn BlobStore>,
        hook: impl Fn(Operation, &str) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            hook: Arc::new(hook),
        }
    }

    fn call(&self, operation: Operation, key: &Key) -> BoxFuture<'static, ()> {
        (self.hook)(operation, key.as_str())
    }
}

impl fmt::Debug for HookStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookStore({:?})", self.inner)
    }
}

#[async_trait::async_trait]
impl BlobStore for HookStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.call(Operation::Get, key).await;
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.call(Operation::GetRange, key).await;
        self.inner.get_range(key, range).await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.call(Operation::GetRange, key).await;
        self.inner.get_part(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.call(Operation::Size, key).await;
        self.inner.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.call(Operation::Put, key).await;
        self.inner.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.call(Operation::Create, key).await;
        self.inner.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.call(Operation::Replace, key).await;
        self.inner.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.call(Operation::Delete, key).await;
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let before = (self.hook)(Operation::List, prefix);
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.to_owned());
        let listing = async move {
            before.await;
            inner.list(&prefix)
        };
        futures::stream::once(listing).flatten().boxed()
    }
}
