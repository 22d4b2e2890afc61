//! The body of an answer that has more than one part: part by part, each when it is wanted.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tracing::Instrument as _;

use crate::server::Member;
use crate::server::block::parts;
use crate::server::cache::{Asker, Cache, CacheError};
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
}

pub(in crate::server) type Streamed =
    StreamBody<BoxStream<'static, Result<Frame<Bytes>, BodyError>>>;

/// What is left of a body.
struct Rest {
    cache: Arc<Cache>,
    name: ObjectName,
    asker: Asker,
    segments: VecDeque<Segment>,
    /// The first block of the range under way that was not asked for ahead; `None` before its
    /// first byte.
    ahead: Option<u32>,
}

/// Makes a body of segments. One piece is read at a time: what the client does not take is not in
/// memory, but what is missing is asked of the origin ahead of it. Before each piece other answers of
/// the thread have their turn.
pub(super) fn stream(
    member: &Arc<Member>,
    name: &ObjectName,
    segments: Vec<Segment>,
    asker: Asker,
) -> Streamed {
    let rest = Rest {
        cache: Arc::clone(&member.cache),
        name: name.clone(),
        asker: Asker {
            admission: Admission::Begun,
            ..asker
        },
        segments: segments.into(),
        ahead: None,
    };
    let pieces = futures::stream::try_unfold(rest, |mut rest| async move {
        let span = rest.asker.span.clone();
        let piece = rest.next().instrument(span).await?;
        Ok(piece.map(|bytes| (Frame::data(bytes), rest)))
    });
    StreamBody::new(pieces.boxed())
}

impl Rest {
    /// Returns the next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(segment) = self.segments.pop_front() else {
            return Ok(None);
        };
        let range = match segment {
            Segment::Text(text) => return Ok(Some(text)),
            Segment::Range(range) => range,
        };
        // A client that takes all at once would get its whole answer, and the next one, in one turn.
        tokio::task::yield_now().await;
        let block_bytes = self.cache.block_bytes;
        let part = parts(range.clone(), block_bytes).next();
        let part = part.ok_or(CacheError::Beyond(range.start))?;
        let last = range.end.saturating_sub(1) / u64::from(block_bytes);
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        self.look_ahead(part.number, last);
        let piece = self.cache.part(&self.name, &part, last, &self.asker);
        let bytes = piece.await?.bytes;
        let left = range.start + bytes.len() as u64..range.end;
        if left.is_empty() {
            self.ahead = None;
        } else {
            self.segments.push_front(Segment::Range(left));
        }
        Ok(Some(bytes))
    }

    /// Asks for what will be wanted after block `number`, each block once.
    fn look_ahead(&mut self, number: u32, last: u32) {
        let ahead = self.cache.blocks_ahead(number, last);
        let end = *ahead.end();
        let from = self.ahead.unwrap_or_else(|| *ahead.start());
        self.cache.ahead(&self.name, from..=end, last, &self.asker);
        self.ahead = Some(from.max(end.saturating_add(1)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::TryStreamExt as _;
    use nacre_blobstore::testing::memory_store;
    use nacre_blobstore::{Digest, Key, SystemClock};

    use super::*;
    use crate::server::cache::CacheOptions;
    use crate::server::fair::Priority;
    use crate::server::{RegionServer, ServerOptions};

    const BLOCK: u32 = 64 << 10;
    const BLOCKS: usize = 8;

    /// A member that has the object in memory.
    async fn filled() -> (Arc<Member>, ObjectName, Asker) {
        let store = memory_store();
        let path = format!("/packs/{}", Digest::of(b"object"));
        let body = Bytes::from(vec![7; BLOCKS * BLOCK as usize]);
        let key = Key::new(&path[1..]).unwrap();
        store.put(&key, body).await.unwrap();
        let options = ServerOptions {
            cache: CacheOptions {
                block_bytes: BLOCK,
                ..CacheOptions::default()
            },
            ..ServerOptions::default()
        };
        let clock = Arc::new(SystemClock::new());
        let server = RegionServer::open(options, store, clock).unwrap();
        let asker = Asker {
            client: "client".into(),
            priority: Priority::Demand,
            admission: Admission::MayShed,
            span: tracing::Span::none(),
        };
        let name = ObjectName::from_path(&path).unwrap();
        let _all: Vec<_> = whole(&server.member, &name, &asker)
            .try_collect()
            .await
            .unwrap();
        (server.member, name, asker)
    }

    fn whole(member: &Arc<Member>, name: &ObjectName, asker: &Asker) -> Streamed {
        let range = 0..BLOCKS as u64 * u64::from(BLOCK);
        stream(member, name, vec![Segment::Range(range)], asker.clone())
    }

    #[tokio::test]
    async fn answers_of_one_thread_take_turns() {
        let (member, name, asker) = filled().await;
        let turns = Mutex::new(Vec::new());
        let answer = async |client: usize| {
            let mut pieces = whole(&member, &name, &asker);
            while let Some(_piece) = pieces.try_next().await.unwrap() {
                turns.lock().unwrap().push(client);
            }
        };
        tokio::join!(biased; answer(0), answer(1));
        let turns = turns.into_inner().unwrap();
        assert_eq!(turns, [0, 1].repeat(BLOCKS));
    }
}
