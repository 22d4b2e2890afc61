//! A store with another one in front of it, for what is not in the store yet.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};

/// Reads what is in either of two stores, and writes to the second. The first one holds objects
/// that are on their way to the second: under names derived from their bytes, so that it does not
/// matter which of the two is read.
///
/// An object that moves from the first to the second is found at every moment, and listed once: the
/// first is asked first.
#[derive(Debug, Clone)]
pub struct StagedStore {
    front: Arc<dyn BlobStore>,
    store: Arc<dyn BlobStore>,
}

impl StagedStore {
    /// Puts `front` in front of `store`.
    pub const fn new(front: Arc<dyn BlobStore>, store: Arc<dyn BlobStore>) -> Self {
        Self { front, store }
    }
}

#[async_trait::async_trait]
impl BlobStore for StagedStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        match self.front.get(key, limit_bytes).await {
            Err(StoreError::NotFound(_)) => self.store.get(key, limit_bytes).await,
            got => got,
        }
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.front.get_range(key, range.clone()).await {
            Err(StoreError::NotFound(_)) => self.store.get_range(key, range).await,
            got => got,
        }
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        match self.front.size(key).await {
            Err(StoreError::NotFound(_)) => self.store.size(key).await,
            size => size,
        }
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.store.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.store.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.store.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.store.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let (front, store) = (self.front.list(prefix), Arc::clone(&self.store));
        let prefix = prefix.to_owned();
        let all = async move {
            let staged: Vec<ObjectInfo> = front.try_collect().await?;
            let keys: HashSet<Key> = staged.iter().map(|object| object.key.clone()).collect();
            let stored = store.list(&prefix).try_filter(move |object| {
                let is_new = !keys.contains(&object.key);
                async move { is_new }
            });
            Ok::<_, StoreError>(stream::iter(staged.into_iter().map(Ok)).chain(stored))
        };
        stream::once(all).try_flatten().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_store;

    #[tokio::test]
    async fn both_are_read_each_object_is_listed_once_and_writes_go_to_the_store() {
        let (front, store) = (memory_store(), memory_store());
        let staged = StagedStore::new(Arc::clone(&front), Arc::clone(&store));
        let key = |name: &str| Key::new(format!("packs/{name}")).unwrap();
        front.put(&key("a"), "front".into()).await.unwrap();
        for name in ["a", "b"] {
            store.put(&key(name), "store".into()).await.unwrap();
        }
        staged.put(&key("c"), "c".into()).await.unwrap();
        assert_eq!(store.size(&key("c")).await.unwrap(), 1);
        assert_eq!(staged.get(&key("a"), 9).await.unwrap().0, "front");
        assert_eq!(staged.get(&key("b"), 9).await.unwrap().0, "store");
        assert_eq!(staged.get_range(&key("b"), 0..2).await.unwrap(), "st");
        let listed: Vec<_> = staged.list("packs").try_collect().await.unwrap();
        let mut listed: Vec<_> = listed.iter().map(|o| o.key.to_string()).collect();
        listed.sort();
        assert_eq!(listed, ["packs/a", "packs/b", "packs/c"]);
        let missing = staged.size(&key("d")).await;
        assert!(matches!(missing, Err(StoreError::NotFound(_))));
    }
}
