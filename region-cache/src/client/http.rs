//! The way to members by HTTP.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::RwLock;
use std::time::Duration;

use nacre_blobstore::{Digest, Key};
use reqwest::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
    RETRY_AFTER,
};
use reqwest::{Certificate, RequestBuilder, Response, StatusCode};
use tracing::Span;

use super::RegionCacheError;
use super::wire::{Answer, Ask, Had, Part, Wire, WireError};
use crate::trace_context::{TRACEPARENT, traceparent};

/// How long a member may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// How long a whole answer may take: longer than a member queues before it sheds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a member may take to note a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// Connections to one member that are kept for the next request.
const IDLE_MAX: usize = 64;
/// Longest wait that a member may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// What a busy member means that does not say.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Connections to all members.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    /// `Bearer TOKEN`, if members want one.
    token: RwLock<Option<HeaderValue>>,
    /// Says for whom a member queues fairly.
    client_id: HeaderValue,
    /// What the path of an object begins with: empty, or a folder and a slash.
    prefix: String,
}

impl Http {
    /// Makes no connection yet. `authority` is a file of certificates that members may be signed by.
    pub(crate) fn new(
        client_id: &str,
        prefix: Option<&str>,
        authority: Option<&Path>,
    ) -> Result<Self, RegionCacheError> {
        let prefix = match prefix.map(|prefix| prefix.trim_matches('/')) {
            None | Some("") => String::new(),
            Some(prefix) => match Key::new(prefix) {
                Ok(prefix) => format!("{prefix}/"),
                Err(_) => return Err(RegionCacheError::Prefix(prefix.to_owned())),
            },
        };
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_only()
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = authority {
            let read = |source| RegionCacheError::File {
                path: path.to_owned(),
                source,
            };
            let pem = std::fs::read(path).map_err(read)?;
            client = client.tls_certs_merge(Certificate::from_pem_bundle(&pem)?);
        }
        let client_id = HeaderValue::from_str(client_id);
        Ok(Self {
            client: client.build()?,
            token: RwLock::default(),
            client_id: client_id.map_err(|_| RegionCacheError::Member("client id".to_owned()))?,
            prefix,
        })
    }

    /// Uses `token` from now on.
    pub(crate) fn set_token(&self, token: &str) {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let value = value.ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        *self
            .token
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = value;
    }

    fn identify(&self, request: RequestBuilder) -> RequestBuilder {
        let mut request = request.header("x-nacre-client", self.client_id.clone());
        if let Some(traceparent) = traceparent(&Span::current()) {
            request = request.header(TRACEPARENT, traceparent);
        }
        let token = self
            .token
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    fn url(&self, member: &str, key: &Key) -> String {
        format!("{}/{}{key}", base(member), self.prefix)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, WireError> {
        let response = self.identify(request).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(WireError::Busy(retry_after(response.headers())))
            }
            status if status.is_client_error() || status == StatusCode::GATEWAY_TIMEOUT => {
                Err(WireError::Refused(status.as_u16()))
            }
            status if status.is_success() => Ok(response),
            status => Err(WireError::Failed(format!("it answers {status}"))),
        }
    }
}

fn base(member: &str) -> Cow<'_, str> {
    if member.contains("://") {
        member.into()
    } else {
        format!("http://{member}").into()
    }
}

fn failed(error: reqwest::Error) -> WireError {
    let error = error.without_url();
    // reqwest keeps the cause to itself.
    match std::error::Error::source(&error) {
        Some(cause) => WireError::Failed(format!("{error}: {cause}")),
        None => WireError::Failed(error.to_string()),
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(RETRY_AFTER_DEFAULT, |s| {
        Duration::from_secs(s).min(RETRY_AFTER_MAX)
    })
}

fn had(headers: &HeaderMap) -> Had {
    match headers.get("x-nacre-cache").map(HeaderValue::as_bytes) {
        Some(b"memory") => Had::Memory,
        Some(b"disk") => Had::Disk,
        _ => Had::Origin,
    }
}

#[async_trait::async_trait]
impl Wire for Http {
    async fn get(&self, member: &str, ask: &Ask) -> Result<Answer, WireError> {
        let mut request = self.client.get(self.url(member, &ask.key));
        if let Some(range) = &ask.range {
            let last = range.end.saturating_sub(1);
            request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        }
        if ask.ahead {
            request = request.header("x-nacre-prefetch", "1");
        }
        if ask.only_if_cached {
            request = request.header(CACHE_CONTROL, "only-if-cached");
        }
        let response = self.send(request).await?;
        let expected = match ask.range {
            Some(_) => StatusCode::PARTIAL_CONTENT,
            None => StatusCode::OK,
        };
        if response.status() != expected {
            return Err(WireError::Refused(response.status().as_u16()));
        }
        let had = had(response.headers());
        let burst = response.headers().contains_key("x-nacre-burst");
        // Bounded before it is read.
        let length = response.content_length();
        let wanted = ask.range.as_ref().map(|range| range.end - range.start);
        match (length, wanted) {
            (Some(length), Some(wanted)) if length == wanted => {}
            (Some(length), None) if length <= ask.limit_bytes => {}
            _ => {
                return Err(WireError::Failed(format!(
                    "its answer has {length:?} bytes"
                )));
            }
        }
        let bytes = response.bytes().await.map_err(failed)?;
        if Some(bytes.len() as u64) == length {
            Ok(Answer { bytes, had, burst })
        } else {
            Err(WireError::Failed("its answer is cut off".to_owned()))
        }
    }

    async fn put(&self, member: &str, part: &Part) -> Result<(), WireError> {
        let mut request = self.client.put(self.url(member, &part.key));
        request = request.header("x-nacre-blake3", Digest::of(&part.body).to_string());
        if !part.is_whole() {
            let last = part.offset + (part.body.len() as u64).saturating_sub(1);
            let range = format!("bytes {}-{last}/{}", part.offset, part.total);
            request = request.header(CONTENT_RANGE, range);
        }
        self.send(request.body(part.body.clone())).await.map(drop)
    }

    async fn report(&self, member: &str, key: &Key, range: Range<u64>) -> Result<(), WireError> {
        let body = format!(
            r#"{{"key":"{}{key}","offset":{},"length":{}}}"#,
            self.prefix,
            range.start,
            range.end - range.start
        );
        let request = self.client.post(format!("{}/report", base(member)));
        let request = request.header(CONTENT_TYPE, "application/json");
        self.send(request.timeout(REPORT_DEADLINE).body(body))
            .await
            .map(drop)
    }
}
