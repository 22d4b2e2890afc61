//! `GET` and `HEAD` of an object: ranges, conditions, and what the answer's head says.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use hyper::{HeaderMap, Response, StatusCode};

use super::answer::{self, Segment};
use super::{Body, CACHE_HEADER, failure, text};
use crate::server::Member;
use crate::server::block::{Part, parts};
use crate::server::cache::{Asker, CacheError};
use crate::server::metrics::Tier;
use crate::server::object::ObjectName;
use crate::server::range::{RangeError, RangeSpec, parse_ranges};

/// The bytes never change, so they may be kept for as long as anybody likes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(super) async fn get(
    member: &Arc<Member>,
    name: &ObjectName,
    head_only: bool,
    headers: &HeaderMap,
    asker: Asker,
) -> Response<Body> {
    if names_etag(headers.get(IF_NONE_MATCH), &name.etag()) {
        return with_headers(text(StatusCode::NOT_MODIFIED, ""), name, None);
    }
    let specs = match ranges(headers, name, head_only) {
        Ok(specs) => specs,
        Err(error) => return text(StatusCode::RANGE_NOT_SATISFIABLE, error.to_string()),
    };
    let only_cached = wants_only_cached(headers);
    if only_cached && member.cache.known_length(name.id()).is_none() {
        return text(StatusCode::GATEWAY_TIMEOUT, "not cached");
    }
    let (len, learned) = match length(member, name, specs.as_deref(), head_only, &asker).await {
        Ok(known) => known,
        Err(error) => return failure(&error),
    };
    let ranges: Option<Vec<_>> =
        specs.map(|specs| specs.iter().filter_map(|spec| spec.resolve(len)).collect());
    if head_only {
        let mut response = with_headers(text(StatusCode::OK, ""), name, learned);
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(len));
        return response;
    }
    if only_cached {
        let has = |range: &Range<u64>| member.cache.has_all(name, range);
        let has_all = match &ranges {
            Some(ranges) => ranges.iter().all(has),
            None => has(&(0..len)),
        };
        if !has_all {
            return text(StatusCode::GATEWAY_TIMEOUT, "not cached");
        }
    }
    let served = match ranges {
        None => answer_range(member, name, 0..len, asker).await,
        Some(ranges) => match ranges.as_slice() {
            [] => return unsatisfiable(len),
            [range] => answer_range(member, name, range.clone(), asker).await,
            _ => answer_ranges(member, name, &ranges, len, asker).await,
        }
        .map(|answered| answered.partial(&ranges, len)),
    };
    match served {
        Ok(served) => {
            let tier = learned.max(served.tier);
            with_headers(served.response, name, tier)
        }
        Err(error) => failure(&error),
    }
}

/// An answer, and where its first byte came from.
struct Answered {
    response: Response<Body>,
    tier: Option<Tier>,
}

impl Answered {
    fn partial(mut self, ranges: &[Range<u64>], len: u64) -> Self {
        *self.response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let [range] = ranges {
            self.response
                .headers_mut()
                .insert(CONTENT_RANGE, content_range(range, len));
        }
        self
    }
}

