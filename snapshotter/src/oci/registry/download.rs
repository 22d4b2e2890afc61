//! A blob from a registry, in spite of connections that break.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::backoff::Attempts;
use super::endpoint::{Endpoint, without_secrets};
use crate::oci::blob::BlobStream;
use crate::oci::digest::OciDigest;
use crate::oci::error::OciError;

/// Bytes after which earlier trouble is forgotten. This bounds the requests for a blob by its
/// length however often the connection breaks.
const PROGRESS_BYTES: u64 = 8 << 20;

/// A blob being read. Where the connection breaks, a `Range` request goes on; from a registry
/// that does not know ranges the bytes before are read again and dropped.
pub(super) struct Download {
    endpoint: Arc<Endpoint>,
    path: String,
    accept: String,
    digest: OciDigest,
    size_bytes: u64,
    /// Bytes passed on.
    at: u64,
    /// Bytes to drop before the next is passed on.
    skip_bytes: u64,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    attempts: Attempts,
    /// Where [`Self::attempts`] starts over.
    forget_at: u64,
}

impl Download {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        path: String,
        accept: String,
        digest: OciDigest,
        size_bytes: u64,
    ) -> Self {
        let attempts = endpoint.backoff().start();
        let (at, skip_bytes, forget_at) = (0, 0, PROGRESS_BYTES);
        let body = None;
        Self {
            endpoint, path, accept, digest, size_bytes, at, skip_bytes, body, attempts, forget_at,
        }
    }

    /// Streams the blob. The first request is sent when the stream is first polled.
    pub(super) fn stream(self) -> BlobStream {
        stream::try_unfold(self, |mut download| async move {
            let bytes = download.next().await?;
            Ok(bytes.map(|bytes| (bytes, download)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, OciError> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => {
                    let response = self.open().await?;
                    self.body.insert(response.bytes_stream().boxed())
                }
            };
            match body.next().await {
                None => return Ok(None),
                Some(Ok(bytes)) => {
                    if let Some(bytes) = self.pass_on(bytes) {
                        return Ok(Some(bytes));
                    }
                }
                // All is here; only the end of the transfer was not said.
                Some(Err(_)) if self.at == self.size_bytes && self.at > 0 => return Ok(None),
                Some(Err(error)) => {
                    self.body = None;
                    let what = self.endpoint.url(&self.path);
                    let message = without_secrets(error);
                    self.attempts.wait(OciError::Unavailable { what, message }, None).await?;
                }
            }
        }
    }

    fn pass_on(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let skipped = usize::try_from(self.skip_bytes).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(skipped);
        self.skip_bytes -= skipped as u64;
        self.at += bytes.len() as u64;
        if self.at >= self.forget_at {
            self.attempts = self.endpoint.backoff().start();
            self.forget_at = self.at.saturating_add(PROGRESS_BYTES);
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Sends a request for the rest, and checks that the answer starts where it should and has
    /// the length that it should.
    async fn open(&mut self) -> Result<Response, OciError> {
        let response = self.endpoint.get(&self.path, &self.accept, self.at).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response),
            _ => Some(0),
        };
        let start = start.filter(|start| *start <= self.at).ok_or_else(|| {
            OciError::malformed(self.endpoint.url(&self.path), "another range than asked for")
        })?;
        self.skip_bytes = self.at - start;
        if let Some(len) = response.content_length() {
            let expected = self.size_bytes;
            let end = start.saturating_add(len);
            if end != expected {
                let (digest, longer) = (self.digest.clone(), end > expected);
                return Err(OciError::Size { digest, expected, longer });
            }
        }
        Ok(response)
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({}, at {} of {})", self.digest, self.at, self.size_bytes)
    }
}
