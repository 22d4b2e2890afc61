//! Building the clients of the clouds from name-value options.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{Error, ObjectStore, RetryConfig};

/// Time for one request with its body, unless the options say otherwise: enough for a pack of 64
/// MiB at 9 Mbit/s, and half of what a call may take with its retries.
const REQUEST_TIMEOUT: &str = "60s";

/// Options whose value, if it starts with `http://`, permits plain HTTP to the store.
const ENDPOINT_OPTIONS: [&str; 9] = [
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "aws_endpoint",
    "endpoint_url",
    "endpoint",
    "azure_storage_endpoint",
    "azure_endpoint",
    "google_base_url",
    "base_url",
];

/// Retries are made above, by `RetryStore`.
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// Returns the options with the names in lower case, as the clients' keys are parsed, and with the
/// defaults in front.
fn settings(config: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut settings = vec![("timeout".to_owned(), REQUEST_TIMEOUT.to_owned())];
    for (name, value) in config {
        let name = name.to_ascii_lowercase();
        if ENDPOINT_OPTIONS.contains(&name.as_str()) && value.starts_with("http://") {
            settings.push(("allow_http".to_owned(), "true".to_owned()));
        }
        settings.push((name, value.clone()));
    }
    settings
}

pub(super) fn s3(
    bucket: &str,
    config: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder =
        settings(config)
            .into_iter()
            .fold(AmazonS3Builder::new(), |builder, (name, value)| match name
                .parse::<AmazonS3ConfigKey>()
            {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
    // Not every server has the bulk delete that the client would use for one object, too.
    let client = builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(true)
        .with_retry(no_retries())
        .build()?;
    Ok(Arc::new(client))
}

pub(super) fn gcs(
    bucket: &str,
    config: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder = settings(config).into_iter().fold(
        GoogleCloudStorageBuilder::new(),
        |builder, (name, value)| match name.parse::<GoogleConfigKey>() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        },
    );
    Ok(Arc::new(
        builder
            .with_bucket_name(bucket)
            .with_retry(no_retries())
            .build()?,
    ))
}

pub(super) fn azure(
    container: &str,
    config: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder = settings(config).into_iter().fold(
        MicrosoftAzureBuilder::new(),
        |builder, (name, value)| match name.parse::<AzureConfigKey>() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        },
    );
    Ok(Arc::new(
        builder
            .with_container_name(container)
            .with_retry(no_retries())
            .build()?,
    ))
}
