//! Images in a registry, by the OCI distribution protocol.
//!
//! The OCI client brings the grammar of references and the exchange of credentials for tokens.
//! The requests themselves are sent from here: the client reads manifests and errors whole,
//! whatever their length, and does not tell `Retry-After`.

mod backoff;
mod download;
mod endpoint;
mod session;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

use self::backoff::Backoff;
use self::download::Download;
use self::endpoint::{Endpoint, without_secrets};
use super::blob::BlobStream;
use super::digest::OciDigest;
use super::error::OciError;
use super::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST,
};
use super::resolve::{BlobProvider, Root};
use super::source::ImageReference;

/// How to reach registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Docker's `config.json`, which need not exist. `None`: everything is anonymous.
    pub docker_config: Option<PathBuf>,
    /// The directory of the `docker-credential-*` programs. `None`: wherever the system finds
    /// programs.
    pub credential_helpers: Option<PathBuf>,
    /// Registries, as `host` or `host:port`, to which plain HTTP is spoken. Those on loopback
    /// addresses always are.
    pub plain_http_hosts: Vec<String>,
    /// Requests sent for one thing before giving up; 0 counts as 1. For a blob the count starts
    /// over after each 8 MiB.
    pub attempts_max: u32,
    /// Bound of the random wait after the first attempt; doubles with each further one.
    pub backoff_first: Duration,
    /// Bound that the waits do not grow past.
    pub backoff_max: Duration,
    /// How long a connection may take to open, or stay silent.
    pub silence_max: Duration,
}

impl Default for RegistryOptions {
    /// Anonymous, HTTPS, and up to about half a minute of trouble ridden out.
    fn default() -> Self {
        Self {
            docker_config: None,
            credential_helpers: None,
            plain_http_hosts: Vec::new(),
            attempts_max: 8,
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            silence_max: Duration::from_secs(30),
        }
    }
}

impl RegistryOptions {
    /// Tells whether plain HTTP is spoken to `host`, which may have a port.
    fn is_plain_http(&self, host: &str) -> bool {
        self.plain_http_hosts.iter().any(|plain| plain == host) || is_loopback(host)
    }

    const fn backoff(&self) -> Backoff {
        Backoff {
            attempts_max: self.attempts_max,
            first: self.backoff_first,
            max: self.backoff_max,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let without_port = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let address: Option<IpAddr> = without_port.parse().ok();
    without_port == "localhost" || address.is_some_and(|address| address.is_loopback())
}

/// An image in a registry. Any number of its blobs may be read at once; tokens are shared.
#[derive(Debug)]
pub struct Registry {
    reference: ImageReference,
    endpoint: Arc<Endpoint>,
}

impl Registry {
    /// Prepares to read an image; nothing is sent yet.
    ///
    /// # Errors
    /// [`OciError::Unavailable`] when no TLS client can be set up on this machine.
    pub fn new(reference: ImageReference, options: &RegistryOptions) -> Result<Self, OciError> {
        let endpoint = Arc::new(Endpoint::new(&reference, options)?);
        Ok(Self { reference, endpoint })
    }

    fn accept(kinds: &[&str]) -> String {
        kinds.join(", ")
    }

    fn download(&self, path: String, accept: String, digest: &OciDigest, len: u64) -> BlobStream {
        Download::new(Arc::clone(&self.endpoint), path, accept, digest.clone(), len).stream()
    }

    /// Reads the manifest that was asked for. Its length is not known beforehand, so one that
    /// breaks off is read again from the start.
    async fn root_document(&self, path: &str) -> Result<(HeaderMap, Bytes), OciError> {
        let accept = Self::accept(&[OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST]);
        let mut attempts = self.endpoint.backoff().start();
        loop {
            let response = self.endpoint.get(path, &accept, 0).await?;
            let headers = response.headers().clone();
            match read_document(response, &self.reference.to_string()).await {
                Ok(bytes) => return Ok((headers, bytes)),
                Err(error) => attempts.wait(error, None).await?,
            }
        }
    }
}

async fn read_document(mut response: Response, what: &str) -> Result<Bytes, OciError> {
    let limit_bytes = MANIFEST_BYTES_MAX;
    let too_large = || OciError::TooLarge { what: what.to_owned(), limit_bytes };
    if response.content_length().is_some_and(|len| len > limit_bytes) {
        return Err(too_large());
    }
    let mut all = BytesMut::new();
    let unavailable = |error| {
        let message = without_secrets(error);
        OciError::Unavailable { what: what.to_owned(), message }
    };
    while let Some(bytes) = response.chunk().await.map_err(unavailable)? {
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
        let ImageReference { tag, digest, .. } = &self.reference;
        let digest_text = digest.as_ref().map(OciDigest::as_str);
        let name = digest_text.or(tag.as_deref()).unwrap_or("latest");
        let (headers, bytes) = self.root_document(&format!("manifests/{name}")).await?;
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let stated = header("docker-content-digest").and_then(|text| text.parse().ok());
        let digest = digest.clone().or(stated).unwrap_or_else(|| OciDigest::of(&bytes));
        let media_type = header(CONTENT_TYPE.as_str()).and_then(|text| text.split(';').next());
        let media_type = media_type.unwrap_or_default().trim().to_owned();
        Ok(Root { bytes, digest, media_type })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        let Descriptor { media_type, digest, size_bytes, .. } = descriptor;
        let accept = Self::accept(&[media_type, "*/*;q=0.1"]);
        Ok(self.download(format!("manifests/{digest}"), accept, digest, *size_bytes))
    }

    async fn blob(&self, digest: &OciDigest, size_bytes: u64) -> Result<BlobStream, OciError> {
        let accept = "*/*".to_owned();
        Ok(self.download(format!("blobs/{digest}"), accept, digest, size_bytes))
    }
}
