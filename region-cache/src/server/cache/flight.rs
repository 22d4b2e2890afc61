//! Fetches from the origin: one for each block, however many wait for it, errors included.
//!
//! What one request fetches depends on what is wanted alone, not on when: a block, or an aligned
//! extent of [`ORIGIN_GET_BYTES_MAX`] that is wanted as a whole. Were it whatever neighbours happen to be
//! missing, a burst of starts would cost the origin now more requests than one start and now fewer. A flight is on the list until its blocks
//! are on the disk, so that no block falls between "was fetched" and "is stored" and is fetched
//! again. It goes on when those who asked have left: they come back, and find it done.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nacre_blobstore::{StoreError, origin_get};
use tokio::sync::oneshot;

use super::{Asker, Cache, CacheError, ORIGIN_GET_BYTES_MAX, lock};
use crate::server::block::{Block, BlockId, block_len};
use crate::server::object::ObjectName;

type Landed = Result<Block, CacheError>;

/// A wait that others may share.
pub(super) type Flight = Shared<BoxFuture<'static, Landed>>;

/// The blocks that one request fetches.
struct Run {
    name: ObjectName,
    first: u32,
    answers: Vec<oneshot::Sender<Landed>>,
}

impl Cache {
    /// Waits for a block from the origin; starts to fetch it if nobody did, with the rest of the extent
    /// that it begins if all of that is wanted up to `last`.
    pub(super) fn flight(
        self: &Arc<Self>,
        name: &ObjectName,
        number: u32,
        last: u32,
        asker: &Asker,
    ) -> Flight {
        let id = |number| BlockId {
            object: name.id(),
            number,
        };
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&id(number)) {
            self.metrics.joined.add(1);
            return flight.clone();
        }
        // It may have landed since the caller looked.
        if let Some(block) = lock(&self.memory).peek(&id(number)) {
            return futures::future::ready(Ok(block.clone())).boxed().shared();
        }
        let end = self
            .known_length(name.id())
            .map_or(u64::MAX, |len| len.div_ceil(self.block_bytes.into()));
        let missing = |number: &u32| {
            u64::from(*number) < end
                && !flights.contains_key(&id(*number))
                && !self.has(&id(*number))
        };
        let more = self.extent_after(number, last).take_while(missing);
        let numbers = std::iter::once(number).chain(more).collect::<Vec<_>>();
        let mut answers = Vec::with_capacity(numbers.len());
        let mut first = None;
        for number in numbers {
            let (answer, answered) = oneshot::channel();
            let flight = answered.map(stopped_or).boxed().shared();
            answers.push(answer);
            first.get_or_insert_with(|| flight.clone());
            let _none = flights.insert(id(number), flight);
        }
        drop(flights);
        let run = Run {
            name: name.clone(),
            first: number,
            answers,
        };
        let (cache, asker) = (Arc::clone(self), asker.clone());
        drop(
            self.tasks
                .spawn(async move { cache.fly(run, &asker).await }),
        );
        first.expect("a run has one block at least")
    }

    /// Returns the other blocks of the extent that `number` begins, if all are wanted; else none.
    fn extent_after(&self, number: u32, last: u32) -> Range<u32> {
        let blocks = ORIGIN_GET_BYTES_MAX / self.block_bytes;
        let next = number.saturating_add(1);
        let end = number.saturating_add(blocks);
        if number.is_multiple_of(blocks) && last >= end - 1 {
            next..end
        } else {
            next..next
        }
    }

    pub(super) fn has(&self, id: &BlockId) -> bool {
        lock(&self.memory).peek(id).is_some()
            || self
                .disk
                .as_ref()
                .is_some_and(|(disk, _)| disk.peek(id).is_some())
    }

    /// Fetches a run, answers those who wait, stores what came, and takes the run off the list.
    async fn fly(self: &Arc<Self>, run: Run, asker: &Asker) {
        let object = run.name.id();
        let ids = (run.first..).take(run.answers.len());
        let ids = ids.map(|number| BlockId { object, number });
        let landing = Landing {
            cache: Arc::clone(self),
            ids: ids.clone().collect(),
        };
        let landed = self.fetch(&run, asker).await;
        for ((id, block), answer) in ids.clone().zip(&landed).zip(run.answers) {
            if let Ok(block) = block {
                self.remember(id, block.clone());
            }
            // All who waited may have left.
            drop(answer.send(block.clone()));
        }
        if let Some((_, writer)) = &self.disk {
            for (id, block) in ids.zip(landed) {
                if let Ok(block) = block {
                    let _stored = writer.write(id, block, false).await;
                }
            }
        }
        drop(landing);
    }

    /// Fetches the blocks of a run; those past the object's end are errors.
    async fn fetch(&self, run: &Run, asker: &Asker) -> Vec<Landed> {
        let count = run.answers.len();
        let all = |error: CacheError| vec![Err(error); count];
        let turn = self
            .queue
            .turn(&asker.client, asker.priority, asker.admission);
        let turn = match turn.await {
            Ok(turn) => turn,
            Err(shed) => {
                self.metrics.shed.add(1);
                return all(CacheError::Shed {
                    retry_after_s: shed.retry_after_s,
                });
            }
        };
        let size = u64::from(self.block_bytes);
        let start = u64::from(run.first) * size;
        let wanted = count as u64 * size;
        let (key, range) = (run.name.key(), start..start + wanted);
        // Once for what the origin gives, and once for the blocks that it is copied to.
        let mut charge = self.budget.charge(2 * wanted).await;
        self.metrics.origin_gets.add(1);
        let get = self.store.get_part(key, range.clone());
        let got = origin_get(&asker.span, key, Some(&range), |(bytes, _)| bytes, get).await;
        drop(turn);
        let (bytes, object_bytes) = match got {
            Ok(got) => got,
            Err(error) => {
                if let StoreError::Size { actual, .. } = &error {
                    self.note_length(run.name.id(), *actual);
                } else if !matches!(error, StoreError::NotFound(_)) {
                    self.metrics.origin_errors.add(1);
                    tracing::warn!(%error, "fetch from the origin");
                }
                return all(CacheError::of(&error));
            }
        };
        self.metrics.origin_bytes.add(bytes.len() as u64);
        let right = wanted.min(object_bytes.saturating_sub(start));
        if bytes.len() as u64 != right {
            self.metrics.origin_errors.add(1);
            let text = format!("the origin gave {} bytes of {right}", bytes.len());
            return all(CacheError::Unavailable(text.into()));
        }
        self.note_length(run.name.id(), object_bytes);
        let mut rest = &bytes[..];
        (run.first..)
            .take(count)
            .map(|number| {
                let len = block_len(object_bytes, number, self.block_bytes) as usize;
                let Some((block, after)) = rest.split_at_checked(len).filter(|_| len > 0) else {
                    return Err(CacheError::Beyond(object_bytes));
                };
                rest = after;
                // A copy, so that one block does not keep its neighbours in memory.
                Ok(Block {
                    bytes: charge.split(len as u64).cover(block.to_vec()),
                    object_bytes,
                })
            })
            .collect()
    }
}

fn stopped_or(answer: Result<Landed, oneshot::error::RecvError>) -> Landed {
    answer.unwrap_or_else(|_| Err(CacheError::Unavailable("the fetch was stopped".into())))
}

/// Takes a run off the list when its task ends, in whatever way.
struct Landing {
    cache: Arc<Cache>,
    ids: Vec<BlockId>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = lock(&self.cache.flights);
        for id in &self.ids {
            drop(flights.remove(id));
        }
    }
}
