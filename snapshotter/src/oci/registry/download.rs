//! The download of one blob, which goes on where a broken connection left off.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};

use super::{Connection, retry};
use crate::oci::blob::BlobStream;
use crate::oci::digest::OciDigest;
use crate::oci::error::OciError;

/// Most connections in a row that bring no new byte.
const STALLS_MAX: u32 = 5;

/// Most connections for one blob. A layer of 10 GB over a link that breaks every 100 MB arrives.
const CONNECTIONS_MAX: u32 = 128;

struct Download {
    connection: Arc<Connection>,
    digest: OciDigest,
    size_bytes: u64,
    /// Bytes passed on.
    at: u64,
    /// Bytes of the present answer to leave out: the server sent the blob from its start.
    skip_bytes: u64,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    stalls: u32,
    connections: u32,
}

/// Starts the download of a blob. The stream does not check the digest.
pub(super) async fn open(
    connection: Arc<Connection>,
    digest: OciDigest,
    size_bytes: u64,
) -> Result<BlobStream, OciError> {
    let mut download = Download {
        connection,
        digest,
        size_bytes,
        at: 0,
        skip_bytes: 0,
        body: None,
        stalls: 0,
        connections: 0,
    };
    download.connect().await?;
    Ok(stream::try_unfold(download, |mut download| async move {
        Ok(download.next().await?.map(|bytes| (bytes, download)))
    })
    .boxed())
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, OciError> {
        loop {
            let Some(body) = &mut self.body else {
                self.reconnect().await?;
                continue;
            };
            match body.next().await {
                Some(Ok(bytes)) => {
                    let bytes = self.without_skipped(bytes);
                    if !bytes.is_empty() {
                        // Bytes past the end are passed on: the check that follows refuses them.
                        self.at += bytes.len() as u64;
                        self.stalls = 0;
                        return Ok(Some(bytes));
                    }
                }
                ended_or_broken => {
                    if self.at >= self.size_bytes {
                        return Ok(None);
                    }
                    let error = ended_or_broken.and_then(Result::err).map(retry::describe);
                    tracing::debug!(digest = %self.digest, at = self.at, ?error, "blob broke off");
                    self.body = None;
                }
            }
        }
    }

    fn without_skipped(&mut self, mut bytes: Bytes) -> Bytes {
        let skip = usize::try_from(self.skip_bytes)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        bytes.advance(skip);
        self.skip_bytes -= skip as u64;
        bytes
    }

    async fn reconnect(&mut self) -> Result<(), OciError> {
        self.stalls += 1;
        if self.stalls > STALLS_MAX || self.connections >= CONNECTIONS_MAX {
            let message = format!(
                "broke off at byte {} of {}, after {} connections",
                self.at, self.size_bytes, self.connections
            );
            return Err(OciError::Unavailable {
                what: self.digest.to_string(),
                message,
            });
        }
        self.connection
            .clock
            .sleep(retry::backoff(self.stalls))
            .await;
        self.connect().await
    }

    /// Asks for the bytes from `at` on.
    async fn connect(&mut self) -> Result<(), OciError> {
        self.connections += 1;
        let mut headers = HeaderMap::new();
        if self.at > 0 {
            let range = format!("bytes={}-", self.at);
            headers.insert(
                RANGE,
                HeaderValue::try_from(range).expect("digits are ASCII"),
            );
        }
        let path = format!("blobs/{}", self.digest);
        let response = self
            .connection
            .get(&path, self.digest.as_str(), &headers)
            .await?;
        self.skip_bytes = match response.status() {
            StatusCode::OK => self.at,
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(self.at) => 0,
            // The blob ends where the last connection did: shorter than announced.
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.shorter()),
            _ => {
                let message = "the registry answers with another range than was asked for";
                return Err(OciError::malformed(self.digest.as_str(), message));
            }
        };
        self.body = Some(response.bytes_stream().boxed());
        Ok(())
    }

    fn shorter(&self) -> OciError {
        OciError::Size {
            digest: self.digest.clone(),
            expected: self.size_bytes,
            longer: false,
        }
    }
}

/// Returns the first position of a partial answer.
fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split_once('-')?
        .0
        .parse()
        .ok()
}
