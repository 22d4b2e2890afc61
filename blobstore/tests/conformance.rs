//! The conformance suite over every store that needs no server.

use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::testing::{
    ConformanceOptions, Fault, FaultKind, FaultStore, Operation, conformance, conformance_with,
    memory_store,
};
use nacre_blobstore::{
    BlobStore, LimitStore, LocalStore, RetryPolicy, RetryStore, StoreOptions, StoreUrl,
    SystemClock, open_store,
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
async fn limited_to_one_request() {
    conformance(Arc::new(LimitStore::new(memory_store(), 1))).await;
}

/// Every kind of request fails now and then, before or after it is applied; the retries heal it.
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
    while !ended.is_finished() {
        for operations in [&Operation::READS[..], &Operation::WRITES, &all] {
            faults.inject(Fault::new(FaultKind::FailBefore).on(operations).times(1));
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
