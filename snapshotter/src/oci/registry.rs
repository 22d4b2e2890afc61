//! Images in a registry, by the OCI distribution API.
//!
//! The client crate (`oci-client`) supplies the grammar of references and not the transfers. Its
//! `Client` reads manifests and tokens into memory whatever their length, hides `Retry-After`,
//! cannot exchange identity tokens, and panics on a token that is no header value. Downloads here
//! are bounded, outlive an expired token and a broken connection, and wait as long as the
//! registry asks for.

mod auth;
mod challenge;
mod download;
mod push;
mod retry;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use nacre_blobstore::{Clock, SystemClock};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};

use self::auth::Authenticator;
use super::blob::BlobStream;
use super::credentials::CredentialStore;
use super::digest::OciDigest;
use super::error::OciError;
use super::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST,
};
use super::resolve::{BlobProvider, Root};
use super::source::ImageReference;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the next bytes of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Most redirects followed for one request.
const REDIRECTS_MAX: usize = 8;

/// Most new tokens fetched for one request. One is the rule; more are needed when a token that
/// several downloads share expires while they wait.
const RENEWALS_MAX: u32 = 4;

/// Most attempts to read a manifest whose connection breaks.
const MANIFEST_ATTEMPTS_MAX: u32 = 4;

/// Where Docker Hub serves its API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// How registries are reached. Libraries read no environment, so the caller passes all of it.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Where credentials are looked up.
    pub credentials: CredentialStore,
    /// Hosts, with or without a port, to reach by plain HTTP. Loopback hosts always are.
    pub plain_http_hosts: Vec<String>,
    /// The URL of a proxy for all requests.
    pub proxy: Option<String>,
    /// Waits between attempts.
    pub clock: Arc<dyn Clock>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: CredentialStore::anonymous(),
            plain_http_hosts: Vec::new(),
            proxy: None,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// One image in a registry.
#[derive(Debug)]
pub struct Registry {
    connection: Arc<Connection>,
    reference: ImageReference,
}

/// What all transfers of an image share.
struct Connection {
    http: Client,
    auth: Authenticator,
    clock: Arc<dyn Clock>,
    /// `https://HOST/v2/REPOSITORY`.
    base_url: String,
}

impl Registry {
    /// Names an image. Nothing is sent yet.
    ///
    /// # Errors
    /// [`OciError::Unsupported`] when the proxy's URL is wrong or TLS cannot be set up.
    pub fn new(reference: ImageReference, options: &RegistryOptions) -> Result<Self, OciError> {
        let unusable = |error: reqwest::Error| {
            OciError::Unsupported(format!("HTTP client: {}", retry::describe(error)))
        };
        let mut http = Client::builder()
            .user_agent(concat!("nacre/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(Policy::custom(follow))
            .no_proxy();
        if let Some(proxy) = &options.proxy {
            http = http.proxy(reqwest::Proxy::all(proxy).map_err(unusable)?);
        }
        let http = http.build().map_err(unusable)?;
        let plain = is_plain_http(&reference.host, &options.plain_http_hosts);
        let host = match reference.host.as_str() {
            "docker.io" => DOCKER_HUB_API,
            host => host,
        };
        let scheme = if plain { "http" } else { "https" };
        let base_url = format!("{scheme}://{host}/v2/{}", reference.repository);
        let clock = Arc::clone(&options.clock);
        let auth = Authenticator::new(&reference, plain, options, http.clone());
        let connection = Connection {
            http,
            auth,
            clock,
            base_url,
        };
        Ok(Self {
            connection: Arc::new(connection),
            reference,
        })
    }
}

/// Follows redirects to other hosts, as registries use for blobs, but never out of TLS. The HTTP
/// client drops the credentials when the host changes.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from_https = attempt
        .previous()
        .last()
        .is_some_and(|url| url.scheme() == "https");
    if from_https && attempt.url().scheme() != "https" {
        attempt.error("redirected from https to plain http")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("redirected too often")
    } else {
        attempt.follow()
    }
}

/// Tells whether a host is on this machine or listed.
fn is_plain_http(host: &str, listed: &[String]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ipv6, _)) => ipv6,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let loopback = match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST,
        Err(_) => name == "localhost",
    };
    loopback || listed.iter().any(|entry| entry == host || entry == name)
}

