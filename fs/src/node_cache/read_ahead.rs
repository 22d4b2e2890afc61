//! Which chunks of a large content to fetch before they are asked for.
//!
//! A read that continues another fetches one chunk ahead; when the reader comes to where the last
//! window began, the next one is twice as long, up to [`WINDOW_MAX`]. It begins with a read that has
//! to wait: what is there before has been brought by who knew what is read, or was read before. Each content remembers
//! [`STREAMS`] positions, so several readers of one file do not spoil it for each other. A read
//! anywhere else begins a stream, and fetches nothing ahead. Nor does a stream that has not come as far
//! as it takes to be sure that the file is read on.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use nacre_blobstore::ChunkList;

/// Chunks fetched ahead of one reader, at most.
pub(super) const WINDOW_MAX: usize = 16;
/// Readers of one content that are told apart.
const STREAMS: usize = 8;
/// How far from where it should be a read still continues another: the kernel sends several reads
/// of one reader at once, and they come in any order.
const SLACK_BYTES: u64 = 1 << 20;

/// The readers of a content.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Vec<Stream>>);

/// One reader, in chunks but for its position.
#[derive(Debug, Default)]
struct Stream {
    next_bytes: u64,
    /// How far it has come.
    run_bytes: u64,
    /// Whether any of its reads had to wait.
    waited: bool,
    window: usize,
    /// Where the last window began; reading this far makes the next one begin.
    marker: usize,
    /// Where the last window ended.
    end: usize,
}

impl Streams {
    /// Notes a read, which `waited` or found all there, and returns the chunks to fetch because of
    /// it, if its stream has come as far as `after_bytes`.
    pub(super) fn advance(
        &self,
        list: &ChunkList,
        read: &Range<u64>,
        waited: bool,
        after_bytes: u64,
    ) -> Range<usize> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = streams.iter().position(|stream| stream.continues(read));
        let mut stream = match known {
            Some(known) => streams.remove(known),
            None => Stream::at(read.start),
        };
        stream.waited |= waited;
        let progress = read.end.saturating_sub(stream.next_bytes);
        stream.run_bytes += progress;
        let is_sure = stream.waited && stream.run_bytes >= after_bytes;
        let ahead = match known {
            Some(_) if is_sure && progress > 0 => stream.advance(list, read),
            _ => 0..0,
        };
        stream.next_bytes += progress;
        // The one that was quiet longest comes first.
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(stream);
        ahead
    }
}

impl Stream {
    fn at(next_bytes: u64) -> Self {
        Self {
            next_bytes,
            ..Self::default()
        }
    }

    fn continues(&self, read: &Range<u64>) -> bool {
        read.start.abs_diff(self.next_bytes) <= SLACK_BYTES
    }

    fn advance(&mut self, list: &ChunkList, read: &Range<u64>) -> Range<usize> {
        let chunks = list.extents().len();
        let reached = list.overlapping(read.start, read.end - read.start).end;
        if self.window > 0 && reached <= self.marker {
            return 0..0;
        }
        self.window = (self.window * 2).clamp(1, WINDOW_MAX);
        let start = self.end.max(reached);
        self.marker = start;
        self.end = chunks.min(start.saturating_add(self.window));
        start.min(chunks)..self.end
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::{ChunkId, ContentId, Digest};

    use super::*;

    const CHUNK: u64 = 100_000;

    fn list(chunks: u32) -> ChunkList {
        let id = |i: u32| ChunkId::new(Digest::of(&i.to_le_bytes()));
        let extents: Vec<_> = (0..chunks).map(|i| (id(i), 100_000)).collect();
        ChunkList::new(ContentId::new(Digest::of(b"list")), extents).unwrap()
    }

    #[test]
    fn the_window_doubles_and_every_chunk_is_fetched_once() {
        let (list, streams) = (list(200), Streams::default());
        let windows: Vec<_> = (0..200)
            .map(|i| streams.advance(&list, &(i * CHUNK..(i + 1) * CHUNK), true, 0))
            .filter(|window| !window.is_empty())
            .collect();
        let lengths: Vec<_> = windows.iter().map(Range::len).collect();
        assert_eq!(lengths[..7], [1, 2, 4, 8, 16, 16, 16]);
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(windows[0].start, 2);
        assert_eq!(windows.last().unwrap().end, 200);
    }

    #[test]
    fn seeks_fetch_nothing_and_two_readers_keep_their_windows() {
        let (list, streams) = (list(4_000), Streams::default());
        for i in 0..20 {
            let at = i * 200 * CHUNK;
            assert!(
                streams.advance(&list, &(at..at + 10), true, 0).is_empty(),
                "{i}"
            );
        }
        let mut ahead = [0, 0];
        for i in 0..40 {
            for (reader, start) in [0, 2_000].into_iter().enumerate() {
                let at = (start + i) * CHUNK;
                ahead[reader] += streams.advance(&list, &(at..at + CHUNK), true, 0).len();
            }
        }
        assert!(
            ahead
                .iter()
                .all(|ahead| (40..=40 + 2 * WINDOW_MAX).contains(ahead)),
            "{ahead:?}"
        );
        // Reading the same again is no progress.
        for _ in 0..10 {
            assert!(streams.advance(&list, &(0..10), true, 0).is_empty());
        }
        // Back to a window of one after a seek.
        let at = 3_500 * CHUNK;
        assert!(
            streams
                .advance(&list, &(at..at + CHUNK), true, 0)
                .is_empty()
        );
        let next = streams.advance(&list, &(at + CHUNK..at + 2 * CHUNK), true, 0);
        assert_eq!(next, 3_502..3_503);
    }

    #[test]
    fn what_is_there_is_no_reason_to_fetch_until_a_read_waits() {
        let (list, streams) = (list(200), Streams::default());
        let read =
            |i: u64, waited| streams.advance(&list, &(i * CHUNK..(i + 1) * CHUNK), waited, 0);
        assert!((0..50).all(|i| read(i, false).is_empty()));
        assert_eq!(read(50, true), 51..52);
        assert_eq!(read(51, false), 52..54, "what came ahead is read");
        assert!(read(150, false).is_empty(), "another reader");
        assert!(read(151, false).is_empty());
    }

    #[test]
    fn a_stream_may_have_to_come_far_first() {
        let (list, streams) = (list(200), Streams::default());
        let read = |i: u64, waited| {
            let read = i * CHUNK..(i + 1) * CHUNK;
            streams.advance(&list, &read, waited, 10 * CHUNK)
        };
        assert!((50..59).all(|i| read(i, true).is_empty()));
        assert!((50..59).all(|i| read(i, true).is_empty()), "no progress");
        assert_eq!(read(59, true), 60..61);
        assert_eq!(read(60, true), 61..63);
        assert!((150..159).all(|i| read(i, false).is_empty()));
        assert!(read(159, false).is_empty(), "nobody waits");
        assert_eq!(read(160, true), 161..162);
    }

    #[test]
    fn reads_that_the_kernel_sends_in_another_order_are_one_stream() {
        let (list, streams) = (list(400), Streams::default());
        let mut fetched = 0;
        for pair in 0..50 {
            for i in [2 * pair + 1, 2 * pair] {
                fetched += streams
                    .advance(&list, &(i * CHUNK..(i + 1) * CHUNK), true, 0)
                    .len();
            }
        }
        assert!((100..130).contains(&fetched), "{fetched}");
        assert_eq!(streams.0.lock().unwrap().len(), 1);
    }
}
