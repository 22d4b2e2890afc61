//! Priming: what will be read is asked for, so that members have it.

use std::ops::Range;

use futures::stream::{self, StreamExt};
use nacre_blobstore::{Key, UnverifiedBytes};

use super::place::parts;
use super::{Need, RegionCache};

/// Requests of one priming that are under way at once.
const PRIME_REQUESTS_MAX: usize = 8;
/// Largest whole object that is primed.
const PRIME_BYTES_MAX: u64 = 1 << 30;

/// What came of a priming.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Primed {
    /// Requests to members.
    pub requests: u64,
    /// Bytes of their answers.
    pub bytes: u64,
    /// Requests that no member answered.
    pub failed: u64,
}

impl RegionCache {
    /// Asks for ranges and whole objects in order, several at a time, and drops what comes: so that
    /// the members have it. Failures are counted only.
    pub async fn prime(&self, asks: Vec<(Key, Option<Range<u64>>)>) -> Primed {
        self.looked().await;
        let ranges = asks.into_iter().flat_map(|(key, range)| match range {
            None => vec![(key, None)],
            Some(range) => {
                let parts = parts(&range).into_iter();
                parts.map(|part| (key.clone(), Some(part))).collect()
            }
        });
        let fetches = ranges.map(|(key, range)| async move {
            let fetched = match range {
                Some(range) => self
                    .part(&key, range, Need::Ahead)
                    .await
                    .map(|(answer, _)| answer.bytes),
                None => {
                    let got = self.whole(&key, PRIME_BYTES_MAX, true).await;
                    got.map(UnverifiedBytes::into_untrusted)
                }
            };
            fetched.ok().map(|bytes| bytes.len() as u64)
        });
        let mut primed = Primed::default();
        let mut fetches = stream::iter(fetches).buffer_unordered(PRIME_REQUESTS_MAX);
        while let Some(fetched) = fetches.next().await {
            primed.requests += 1;
            match fetched {
                Some(bytes) => primed.bytes += bytes,
                None => primed.failed += 1,
            }
        }
        primed
    }
}
