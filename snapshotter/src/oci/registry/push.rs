//! Uploads to a registry (OCI distribution-spec, "Push").
//!
//! Blobs go in pieces, each a request that can be sent again; a registry that is asked to take a blob
//! that it has from another repository is sent nothing.

use std::path::Path;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::{Connection, RENEWALS_MAX, Registry, retry};
use crate::oci::digest::OciDigest;
use crate::oci::error::OciError;
use crate::oci::file_range::{FileRange, blocking};

/// Bytes of a piece: what a slow line sends within the time that an answer may take.
const PIECE_BYTES: u64 = 8 << 20;

const BYTES_TYPE: &str = "application/octet-stream";

/// A request of an upload.
struct Sent<'a> {
    method: Method,
    url: Url,
    /// The media type of the body.
    media_type: Option<&'a str>,
    /// First and last position of the body in its blob.
    range: Option<(u64, u64)>,
    body: Bytes,
    what: &'a str,
}

impl<'a> Sent<'a> {
    const fn empty(method: Method, url: Url, what: &'a str) -> Self {
        Self {
            method,
            url,
            media_type: None,
            range: None,
            body: Bytes::new(),
            what,
        }
    }
}

impl Registry {
    /// Tells whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: &OciDigest) -> Result<bool, OciError> {
        let what = format!("the answer whether there is {digest}");
        let url = self.connection.url(&format!("blobs/{digest}"))?;
        let sent = Sent::empty(Method::HEAD, url, &what);
        let answer = self.connection.send(&sent).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(unexpected(&what, status)),
        }
    }

    /// Asks the registry to take a blob from another of its repositories. `false` when it does not.
    pub(crate) async fn mount_blob(
        &self,
        digest: &OciDigest,
        repository: &str,
    ) -> Result<bool, OciError> {
        let what = format!("the answer to the mount of {digest}");
        let mut url = self.connection.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", repository);
        let sent = Sent::empty(Method::POST, url, &what);
        let answer = self.connection.send(&sent).await?;
        // Anything but "created" is a registry that cannot; an upload that it begins instead ends by
        // itself.
        Ok(answer.status() == StatusCode::CREATED)
    }

    /// Uploads a file as a blob.
    pub(crate) async fn put_blob(&self, digest: &OciDigest, file: &Path) -> Result<(), OciError> {
        let file = FileRange::open(file.to_owned()).await?;
        let what = format!("the answer to the upload of {digest}");
        let mut url = self.begin(&what).await?;
        let mut at = 0;
        while at < file.len() {
            let len = PIECE_BYTES.min(file.len() - at);
            let piece = file.part(at, len);
            let piece =
                piece.ok_or_else(|| OciError::malformed(&*what, "the file is too short"))?;
            let body = blocking(move || piece.read_all("a piece of a blob", PIECE_BYTES)).await?;
            let sent = Sent {
                media_type: Some(BYTES_TYPE),
                range: Some((at, at + len - 1)),
                body,
                ..Sent::empty(Method::PATCH, url.clone(), &what)
            };
            let answer = self.connection.send(&sent).await?;
            if answer.status() != StatusCode::ACCEPTED && answer.status() != StatusCode::NO_CONTENT
            {
                return Err(unexpected(&what, answer.status()));
            }
            url = next(&url, &answer, &what)?;
            at += len;
        }
        self.end(url, digest, Bytes::new(), &what).await
    }

    /// Uploads a blob in one piece.
    pub(crate) async fn put_blob_bytes(
        &self,
        digest: &OciDigest,
        bytes: Bytes,
    ) -> Result<(), OciError> {
        let what = format!("the answer to the upload of {digest}");
        let url = self.begin(&what).await?;
        self.end(url, digest, bytes, &what).await
    }

    /// Uploads a manifest under the tag of this image.
    pub(crate) async fn put_manifest(
        &self,
        media_type: &str,
        manifest: Bytes,
    ) -> Result<(), OciError> {
        let tag = self.reference.tag.as_deref().unwrap_or("latest");
        let what = format!("the answer to the upload of {}", self.reference);
        let sent = Sent {
            media_type: Some(media_type),
            body: manifest,
            ..Sent::empty(
                Method::PUT,
                self.connection.url(&format!("manifests/{tag}"))?,
                &what,
            )
        };
        let answer = self.connection.send(&sent).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(()),
            status => Err(unexpected(&what, status)),
        }
    }

    /// Begins an upload; returns where it goes on.
    async fn begin(&self, what: &str) -> Result<Url, OciError> {
        let url = self.connection.url("blobs/uploads/")?;
        let sent = Sent::empty(Method::POST, url.clone(), what);
        let answer = self.connection.send(&sent).await?;
        match answer.status() {
            StatusCode::ACCEPTED => next(&url, &answer, what),
            status => Err(unexpected(what, status)),
        }
    }

    /// Ends an upload with its last bytes; the registry checks the digest.
    async fn end(
        &self,
        mut url: Url,
        digest: &OciDigest,
        body: Bytes,
        what: &str,
    ) -> Result<(), OciError> {
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let sent = Sent {
            media_type: Some(BYTES_TYPE),
            body,
            ..Sent::empty(Method::PUT, url, what)
        };
        let answer = self.connection.send(&sent).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            status => Err(unexpected(what, status)),
        }
    }
}

