//! Write-through: what a node stores is with two members by the time the origin has it.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use nacre_blobstore::{Key, PackName};

use super::RegionCache;
use super::counters::count;
use super::place::{Spot, parts};
use super::wire::{Part, WireError};

/// Members that keep each part of an object on its way to the origin.
pub const WRITE_MEMBERS: usize = 2;
/// Parts of one object that are given to members at once.
const WRITES_MAX: usize = 4;
/// How long the giving of one part may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

impl RegionCache {
    /// Gives an object to two members for each of its spans, and returns how many took the part that
    /// fewest took. Members may forget it at any time.
    pub async fn write(&self, key: &Key, body: &Bytes) -> usize {
        self.looked().await;
        let total = body.len() as u64;
        let cut = |range: Range<u64>| {
            let start = usize::try_from(range.start).ok()?;
            let end = usize::try_from(range.end).ok()?;
            Some(Part {
                key: key.clone(),
                body: body.slice(start..end),
                offset: range.start,
                total,
            })
        };
        // What is no pack is read whole.
        let is_pack = PackName::from_key(key).is_some_and(|pack| pack.key() == *key);
        let ranges = if is_pack {
            parts(&(0..total))
        } else {
            std::iter::once(0..total).collect()
        };
        let parts: Vec<Part> = ranges.into_iter().filter_map(cut).collect();
        let mut least = WRITE_MEMBERS;
        for parts in parts.chunks(WRITES_MAX) {
            let taken = join_all(parts.iter().map(|part| self.write_part(part))).await;
            least = taken.into_iter().fold(least, usize::min);
        }
        count(&self.fetcher.counters.written);
        if least < WRITE_MEMBERS {
            count(&self.fetcher.counters.written_short);
        }
        least
    }

    /// Gives a part to the first members that answer.
    async fn write_part(&self, part: &Part) -> usize {
        let now = self.fetcher.clock.elapsed();
        let mut ranked = self
            .fetcher
            .members
            .ranked(Spot::of(&part.key, part.offset));
        ranked.retain(|member| member.breaker.allows(now));
        let mut taken = 0;
        let mut left = ranked.into_iter();
        while taken < WRITE_MEMBERS {
            let asked: Vec<_> = left.by_ref().take(WRITE_MEMBERS - taken).collect();
            if asked.is_empty() {
                break;
            }
            let puts = asked.iter().map(|member| async {
                let _load = member.load();
                let outcome = tokio::select! {
                    biased;
                    outcome = self.put_when_free(&member.name, part) => outcome,
                    () = self.fetcher.clock.sleep(WRITE_DEADLINE) => {
                        Err(WireError::Failed("timed out".to_owned()))
                    }
                };
                match &outcome {
                    Err(WireError::Failed(_)) => self.fetcher.note_failure(member),
                    _ => self.fetcher.note_answer(member),
                }
                outcome.is_ok()
            });
            taken += join_all(puts).await.into_iter().filter(|put| *put).count();
        }
        taken
    }

    /// Gives a part to a member, as soon as that is not busy.
    async fn put_when_free(&self, member: &str, part: &Part) -> Result<(), WireError> {
        loop {
            match self.fetcher.wire.put(member, part).await {
                Err(WireError::Busy(after)) => self.fetcher.clock.sleep(after).await,
                put => return put,
            }
        }
    }
}
