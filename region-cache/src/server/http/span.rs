//! The span of a request, for whoever records spans.
//!
//! It begins with the request's head and ends with the answer's last byte, for what is left of an
//! answer holds it. Whatever a client writes into it is short, or one of a few words.

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use nacre_blobstore::span_number;
use tracing::Span;
use tracing::field::{Empty, display};

use super::{Body, CACHE_HEADER};
use crate::server::object::ObjectName;

/// Longest list of ranges that is noted, in bytes.
const RANGE_BYTES_MAX: usize = 100;

/// Starts the span of a request. Nobody has said yet whose child it is.
pub(super) fn start(request: &Request<Incoming>) -> Span {
    tracing::debug_span!(
        parent: None,
        "request",
        otel.name = display(format_args!("{} {}", method(request), route(request))),
        otel.kind = "server",
        http.request.method = method(request),
        http.response.status_code = Empty,
        route = route(request),
        object = Empty,
        range = range(request.headers()),
        bytes = Empty,
        tier = Empty,
        otel.status_code = Empty,
    )
}

/// Notes what is asked for.
pub(super) fn note_object(span: &Span, name: &ObjectName) {
    if !span.is_disabled() {
        span.record("object", display(name.key()));
    }
}

/// Notes the head of the answer.
pub(super) fn note_answer(span: &Span, response: &Response<Body>) {
    if span.is_disabled() {
        return;
    }
    let (status, headers) = (response.status(), response.headers());
    span.record("http.response.status_code", i64::from(status.as_u16()));
    let told = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    let bytes: Option<u64> = response.body().size_hint().exact().or_else(told);
    if let Some(bytes) = bytes {
        span.record("bytes", span_number(bytes));
    }
    if let Some(tier) = headers.get(CACHE_HEADER).map(HeaderValue::to_str) {
        span.record("tier", tier.unwrap_or_default());
    }
    // Who wants what is cached alone is told 504 when it is not: nothing is wrong then.
    if status.is_server_error() && status != StatusCode::GATEWAY_TIMEOUT {
        span.record("otel.status_code", "error");
    }
}

/// Returns one of a few words: a method may be any.
fn method(request: &Request<Incoming>) -> &'static str {
    match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        _ => "_OTHER",
    }
}

fn route(request: &Request<Incoming>) -> &'static str {
    match request.uri().path() {
        "/healthz" | "/readyz" => "health",
        "/metrics" => "metrics",
        "/status" => "status",
        "/report" => "report",
        _ => "object",
    }
}

fn range(headers: &HeaderMap) -> Option<&str> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=")?;
    (range.len() <= RANGE_BYTES_MAX).then_some(range)
}
