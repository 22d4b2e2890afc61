//! `POST /report`: somebody got a wrong byte from here.
//!
//! The blocks are dropped and fetched anew by whoever wants them next. That costs the origin a
//! request, so reports are limited, by bytes and by number.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;

use super::{Body, busy, refused, text};
use crate::server::Member;
use crate::server::access::Grant;
use crate::server::object::ObjectName;

/// Longest report, in bytes.
const REPORT_BYTES_MAX: usize = 4096;
/// Longest range that one report drops, in bytes: some frames.
const RANGE_BYTES_MAX: u64 = 64 << 20;
/// When there were too many reports.
const RETRY_AFTER_S: u64 = 1;

#[derive(Debug, Deserialize)]
struct Report {
    key: String,
    offset: u64,
    length: u64,
}

pub(super) async fn report(
    member: &Arc<Member>,
    grant: Option<&Grant>,
    request: Request<Incoming>,
) -> Response<Body> {
    let body = Limited::new(request.into_body(), REPORT_BYTES_MAX);
    let Ok(body) = body.collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "");
    };
    let Ok(report) = serde_json::from_slice::<Report>(&body.to_bytes()) else {
        return text(StatusCode::BAD_REQUEST, "not {key, offset, length}");
    };
    let Some(name) = ObjectName::from_key(&report.key) else {
        return text(StatusCode::NOT_FOUND, "not the key of an immutable object");
    };
    if let Some(Err(refusal)) = grant.map(|grant| grant.object(&name, false)) {
        return refused(member, refusal);
    }
    if report.length > RANGE_BYTES_MAX {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the range is too long");
    }
    if !member.may_report() {
        return busy(RETRY_AFTER_S);
    }
    let range = report.offset..report.offset.saturating_add(report.length);
    let dropped = member.cache.forget(&name, range.clone());
    tracing::warn!(key = %name.key(), ?range, dropped, "wrong byte reported");
    let metrics = &member.cache.metrics;
    metrics.reports.add(1);
    metrics.reported_blocks.add(dropped);
    text(StatusCode::OK, format!("{{\"dropped\":{dropped}}}\n"))
}
