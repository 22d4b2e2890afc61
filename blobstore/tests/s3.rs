//! The conformance suite over a real S3 server, as `scripts/s3-server.sh` starts one.
//!
//! Reads `NACRE_TEST_S3_ENDPOINT` (skipped without it), `NACRE_TEST_S3_BUCKET` (default `nacre`;
//! must exist) and the `AWS_*` variables.

#![cfg(test)]

use std::sync::Arc;

use nacre_blobstore::testing::{ConformanceOptions, conformance_with};
use nacre_blobstore::{BlobStore, StoreOptions, SystemClock, check_store, open_store};

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.into_string().unwrap())
}

/// A new folder of the server's bucket, or `None` when no server is given.
fn server(test: &str) -> Option<Arc<dyn BlobStore>> {
    let bucket = variable("NACRE_TEST_S3_BUCKET").unwrap_or_else(|| "nacre".to_owned());
    bucket_of_server(&bucket, test)
}

fn bucket_of_server(bucket: &str, test: &str) -> Option<Arc<dyn BlobStore>> {
    let Some(endpoint) = variable("NACRE_TEST_S3_ENDPOINT") else {
        println!("SKIPPED: NACRE_TEST_S3_ENDPOINT is not set");
        return None;
    };
    let unique = nonce();
    let url = format!("s3://{bucket}/test-{test}-{unique:x}")
        .parse()
        .unwrap();
    let mut options = StoreOptions::new(Arc::new(SystemClock::new()), unique);
    options.config = std::env::vars()
        .filter(|(name, _)| name.starts_with("AWS_"))
        .collect();
    options
        .config
        .insert("AWS_ENDPOINT_URL".to_owned(), endpoint);
    Some(open_store(&url, &options).unwrap())
}

fn nonce() -> u64 {
    getrandom::u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_promise() {
    let Some(store) = server("conformance") else {
        return;
    };
    // Fewer rounds: some servers take tens of seconds for one of them.
    let options = ConformanceOptions {
        rounds: 2,
        ..ConformanceOptions::default()
    };
    conformance_with(store, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn honours_conditions() {
    let Some(store) = server("check") else { return };
    check_store(&*store, nonce()).await.unwrap();
}

#[tokio::test]
async fn a_missing_bucket_is_no_missing_object() {
    let Some(store) = bucket_of_server("no-such-bucket", "x") else {
        return;
    };
    let key = nacre_blobstore::Key::new("k").unwrap();
    match store.put(&key, "x".into()).await {
        // SeaweedFS makes the bucket when an administrator writes to it.
        Ok(()) => assert_eq!(store.size(&key).await.unwrap(), 1),
        Err(error) => {
            assert!(!error.is_retryable(), "{error}");
            assert!(error.to_string().contains("NoSuchBucket"), "{error}");
        }
    }
}
