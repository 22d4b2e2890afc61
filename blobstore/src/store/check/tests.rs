use std::ops::Range;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::*;
use crate::testing::memory_store;
use crate::{ObjectInfo, Version};

/// A store that ignores conditions, as some S3 servers do.
#[derive(Debug)]
struct Careless {
    inner: Arc<dyn BlobStore>,
    creates: bool,
    replaces: bool,
}

#[async_trait::async_trait]
impl BlobStore for Careless {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.inner.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.inner.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        if self.creates {
            self.inner.put(key, body).await?;
            return Ok(self.inner.get(key, 100).await?.1);
        }
        self.inner.create(key, body).await
    }

    async fn replace(&self, key: &Key, body: Bytes, old: &Version) -> Result<Version, StoreError> {
        if self.replaces {
            self.inner.put(key, body).await?;
            return Ok(self.inner.get(key, 100).await?.1);
        }
        self.inner.replace(key, body, old).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        self.inner.list(prefix)
    }
}

#[tokio::test]
async fn careless_stores_are_found_out_and_left_clean() {
    for (creates, replaces, word) in [
        (false, false, ""),
        (true, false, "If-None-Match"),
        (false, true, "If-Match"),
    ] {
        let store = Careless {
            inner: memory_store(),
            creates,
            replaces,
        };
        match check(&store, 7).await {
            Ok(()) => assert_eq!(word, ""),
            Err(StoreError::Unsupported(text)) if !word.is_empty() => {
                assert!(text.contains(word), "{text}");
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(store.list("").try_collect::<Vec<_>>().await.unwrap(), []);
    }
}