/// Returns the ranges that are asked for; `None` for the whole object.
fn ranges(
    headers: &HeaderMap,
    name: &ObjectName,
    head_only: bool,
) -> Result<Option<Vec<RangeSpec>>, RangeError> {
    let Some(header) = headers.get(RANGE).filter(|_| !head_only) else {
        return Ok(None);
    };
    // Of another version of the object; there is none, but a cache between may not know.
    if headers
        .get(IF_RANGE)
        .is_some_and(|tag| *tag != *name.etag())
    {
        return Ok(None);
    }
    match header
        .to_str()
        .map_err(|_| RangeError::Malformed)
        .and_then(parse_ranges)
    {
        Ok(specs) => Ok(Some(specs)),
        Err(RangeError::Malformed) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells whether the client has another place to ask for what is not here (RFC 9111, section
/// 5.2.1.7).
pub(super) fn wants_only_cached(headers: &HeaderMap) -> bool {
    let text = headers
        .get(CACHE_CONTROL)
        .and_then(|text| text.to_str().ok());
    let mut wishes = text.unwrap_or_default().split(',');
    wishes.any(|wish| wish.trim().eq_ignore_ascii_case("only-if-cached"))
}

fn names_etag(header: Option<&HeaderValue>, etag: &str) -> bool {
    let Some(text) = header.and_then(|header| header.to_str().ok()) else {
        return false;
    };
    text.split(',').any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// Returns the length of an object. If it is not known yet, the block that will be wanted first
/// tells; the tier that it came from is returned too.
async fn length(
    member: &Arc<Member>,
    name: &ObjectName,
    specs: Option<&[RangeSpec]>,
    head_only: bool,
    asker: &Asker,
) -> Result<(u64, Option<Tier>), CacheError> {
    if let Some(len) = member.cache.known_length(name.id()) {
        return Ok((len, None));
    }
    let wanted = match specs.and_then(<[_]>::first) {
        Some(RangeSpec::Bounded(first, last)) => *first..last.saturating_add(1),
        Some(RangeSpec::From(first)) => *first..u64::MAX,
        None if !head_only => 0..u64::MAX,
        Some(RangeSpec::Suffix(_)) | None => 0..1,
    };
    let block_bytes = member.cache.block_bytes;
    // A block that no object has would be asked for in vain.
    let first = parts(wanted.clone(), block_bytes).next().unwrap_or(Part {
        number: 0,
        within: 0..1,
    });
    let last = last_block(&wanted, block_bytes).max(first.number);
    match member.cache.part(name, &first, last, asker).await {
        Ok(piece) => Ok((piece.object_bytes, Some(piece.tier))),
        Err(CacheError::Beyond(len)) => Ok((len, Some(Tier::Origin))),
        Err(error) => Err(error),
    }
}

fn last_block(range: &Range<u64>, block_bytes: u32) -> u32 {
    let last = range.end.saturating_sub(1) / u64::from(block_bytes);
    u32::try_from(last).unwrap_or(u32::MAX)
}

/// Answers with one range. The first part of it is there before the head is sent, so that errors
/// have a status.
async fn answer_range(
    member: &Arc<Member>,
    name: &ObjectName,
    range: Range<u64>,
    asker: Asker,
) -> Result<Answered, CacheError> {
    let block_bytes = member.cache.block_bytes;
    let Some(first) = parts(range.clone(), block_bytes).next() else {
        return Ok(Answered {
            response: text(StatusCode::OK, ""),
            tier: None,
        });
    };
    let last = last_block(&range, block_bytes);
    let cache = &member.cache;
    // In this order: the first is asked for first.
    let (piece, ()) = tokio::join!(
        biased;
        cache.part(name, &first, last, &asker),
        async {
            let ahead = cache.blocks_ahead(first.number, last);
            cache.ahead(name, ahead, last, &asker);
        }
    );
    let piece = piece?;
    let len = range.end - range.start;
    let first_len = piece.bytes.len() as u64;
    let body = if first_len == len {
        Either::Left(Full::new(piece.bytes))
    } else {
        let rest = Segment::Range(range.start + first_len..range.end);
        let segments = vec![Segment::Text(piece.bytes), rest];
        Either::Right(answer::stream(member, name, segments, asker))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(CONTENT_TYPE, OCTETS);
    Ok(Answered {
        response,
        tier: Some(piece.tier),
    })
}

/// Answers with several ranges, as RFC 9110 section 14.6 has it.
async fn answer_ranges(
    member: &Arc<Member>,
    name: &ObjectName,
    ranges: &[Range<u64>],
    len: u64,
    asker: Asker,
) -> Result<Answered, CacheError> {
    // Any line that the bytes do not hold. They are of a store: whoever wrote them cannot know
    // which object's id is the boundary of which.
    let boundary = name.id().to_string();
    let mut segments = Vec::with_capacity(2 * ranges.len() + 1);
    for range in ranges {
        let range_text = content_range(range, len);
        let range_text = range_text.to_str().unwrap_or_default();
        let head = format!(
            "\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\
             content-range: {range_text}\r\n\r\n"
        );
        segments.push(Segment::Text(Bytes::from(head)));
        segments.push(Segment::Range(range.clone()));
    }
    segments.push(Segment::Text(Bytes::from(format!(
        "\r\n--{boundary}--\r\n"
    ))));
    let total: u64 = segments.iter().map(Segment::len).sum();
    // As with one range: errors that come at once have a status.
    let block_bytes = member.cache.block_bytes;
    let mut tier = None;
    if let Some(first) = ranges.first()
        && let Some(part) = parts(first.clone(), block_bytes).next()
    {
        let last = last_block(first, block_bytes);
        tier = Some(member.cache.part(name, &part, last, &asker).await?.tier);
    }
    let body = answer::stream(member, name, segments, asker);
    let mut response = Response::new(Either::Right(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(total));
    let kind = format!("multipart/byteranges; boundary={boundary}");
    if let Ok(kind) = HeaderValue::try_from(kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    Ok(Answered { response, tier })
}

fn content_range(range: &Range<u64>, len: u64) -> HeaderValue {
    let text = format!("bytes {}-{}/{len}", range.start, range.end - 1);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn unsatisfiable(len: u64) -> Response<Body> {
    let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "");
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{len}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

fn with_headers(
    mut response: Response<Body>,
    name: &ObjectName,
    tier: Option<Tier>,
) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, IMMUTABLE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::try_from(name.etag()) {
        headers.insert(ETAG, etag);
    }
    if let Some(tier) = tier {
        headers.insert(CACHE_HEADER, HeaderValue::from_static(tier.name()));
    }
    response
}
