//! The member as an HTTP server sees it: which request is answered by what.

mod answer;
mod get;
mod put;
mod report;
mod span;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tracing::{Instrument as _, Span};

use self::answer::Streamed;
pub(super) use self::put::PUTS_MAX;
use super::Member;
use super::access::{Grant, Refusal};
use super::cache::{Asker, CacheError};
use super::fair::{Admission, ClientId, Priority};
use super::object::ObjectName;
use crate::trace_context::adopt;

/// Who asks, for fair turns at the origin; without it the peer's address counts.
const CLIENT_HEADER: &str = "x-nacre-client";
/// Longest client name, in bytes.
const CLIENT_BYTES_MAX: usize = 64;
/// Says that nobody waits for the bytes yet.
const PREFETCH_HEADER: &str = "x-nacre-prefetch";
/// Tells where the first byte of the answer came from.
const CACHE_HEADER: &str = "x-nacre-cache";
/// Says that a burst of the image begins, whose record this is.
const BURST_HEADER: &str = "x-nacre-burst";
/// After which time a client is asked to come back when too many requests are under way.
const RETRY_AFTER_S: u64 = 1;

pub(super) type Body = Either<Full<Bytes>, Streamed>;

/// Answers one request.
pub(super) async fn handle(
    member: Arc<Member>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let span = span::start(&request);
    let answer = route(&member, peer, request, &span);
    let response = answer.instrument(span.clone()).await;
    span::note_answer(&span, &response);
    Ok(response)
}

async fn route(
    member: &Arc<Member>,
    peer: IpAddr,
    request: Request<Incoming>,
    span: &Span,
) -> Response<Body> {
    let path = request.uri().path();
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/healthz" if is_get => return text(StatusCode::OK, "ok"),
        "/readyz" if is_get && member.is_draining() => {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining");
        }
        "/readyz" if is_get => return text(StatusCode::OK, "ready"),
        "/metrics" if is_get => return text(StatusCode::OK, member.prometheus()),
        _ => {}
    }
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.map(HeaderValue::as_bytes);
    let grant = match member
        .tokens
        .as_ref()
        .map(|tokens| tokens.grant(authorization))
    {
        None => None,
        Some(Ok(grant)) => Some(grant),
        Some(Err(refusal)) => return refused(member, refusal),
    };
    adopt(span, request.headers());
    let allowed =
        |check: &dyn Fn(&Grant) -> Result<(), Refusal>| grant.as_deref().map_or(Ok(()), check);
    if path == "/status" && is_get {
        return match allowed(&Grant::everything) {
            Ok(()) => page(member.status()),
            Err(refusal) => refused(member, refusal),
        };
    }
    let Ok(_turn) = member.requests.try_acquire() else {
        member.cache.metrics.shed.add(1);
        return busy(RETRY_AFTER_S);
    };
    if path == "/report" && request.method() == Method::POST {
        return report::report(member, grant.as_deref(), request).await;
    }
    let Some(name) = ObjectName::from_path(path) else {
        return text(StatusCode::NOT_FOUND, "not the key of an immutable object");
    };
    span::note_object(span, &name);
    let is_write = request.method() == Method::PUT;
    if let Err(refusal) = allowed(&|grant| grant.object(&name, is_write)) {
        return refused(member, refusal);
    }
    count(member, &name);
    match *request.method() {
        Method::GET | Method::HEAD => {
            let asker = asker(request.headers(), peer, grant.as_deref(), span);
            let head_only = request.method() == Method::HEAD;
            // Who wants what is here alone has asked another member.
            let asks = !head_only && !get::wants_only_cached(request.headers());
            let begins = asks && begins_burst(member, &name, &asker);
            let mut response = get::get(member, &name, head_only, request.headers(), asker).await;
            if begins {
                let yes = HeaderValue::from_static("1");
                response.headers_mut().insert(BURST_HEADER, yes);
            }
            response
        }
        Method::PUT => put::put(member, &name, request).await,
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD or PUT"),
    }
}

/// Counts a request for an object.
fn count(member: &Member, name: &ObjectName) {
    member.cache.metrics.requests.add(1);
    // Apart, for a start reads a record once and its packs many times.
    let hottest = if name.is_record() {
        &member.hottest_images
    } else {
        &member.hottest
    };
    hottest.count(name.key());
}

/// Tells whether this request makes a burst of the image whose record it asks for.
fn begins_burst(member: &Member, name: &ObjectName, asker: &Asker) -> bool {
    let now = member.clock.elapsed();
    let begins = asker.priority == Priority::Demand
        && name.is_record()
        && member.bursts.begins(name.id(), &asker.client, now);
    member.cache.metrics.bursts.add(begins.into());
    begins
}

fn asker(headers: &HeaderMap, peer: IpAddr, grant: Option<&Grant>, span: &Span) -> Asker {
    let named = headers
        .get(CLIENT_HEADER)
        .and_then(|name| name.to_str().ok())
        .filter(|name| !name.is_empty() && name.len() <= CLIENT_BYTES_MAX);
    let client = named.map_or_else(|| peer.to_string(), str::to_owned);
    // No one takes the name of another tenant's client.
    let client: ClientId = match grant {
        Some(grant) => format!("{}:{client}", grant.name).into(),
        None => client.into(),
    };
    let priority = if headers.contains_key(PREFETCH_HEADER) {
        Priority::Prefetch
    } else {
        Priority::Demand
    };
    Asker {
        client,
        priority,
        admission: Admission::MayShed,
        span: span.clone(),
    }
}

fn refused(member: &Member, refusal: Refusal) -> Response<Body> {
    member.cache.metrics.refused.add(1);
    match refusal {
        Refusal::Forbidden => text(StatusCode::FORBIDDEN, "the token does not cover this"),
        Refusal::Unknown => {
            let mut response = text(StatusCode::UNAUTHORIZED, "a token is needed");
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
            response
        }
    }
}

/// Makes an answer for a browser, which is to load nothing for it.
fn page(html: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, html);
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    let nothing = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    headers.insert(CONTENT_SECURITY_POLICY, nothing);
    response
}

/// Makes a small answer.
fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response
}

fn busy(retry_after_s: u64) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "busy");
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    response
}

/// Makes the answer for what could not be served.
fn failure(error: &CacheError) -> Response<Body> {
    match error {
        CacheError::NotFound => text(StatusCode::NOT_FOUND, "no such object"),
        CacheError::Beyond(_) => text(StatusCode::RANGE_NOT_SATISFIABLE, error.to_string()),
        CacheError::Shed { retry_after_s } => busy(*retry_after_s),
        CacheError::Unavailable(_) => text(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}
