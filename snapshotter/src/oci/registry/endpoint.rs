//! One repository of a registry, and GET requests to it that ride out trouble.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use super::RegistryOptions;
use super::backoff::Backoff;
use super::session::Session;
use crate::oci::credentials::CredentialStore;
use crate::oci::error::OciError;
use crate::oci::source::ImageReference;

/// Bytes read of the body of an error.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// Longest message of a registry that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// Idle connections kept for the next blobs.
const CONNECTIONS_IDLE_MAX: usize = 8;

pub(super) struct Endpoint {
    client: Client,
    session: Session,
    /// Without a slash at the end.
    base_url: String,
    backoff: Backoff,
}

impl Endpoint {
    pub(super) fn new(
        reference: &ImageReference,
        options: &RegistryOptions,
    ) -> Result<Self, OciError> {
        let RegistryOptions { docker_config, credential_helpers, silence_max, .. } = options;
        let is_plain_http = options.is_plain_http(&reference.host);
        let credentials = CredentialStore::new(docker_config.clone(), credential_helpers.clone());
        let session = Session::new(reference, is_plain_http, *silence_max, credentials)?;
        let client = Client::builder()
            // Blobs are often redirected; never from TLS to plain text.
            .https_only(!is_plain_http)
            .connect_timeout(*silence_max)
            .read_timeout(*silence_max)
            .pool_max_idle_per_host(CONNECTIONS_IDLE_MAX)
            .user_agent(concat!("nacre/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| unavailable(&reference.host, error))?;
        let scheme = if is_plain_http { "http" } else { "https" };
        let base_url =
            format!("{scheme}://{}/v2/{}", session.api_host(), reference.repository);
        Ok(Self { client, session, base_url, backoff: options.backoff() })
    }

    pub(super) const fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// Names a thing of the repository in errors.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base_url)
    }

    /// Gets what is at `path`, from the byte `from` on. Logs in when asked to, once; repeats what
    /// failed for reasons that may pass. The response is a success (for `from` maybe a whole one).
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response, OciError> {
        let mut attempts = self.backoff.start();
        let mut renewed = false;
        loop {
            let authorization = self.session.authorization().await;
            let mut request = self.client.get(self.url(path)).header(ACCEPT, accept);
            if let Some(header) = &authorization.header {
                request = request.header(AUTHORIZATION, header);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let (error, asked) = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !renewed => {
                    match self.session.renew(&authorization).await {
                        Ok(()) => {
                            renewed = true;
                            continue;
                        }
                        Err(error) => (error, None),
                    }
                }
                Ok(response) => self.refusal(path, response).await,
                Err(error) => (unavailable(&self.url(path), error), None),
            };
            attempts.wait(error, asked).await?;
        }
    }

    /// Returns what an answer other than success means, and the wait it asks for.
    async fn refusal(&self, path: &str, response: Response) -> (OciError, Option<Duration>) {
        let status = response.status();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let asked = seconds.map(Duration::from_secs);
        let what = self.url(path);
        let message = message(response).await;
        let message = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
        let error = match status {
            StatusCode::NOT_FOUND => OciError::NotFound(what),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OciError::Denied { what, message },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                OciError::Unavailable { what, message }
            }
            _ if status.is_server_error() => OciError::Unavailable { what, message },
            _ => OciError::malformed(what, message),
        };
        (error, asked)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.base_url)
    }
}

fn unavailable(what: &str, error: reqwest::Error) -> OciError {
    OciError::Unavailable { what: what.to_owned(), message: without_secrets(error) }
}

/// Describes an error with its causes and without its URL, which may be a signed one.
pub(super) fn without_secrets(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads the first message of an error's body, if it is in the form that registries use.
async fn message(mut response: Response) -> String {
    let mut body = Vec::new();
    // A body that cannot be read takes nothing from what the status says.
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes[..bytes.len().min(ERROR_BYTES_MAX - body.len())]);
        if body.len() >= ERROR_BYTES_MAX {
            break;
        }
    }
    let parsed: Option<ErrorBody> = serde_json::from_slice(&body).ok();
    let first = parsed.and_then(|body| body.errors.into_iter().next());
    let text = first.map(|error| format!("{} {}", error.code, error.message)).unwrap_or_default();
    text.trim().chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}
