//! Spans of requests to the object store, for whoever records them.
//!
//! A span of this workspace has the level DEBUG, and its target begins with `nacre`. Where nobody
//! records spans one costs a look at a flag: what is in it is not even computed.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::{BlobStore, Key, ObjectInfo, StoreError, Version};

/// The field that OpenTelemetry takes for the status of a span.
const STATUS: &str = "otel.status_code";

/// Makes a span of each request for bytes of an object, as a child of the caller's.
#[derive(Debug)]
pub struct SpanStore {
    inner: Arc<dyn BlobStore>,
}

impl SpanStore {
    /// Makes spans of requests to `inner`.
    pub const fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner }
    }
}

#[async_trait::async_trait]
impl BlobStore for SpanStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        let get = self.inner.get(key, limit_bytes);
        origin_get(&Span::current(), key, None, |(bytes, _)| bytes, get).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let get = self.inner.get_range(key, range.clone());
        origin_get(&Span::current(), key, Some(&range), |bytes| bytes, get).await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let (parent, get) = (Span::current(), self.inner.get_part(key, range.clone()));
        origin_get(&parent, key, Some(&range), |(bytes, _)| bytes, get).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.inner.size(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.inner.put(key, body).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.inner.create(key, body).await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        self.inner.replace(key, body, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        self.inner.list(prefix)
    }
}

/// Awaits `work` in `span`, whose field `otel.status_code` says when it fails.
///
/// # Errors
/// Those of `work`.
pub async fn in_span<T, E>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let done = work.instrument(span.clone()).await;
    if done.is_err() {
        span.record(STATUS, "error");
    }
    done
}

/// Awaits `get`, a request to the object store for bytes of an object, in a span that is a child of
/// `parent`. Without a range it is for the whole object. `bytes_of` finds the bytes in the answer.
///
/// # Errors
/// Those of `get`.
pub async fn origin_get<T>(
    parent: &Span,
    key: &Key,
    range: Option<&Range<u64>>,
    bytes_of: impl Fn(&T) -> &Bytes,
    get: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let span = tracing::debug_span!(
        parent: parent,
        "origin GET",
        otel.kind = "client",
        object = %key,
        range = range.map(range_text),
        bytes = Empty,
        outcome = Empty,
        otel.status_code = Empty,
    );
    let got = get.instrument(span.clone()).await;
    if !span.is_disabled() {
        match &got {
            Ok(got) => {
                span.record("bytes", span_number(bytes_of(got).len() as u64));
                span.record("outcome", "ok");
            }
            Err(error) => {
                span.record("outcome", outcome(error));
                if !is_answer(error) {
                    span.record(STATUS, "error");
                }
            }
        }
    }
    got
}

/// Returns a range as HTTP writes it: its first byte and its last.
pub fn range_text(range: &Range<u64>) -> String {
    format!("{}-{}", range.start, range.end.saturating_sub(1))
}

/// Returns a number as spans have them: signed. Any other kind would be exported as text.
pub fn span_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Tells whether the store has answered, and nothing is wrong with it.
const fn is_answer(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound(_) | StoreError::Size { .. })
}

/// Returns one of a few words, for spans are counted by them. The log has the whole text.
const fn outcome(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound(_) => "not found",
        StoreError::Size { .. } => "other length",
        StoreError::Denied(_) => "denied",
        StoreError::TimedOut { .. } => "timed out",
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::Exists(_)
        | StoreError::Conflict(_)
        | StoreError::InvalidKey(_)
        | StoreError::Unsupported(_)
        | StoreError::NoSpace(_) => "failed",
    }
}
