//! The body of an answer that has more than one part: part by part, each when it is wanted.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;

use crate::server::Member;
use crate::server::block::{Part, parts};
use crate::server::cache::{Asker, Cache, CacheError, ORIGIN_GET_BYTES_MAX};
use crate::server::fair::Admission;
use crate::server::object::ObjectName;

/// A piece of an answer's body.
pub(super) enum Segment {
    Text(Bytes),
    /// Bytes of the object.
    Range(Range<u64>),
}

impl Segment {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

/// Why an answer ends before its end. The client sees that by its length.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum BodyError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the object is shorter than it was")]
    Short,
}

pub(in crate::server) type Streamed =
    StreamBody<BoxStream<'static, Result<Frame<Bytes>, BodyError>>>;

enum Step {
    Text(Bytes),
    /// And the range's first and last block.
    Part(Part, RangeInclusive<u32>),
}

/// Makes a body of segments. One part is read at a time: what the client does not take is not in
/// memory, but what is missing is asked of the origin ahead of it.
pub(super) fn stream(
    member: &Arc<Member>,
    name: &ObjectName,
    segments: Vec<Segment>,
    asker: Asker,
) -> Streamed {
    let block_bytes = member.cache.block_bytes;
    let steps = segments.into_iter().flat_map(move |segment| {
        let (text, range) = match segment {
            Segment::Text(text) => (Some(Step::Text(text)), 0..0),
            Segment::Range(range) => (None, range),
        };
        let block = |at: u64| u32::try_from(at / u64::from(block_bytes)).unwrap_or(u32::MAX);
        let blocks = block(range.start)..=block(range.end.saturating_sub(1));
        text.into_iter()
            .chain(parts(range, block_bytes).map(move |part| Step::Part(part, blocks.clone())))
    });
    let (cache, name) = (Arc::clone(&member.cache), name.clone());
    let asker = Asker {
        admission: Admission::Begun,
        ..asker
    };
    let pieces = futures::stream::iter(steps).then(move |step| {
        let (cache, name, asker) = (Arc::clone(&cache), name.clone(), asker.clone());
        async move {
            match step {
                Step::Text(text) => Ok(Frame::data(text)),
                Step::Part(part, blocks) => read(&cache, &name, &part, &blocks, &asker).await,
            }
        }
    });
    StreamBody::new(pieces.boxed())
}

async fn read(
    cache: &Arc<Cache>,
    name: &ObjectName,
    part: &Part,
    blocks: &RangeInclusive<u32>,
    asker: &Asker,
) -> Result<Frame<Bytes>, BodyError> {
    let (first, last) = (*blocks.start(), *blocks.end());
    let distance = ORIGIN_GET_BYTES_MAX / cache.block_bytes;
    let furthest = part.number.saturating_add(distance);
    // At the start all of the distance, later one block more each time.
    let nearest = if part.number == first {
        first.saturating_add(1)
    } else {
        furthest
    };
    for number in (nearest..=furthest).take_while(|number| *number <= last) {
        cache.ahead(name, number, last, asker);
    }
    let piece = cache.part(name, part, last, asker).await?;
    if piece.bytes.len() == part.within.len() {
        Ok(Frame::data(piece.bytes))
    } else {
        Err(BodyError::Short)
    }
}
