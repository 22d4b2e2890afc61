//! A store whose objects are made up when they are asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use nacre_blobstore::{BlobStore, Key, ObjectInfo, StoreError, Version};

use crate::objects::{Random, path, word};

pub(crate) const OBJECT_BYTES: u64 = 16 << 20;
/// Where a word tells which bytes these are; ranges begin nowhere else.
pub(crate) const STAMP_BYTES: u64 = 64 << 10;
/// What each request takes: a store that is faster than any disk would have foyer drop most writes.
const DELAY: Duration = Duration::from_millis(20);
/// What a member asks for at once at most.
const GET_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Origin {
    numbers: HashMap<String, u64>,
    gets: Vec<AtomicU64>,
    /// What is between the stamps. No compression and no page of zeros makes anything of it.
    filling: Vec<u8>,
}

impl Origin {
    pub(crate) fn new(count: u64) -> Self {
        let mut random = Random::new(count);
        let words = (0..GET_BYTES_MAX / 8).flat_map(|_| random.next().to_le_bytes());
        Self {
            numbers: (0..count).map(|number| (path(number), number)).collect(),
            gets: (0..count).map(|_| AtomicU64::new(0)).collect(),
            filling: words.collect(),
        }
    }

    /// Returns the number of the object that has this path in a request.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.numbers.get(path).copied()
    }

    /// Answers a request for a range of an object, and counts it.
    pub(crate) async fn fetch(&self, object: u64, range: Range<u64>) -> Vec<u8> {
        let index = usize::try_from(object).unwrap();
        self.gets[index].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(DELAY).await;
        let len = usize::try_from(range.end - range.start).unwrap();
        let mut bytes = self.filling[..len].to_vec();
        let stamped = bytes.chunks_mut(usize::try_from(STAMP_BYTES).unwrap());
        for (offset, chunk) in range
            .step_by(usize::try_from(STAMP_BYTES).unwrap())
            .zip(stamped)
        {
            chunk[..8].copy_from_slice(&word(object, offset).to_le_bytes());
        }
        bytes
    }

    /// Returns how many requests there were for these objects.
    pub(crate) fn gets(&self, objects: Range<usize>) -> u64 {
        let gets = self.gets[objects].iter();
        gets.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn object(&self, key: &Key) -> Result<u64, StoreError> {
        let number = self.number(&format!("/{}", key.as_str()));
        number.ok_or_else(|| StoreError::NotFound(key.clone()))
    }
}

fn unsupported<T>() -> Result<T, StoreError> {
    Err(StoreError::Unsupported(
        "ranges are all that there is".into(),
    ))
}

#[async_trait::async_trait]
impl BlobStore for Origin {
    async fn get(&self, _: &Key, _: u64) -> Result<(Bytes, Version), StoreError> {
        unsupported()
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.fetch(self.object(key)?, range).await.into())
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        Ok((self.get_range(key, range).await?, OBJECT_BYTES))
    }

    async fn size(&self, _: &Key) -> Result<u64, StoreError> {
        Ok(OBJECT_BYTES)
    }

    async fn put(&self, _: &Key, _: Bytes) -> Result<(), StoreError> {
        unsupported()
    }

    async fn create(&self, _: &Key, _: Bytes) -> Result<Version, StoreError> {
        unsupported()
    }

    async fn replace(&self, _: &Key, _: Bytes, _: &Version) -> Result<Version, StoreError> {
        unsupported()
    }

    async fn delete(&self, _: &Key) -> Result<(), StoreError> {
        unsupported()
    }

    fn list(&self, _: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        futures::stream::empty().boxed()
    }
}