impl Connection {
    /// Sends a GET below the repository until there is an answer that is final. The caller sees
    /// successes and "range not satisfiable" only.
    async fn get(&self, path: &str, what: &str, headers: &HeaderMap) -> Result<Response, OciError> {
        let url = format!("{}/{path}", self.base_url);
        let denied = |message: &str| OciError::Denied {
            what: what.to_owned(),
            message: message.to_owned(),
        };
        for _ in 0..=RENEWALS_MAX {
            let authorization = self.auth.current();
            let response = retry::send(&*self.clock, what, || {
                let mut request = self.http.get(&url).headers(headers.clone());
                if let Some(value) = &authorization {
                    request = request.header(AUTHORIZATION, value);
                }
                request
            })
            .await?;
            match response.status() {
                StatusCode::UNAUTHORIZED => {
                    self.auth
                        .renew(authorization, response.headers(), &*self.clock)
                        .await?;
                }
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(response),
                StatusCode::FORBIDDEN => return Err(denied("these credentials may not read it")),
                StatusCode::NOT_FOUND => return Err(OciError::NotFound(what.to_owned())),
                status => {
                    return Err(OciError::malformed(
                        what,
                        format!("the registry says {status}"),
                    ));
                }
            }
        }
        Err(denied("the registry refuses the tokens it issues"))
    }

    /// Reads a manifest by tag or digest, with the answer's headers.
    async fn manifest(&self, name: &str, what: &str) -> Result<(HeaderMap, Bytes), OciError> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let accept = HeaderValue::try_from(accept).expect("media types are ASCII");
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let path = format!("manifests/{name}");
        let mut attempt = 1;
        loop {
            let response = self.get(&path, what, &headers).await?;
            if response.status() != StatusCode::OK {
                let status = response.status();
                return Err(OciError::malformed(
                    what,
                    format!("the registry says {status}"),
                ));
            }
            let headers = response.headers().clone();
            match read_bounded(response, what, MANIFEST_BYTES_MAX).await {
                Err(error) if error.is_retryable() && attempt < MANIFEST_ATTEMPTS_MAX => {
                    self.clock.sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                other => return other.map(|bytes| (headers, bytes)),
            }
        }
    }
}

/// Reads a body of at most `limit_bytes`.
async fn read_bounded(response: Response, what: &str, limit_bytes: u64) -> Result<Bytes, OciError> {
    let too_large = || OciError::TooLarge {
        what: what.to_owned(),
        limit_bytes,
    };
    if response
        .content_length()
        .is_some_and(|len| len > limit_bytes)
    {
        return Err(too_large());
    }
    let mut body = response.bytes_stream();
    let mut all = BytesMut::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| retry::unavailable(what, error))?;
        if (all.len() + bytes.len()) as u64 > limit_bytes {
            return Err(too_large());
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

#[async_trait::async_trait]
impl BlobProvider for Registry {
    async fn root(&self) -> Result<Root, OciError> {
        let pinned = self.reference.digest.as_ref().map(OciDigest::as_str);
        let name = pinned.or(self.reference.tag.as_deref()).unwrap_or("latest");
        let what = self.reference.to_string();
        let (headers, bytes) = self.connection.manifest(name, &what).await?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // The registry's word for it guards an image that is not pinned against broken proxies.
        let stated = || header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let digest = self.reference.digest.clone().or_else(stated);
        let digest = digest.unwrap_or_else(|| OciDigest::of(&bytes));
        let media_type = header("content-type").and_then(|value| value.split(';').next());
        let media_type = media_type.unwrap_or_default().trim().to_owned();
        Ok(Root {
            bytes,
            digest,
            media_type,
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        let digest = descriptor.digest.as_str();
        let what = format!(
            "{}/{}@{digest}",
            self.reference.host, self.reference.repository
        );
        let (_, bytes) = self.connection.manifest(digest, &what).await?;
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }

    async fn blob(&self, digest: &OciDigest, size_bytes: u64) -> Result<BlobStream, OciError> {
        download::open(Arc::clone(&self.connection), digest.clone(), size_bytes).await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.base_url)
    }
}

#[cfg(test)]
mod tests;
