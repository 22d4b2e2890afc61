//! A store that notes each request in a file: a measuring aid.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};

/// Adds a line for each request to a file that several processes may share, so that what all of a
/// region's nodes and members ask of one store can be counted.
///
/// A line has the verb, the key and, of a range, its first byte and its end. What cannot be noted is
/// an error of the request: a count that is short would be worse than none.
#[derive(Debug)]
pub struct JournalStore {
    inner: Arc<dyn BlobStore>,
    file: File,
}

impl JournalStore {
    /// Notes each request to `inner` in the file at `path`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file cannot be opened.
    pub fn open(inner: Arc<dyn BlobStore>, path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|e| StoreError::unavailable("open", path.display(), e))?;
        Ok(Self { inner, file })
    }

    /// One write(2) for a line, so that lines of several processes do not mix.
    fn note(&self, line: &str) -> Result<(), StoreError> {
        let noted = (&self.file).write_all(format!("{line}\n").as_bytes());
        noted.map_err(|error| StoreError::unavailable("note", line, error))
    }
}

#[async_trait::async_trait]
impl BlobStore for JournalStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.note(&format!("get {key}"))?;
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.note(&format!("get {key} {} {}", range.start, range.end))?;
        self.inner.get_range(key, range).await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.note(&format!("get {key} {} {}", range.start, range.end))?;
        self.inner.get_part(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.note(&format!("size {key}"))?;
        self.inner.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.note(&format!("put {key}"))?;
        self.inner.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.note(&format!("create {key}"))?;
        self.inner.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.note(&format!("replace {key}"))?;
        self.inner.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.note(&format!("delete {key}"))?;
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        match self.note(&format!("list {prefix}")) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => Box::pin(futures::stream::iter([Err(error)])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_store;

    #[tokio::test]
    async fn each_request_is_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let store = JournalStore::open(memory_store(), &path).unwrap();
        let key = Key::new("packs/a").unwrap();
        store.put(&key, Bytes::from_static(b"0123")).await.unwrap();
        store.get(&key, 9).await.unwrap();
        store.get_range(&key, 1..3).await.unwrap();
        store.get_part(&key, 2..9).await.unwrap();
        let other = JournalStore::open(memory_store(), &path).unwrap();
        assert!(other.size(&key).await.is_err());
        let lines = "put packs/a\nget packs/a\nget packs/a 1 3\nget packs/a 2 9\nsize packs/a\n";
        assert_eq!(std::fs::read_to_string(path).unwrap(), lines);
    }
}
