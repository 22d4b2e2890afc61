//! The object store with the region before it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use nacre_blobstore::{
    BlobStore, Key, ObjectInfo, RegionWriter, StoreError, Version, is_content_named,
    verify_content_named,
};

use super::counters::count;
use super::{RegionCache, WRITE_MEMBERS};

/// Members that are asked for a whole object before the origin is.
const ATTEMPTS_MAX: usize = 2;

/// Reads objects that never change through the region, checked against the hash that is their
/// name, and gives new ones to it on their way to the origin.
///
/// All else is between the caller and the origin: refs, leases and notes, which change; whether an
/// object is there, its length, and listings; and ranges, which the reader asks of its tiers
/// itself. A write is what the origin says it is: what the region makes of it is counted only.
#[derive(Debug)]
pub struct RegionStore {
    origin: Arc<dyn BlobStore>,
    region: Arc<RegionCache>,
}

impl RegionStore {
    /// Puts `region` before `origin`.
    pub const fn new(origin: Arc<dyn BlobStore>, region: Arc<RegionCache>) -> Self {
        Self { origin, region }
    }

    /// Returns a whole object that matches its name, if a member gives one.
    async fn get_checked(&self, key: &Key, limit_bytes: u64) -> Option<Bytes> {
        for _ in 0..ATTEMPTS_MAX {
            let given = match self.region.whole(key, limit_bytes, false).await {
                Ok(given) => given,
                Err(error) => {
                    tracing::debug!(%key, %error, "get from the origin");
                    return None;
                }
            };
            let giver = given.giver().map(str::to_owned);
            match verify_content_named(key, given).await {
                Some(bytes) => return Some(bytes),
                None => {
                    tracing::warn!(%key, ?giver, "dropped a corrupt object");
                    let giver = giver?;
                    let range = 0..1.max(limit_bytes.min(super::place::SPAN_BYTES));
                    if !self.region.blame(key, range, &giver).await {
                        break;
                    }
                }
            }
        }
        count(&self.region.fetcher.counters.passed_by);
        None
    }
}

#[async_trait::async_trait]
impl BlobStore for RegionStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        if is_content_named(key)
            && let Some(bytes) = self.get_checked(key, limit_bytes).await
        {
            return Ok((bytes, Version::unchanging()));
        }
        self.origin.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.origin.get_range(key, range).await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.origin.get_part(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.origin.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let (put, _) = tokio::join!(
            self.origin.put(key, body.clone()),
            self.region.write(key, &body)
        );
        put
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.origin.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.origin.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.origin.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        self.origin.list(prefix)
    }
}

#[async_trait::async_trait]
impl RegionWriter for RegionCache {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        match self.write(key, &body).await {
            taken if taken >= WRITE_MEMBERS => Ok(()),
            taken => Err(StoreError::Unavailable {
                operation: "give to the region",
                target: key.to_string(),
                message: format!("{taken} of {WRITE_MEMBERS} members took it"),
            }),
        }
    }
}