impl Connection {
    /// Returns the URL of something in the repository.
    fn url(&self, path: &str) -> Result<Url, OciError> {
        let url = Url::parse(&format!("{}/{path}", self.base_url));
        url.map_err(|error| OciError::malformed(&*self.base_url, error))
    }

    /// Sends a request until there is an answer that is neither passing trouble nor a wish for other
    /// credentials. These are shown to the registry alone, not to where it keeps its uploads.
    async fn send(&self, sent: &Sent<'_>) -> Result<Response, OciError> {
        let base = self.url("")?;
        let is_registry = sent.url.origin() == base.origin();
        let denied = |message: &str| OciError::Denied {
            what: self.base_url.clone(),
            message: message.to_owned(),
        };
        for _ in 0..=RENEWALS_MAX {
            let authorization = self.auth.current();
            let response = retry::send(&*self.clock, sent.what, || {
                let mut request = self.http.request(sent.method.clone(), sent.url.clone());
                if let Some(value) = authorization.as_ref().filter(|_| is_registry) {
                    request = request.header(AUTHORIZATION, value);
                }
                if let Some(media_type) = sent.media_type {
                    request = request.header(CONTENT_TYPE, media_type);
                }
                if let Some((first, last)) = sent.range {
                    request = request.header(CONTENT_RANGE, format!("{first}-{last}"));
                }
                if sent.method == Method::HEAD {
                    return request;
                }
                let len = sent.body.len();
                request.header(CONTENT_LENGTH, len).body(sent.body.clone())
            })
            .await?;
            match response.status() {
                StatusCode::UNAUTHORIZED if is_registry => {
                    let headers = response.headers();
                    self.auth
                        .renew(authorization, headers, &*self.clock)
                        .await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(denied("these credentials may not write to it"));
                }
                _ => return Ok(response),
            }
        }
        Err(denied("the registry refuses the tokens it issues"))
    }
}

/// Returns where an upload goes on, which never is out of TLS.
fn next(url: &Url, answer: &Response, what: &str) -> Result<Url, OciError> {
    let location = answer
        .headers()
        .get(LOCATION)
        .and_then(|at| at.to_str().ok());
    let location = location.ok_or_else(|| OciError::malformed(what, "it has no location"))?;
    let next = url.join(location);
    let next = next.map_err(|error| OciError::malformed(what, error))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(OciError::malformed(
            what,
            "it leads from https to plain http",
        ));
    }
    Ok(next)
}

fn unexpected(what: &str, status: StatusCode) -> OciError {
    OciError::malformed(what, format!("the registry says {status}"))
}

#[cfg(test)]
mod tests;
