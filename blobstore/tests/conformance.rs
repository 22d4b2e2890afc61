//! The conformance suite over every store that needs no server.

#![cfg(test)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use nacre_blobstore::testing::{
    ConformanceOptions, Fault, FaultKind, FaultStore, Operation, conformance, conformance_with,
    memory_store,
};
use nacre_blobstore::{
    BlobStore, Key, LimitStore, LocalStore, ObjectInfo, RetryPolicy, RetryStore, SpanStore,
    StoreError, StoreOptions, StoreUrl, SystemClock, Version, open_store,
};

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

/// Retries as fast as the faults below come.
fn retry(inner: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
    let policy = RetryPolicy {
        attempts_max: u32::MAX,
        backoff_first: Duration::from_micros(10),
        backoff_max: Duration::from_micros(100),
        deadline: Duration::from_secs(60),
    };
    Arc::new(RetryStore::new(inner, clock(), policy, 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    conformance(memory_store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_directory() {
    let directory = tempfile::tempdir().unwrap();
    conformance(Arc::new(LocalStore::open(directory.path()).unwrap())).await;
    assert_eq!(
        files_below(directory.path()),
        ["#lock"],
        "nothing else stays behind"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opened_by_url() {
    let directory = tempfile::tempdir().unwrap();
    let url = StoreUrl::directory(directory.path());
    conformance(open_store(&url, &StoreOptions::new(clock(), 7)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_spans() {
    conformance(Arc::new(SpanStore::new(memory_store()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_to_one_request() {
    conformance(Arc::new(LimitStore::new(memory_store(), 1))).await;
}

/// Every kind of request fails now and then, before or after it is applied; the retries heal it.
///
/// But for one case: a `replace` that was applied, whose answer was lost, and whose object somebody
/// replaced before it was repeated ends in a conflict, as `store/retry.rs` says. The suite's
/// counters would rightly count such a writer twice, so answers of `replace` are not lost here.
#[tokio::test(flavor = "multi_thread")]
async fn retried_over_faults() {
    let faults = Arc::new(FaultStore::new(memory_store()));
    let store = retry(Arc::clone(&faults) as Arc<dyn BlobStore>);
    let ended = tokio::spawn({
        let options = ConformanceOptions {
            list_objects: 300,
            ..ConformanceOptions::default()
        };
        async move { conformance_with(store, &options).await }
    });
    let all = [Operation::Size, Operation::Delete, Operation::List];
    let resolved = [Operation::Put, Operation::Create];
    while !ended.is_finished() {
        for operations in [&Operation::READS[..], &Operation::WRITES, &all] {
            faults.inject(Fault::new(FaultKind::FailBefore).on(operations).times(1));
        }
        for operations in [&Operation::READS[..], &resolved, &all] {
            faults.inject(Fault::new(FaultKind::FailAfter).on(operations).times(1));
        }
        faults.inject(
            Fault::new(FaultKind::Truncate(7))
                .on(&[Operation::List])
                .times(1),
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
        faults.heal();
    }
    ended.await.unwrap();
    assert!(faults.hits() > 20, "only {} requests failed", faults.hits());
}

/// Runs the suite over a store with a fault that stays.
async fn with_fault(fault: Fault) {
    let faults = FaultStore::new(memory_store());
    faults.inject(fault);
    conformance(Arc::new(faults)).await;
}

#[tokio::test]
#[should_panic(expected = "half of a large body came back changed")]
async fn the_suite_notices_damaged_ranges() {
    with_fault(
        Fault::new(FaultKind::FlipBit(3))
            .on(&[Operation::GetRange])
            .below("conformance/l"),
    )
    .await;
}

#[tokio::test]
#[should_panic(expected = "another object was read")]
async fn the_suite_notices_cut_bodies() {
    let fault = Fault::new(FaultKind::Truncate(2)).on(&[Operation::Get]);
    with_fault(fault.below("conformance/keys")).await;
}

/// A store that is correct as long as nobody races.
#[derive(Debug)]
struct LastWriterWins(Arc<dyn BlobStore>);

#[async_trait::async_trait]
impl BlobStore for LastWriterWins {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.0.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.0.get_range(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.0.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.0.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.0.create(key, body).await
    }

    /// Compares first and writes then, with a gap between.
    async fn replace(&self, key: &Key, body: Bytes, old: &Version) -> Result<Version, StoreError> {
        let found = self.0.get(key, 1 << 20).await;
        if !found.is_ok_and(|(_, version)| version == *old) {
            return Err(StoreError::Conflict(key.clone()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.0.put(key, body).await?;
        Ok(self.0.get(key, 1 << 20).await?.1)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        self.0.list(prefix)
    }
}

#[tokio::test]
#[should_panic(expected = "racers that won")]
async fn the_suite_notices_two_winners() {
    conformance(Arc::new(LastWriterWins(memory_store()))).await;
}

fn files_below(directory: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    files
}
