//! `PUT` of an object: what a node stores passes through the region on its way to the origin.
//!
//! A body may be a part of an object, as its `Content-Range` says: whole blocks, since members have
//! spans of objects. The member keeps it; it does not write to the origin. `201` means that all of it is on this
//! member's disk, `202` that it is in memory and may be gone at any time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_RANGE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use nacre_blobstore::Digest;

use super::{Body, busy, text};
use crate::server::Member;
use crate::server::block::Block;
use crate::server::object::ObjectName;

/// BLAKE3 of the body, in hexadecimal digits.
const HASH_HEADER: &str = "x-nacre-blake3";
/// Largest object that is taken, in bytes: a pack with its index.
pub(in crate::server) const PUT_BYTES_MAX: u64 = 96 << 20;
/// Objects that are taken at the same time.
pub(in crate::server) const PUTS_MAX: usize = 4;
/// The part of the memory that one of them may take is one in this many.
const MEMORY_SHARE: u64 = 8;
/// How long a client may send nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// When that many are under way.
const RETRY_AFTER_S: u64 = 1;

pub(super) async fn put(
    member: &Arc<Member>,
    name: &ObjectName,
    request: Request<Incoming>,
) -> Response<Body> {
    let hash = request.headers().get(HASH_HEADER);
    let hash = hash.and_then(|text| text.to_str().ok()?.parse::<Digest>().ok());
    let Some(hash) = hash else {
        return text(
            StatusCode::BAD_REQUEST,
            "x-nacre-blake3 is missing or no hash",
        );
    };
    let content_range = request.headers().get(CONTENT_RANGE).cloned();
    let body = request.into_body();
    let Some(len) = body.size_hint().exact() else {
        return text(StatusCode::LENGTH_REQUIRED, "");
    };
    if len > PUT_BYTES_MAX.min(member.cache.budget.bytes_max() / MEMORY_SHARE) {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "");
    }
    if len == 0 {
        return text(StatusCode::BAD_REQUEST, "an object has bytes");
    }
    let Some(place) = place(content_range.as_ref(), len, member.cache.block_bytes) else {
        return text(StatusCode::BAD_REQUEST, "the range is not of whole blocks");
    };
    let Ok(_turn) = member.puts.try_acquire() else {
        return busy(RETRY_AFTER_S);
    };
    let blocks = match receive(member, body, len, place.object_bytes, hash).await {
        Ok(blocks) => blocks,
        Err((status, why)) => return text(status, why),
    };
    let metrics = &member.cache.metrics;
    metrics.puts.add(1);
    metrics.put_bytes.add(len);
    if member.cache.keep(name, place.first, blocks).await {
        text(StatusCode::CREATED, "")
    } else {
        text(StatusCode::ACCEPTED, "")
    }
}

/// Where in an object a body belongs.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    first: u32,
    object_bytes: u64,
}

/// Reads a `Content-Range` (RFC 9110, section 14.4) of a body of `len` bytes; without one the body
/// is the whole object. `None` when it is not one range of whole blocks of that length.
fn place(header: Option<&HeaderValue>, len: u64, block_bytes: u32) -> Option<Place> {
    let Some(header) = header else {
        return Some(Place {
            first: 0,
            object_bytes: len,
        });
    };
    let (range, total) = header
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let (object_bytes, block_bytes) = (total.parse::<u64>().ok()?, u64::from(block_bytes));
    let end = last.checked_add(1)?;
    let whole = first.is_multiple_of(block_bytes)
        && (end == object_bytes || end.is_multiple_of(block_bytes) && end < object_bytes);
    (whole && first < end && end - first == len).then_some(())?;
    Some(Place {
        first: u32::try_from(first / block_bytes).ok()?,
        object_bytes,
    })
}

/// Reads a body into blocks and checks it. Memory is charged before the first byte, for all of
/// it: who waits for more while he holds some may wait for one who does the same.
async fn receive(
    member: &Member,
    mut body: Incoming,
    len: u64,
    object_bytes: u64,
    hash: Digest,
) -> Result<Vec<Block>, (StatusCode, &'static str)> {
    let size = member.cache.block_bytes as usize;
    let count = len.div_ceil(size as u64);
    let mut charge = member.cache.budget.charge(count * size as u64).await;
    let mut blocks = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let mut left = len;
    let mut rest = Bytes::new();
    while left > 0 {
        let wanted = size.min(usize::try_from(left).unwrap_or(size));
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            if rest.is_empty() {
                let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
                let Ok(Some(Ok(frame))) = frame else {
                    return Err((StatusCode::BAD_REQUEST, "the body ended early"));
                };
                rest = frame.into_data().unwrap_or_default();
                continue;
            }
            let take = rest.len().min(wanted - bytes.len());
            bytes.extend_from_slice(&rest.split_to(take));
        }
        hasher.update(&bytes);
        left -= wanted as u64;
        blocks.push(Block {
            bytes: charge.split(wanted as u64).cover(bytes),
            object_bytes,
        });
    }
    if hash.as_bytes() == hasher.finalize().as_bytes() {
        Ok(blocks)
    } else {
        Err((StatusCode::BAD_REQUEST, "the body does not have the hash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_blocks() {
        for (header, len, expected) in [
            ("bytes 0-9/10", 10, Some((0, 10))),
            ("bytes 0-7/10", 8, Some((0, 10))),
            ("bytes 8-9/10", 2, Some((2, 10))),
            ("bytes 4-11/100", 8, Some((1, 100))),
            ("bytes 4-10/100", 7, None),
            ("bytes 5-11/100", 7, None),
            ("bytes 0-11/10", 12, None),
            ("bytes 0-7/10", 7, None),
            ("bytes 8-3/100", 4, None),
            ("bytes 0-7/*", 8, None),
            ("bytes */10", 8, None),
            ("0-7/10", 8, None),
            ("bytes 0-18446744073709551615/18446744073709551615", 8, None),
        ] {
            let place = place(Some(&HeaderValue::from_static(header)), len, 4);
            let place = place.map(|place| (place.first, place.object_bytes));
            assert_eq!(place, expected, "{header}");
        }
    }
}
