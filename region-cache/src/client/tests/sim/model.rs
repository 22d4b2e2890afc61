//! The members of a region and its origin, as a way for the client to go.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::Key;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::wire::{Answer, Ask, Had, Part, Wire, WireError};

const BLOCK_BYTES: u64 = 1 << 20;
/// Requests of one member that are under way at the origin at once.
pub(super) const ORIGIN_CONCURRENCY: usize = 20;
const ORIGIN_LATENCY: Duration = Duration::from_millis(40);
/// Blocks that wait for the origin at one member before it sheds.
const QUEUE_MAX: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(1);
const NETWORK_LATENCY: Duration = Duration::from_millis(1);
/// Time to send a MiB: 10 Gbit/s.
const SEND_US_PER_MIB: u64 = 840;

/// An object, by the first digits of its name, and the number of a block in it.
type Block = (u64, u64);

/// What a run came to in one region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) starts: u64,
    /// Blocks that anybody read.
    pub(super) unique_blocks: u64,
    /// Blocks that members got from the origin, each time.
    pub(super) origin_reads: u64,
    /// Blocks that nodes got from the origin past the members.
    pub(super) direct_reads: u64,
    /// Answers of members that had no capacity left.
    pub(super) busy: u64,
    /// Blocks that may be read again because of the churn: the shares of what came and went.
    pub(super) lost_blocks: u64,
    /// Reads that clients allowed themselves to make again.
    pub(super) budgeted: u64,
    /// Members that came or went.
    pub(super) churn: u64,
    pub(super) longest_read: Duration,
    pub(super) longest_start: Duration,
    /// When the last start had all that it reads.
    pub(super) over_at: Duration,
}

/// What is waited for. Wakes in the order in which it is waited for, which a `watch` channel does
/// not: equal seeds must give equal runs.
#[derive(Debug)]
struct Latch(Semaphore);

impl Latch {
    fn new() -> Self {
        Self(Semaphore::new(0))
    }

    fn open(&self) {
        self.0.close();
    }

    fn is_open(&self) -> bool {
        self.0.is_closed()
    }

    async fn opened(&self) {
        // It is an error that says so.
        drop(self.0.acquire().await);
    }
}

#[derive(Debug)]
struct Member {
    is_up: bool,
    /// Changes with each restart: what was under way is lost.
    life: u64,
    blocks: BTreeMap<Block, Arc<Latch>>,
    origin_turns: Arc<Semaphore>,
    waiting: usize,
    /// When its network has sent what it is to send.
    sent_at: Instant,
}

impl Member {
    #[expect(clippy::disallowed_methods, reason = "virtual time")]
    fn new() -> Self {
        Self {
            is_up: true,
            life: 0,
            blocks: BTreeMap::new(),
            origin_turns: Arc::new(Semaphore::new(ORIGIN_CONCURRENCY)),
            waiting: 0,
            sent_at: Instant::now(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<String, Member>,
    unique: BTreeSet<Block>,
    totals: Totals,
    /// Shares of all blocks that churn may cost, in millionths.
    lost_millionths: u64,
}

/// A region.
#[derive(Debug, Default)]
pub(super) struct Region(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blocks(key: &Key, range: &Range<u64>) -> Vec<Block> {
    let id = &key.as_str()[key.as_str().len() - 64..][..16];
    let object = u64::from_str_radix(id, 16).unwrap();
    let last = range.end.saturating_sub(1) / BLOCK_BYTES;
    (range.start / BLOCK_BYTES..=last)
        .map(|number| (object, number))
        .collect()
}

impl Region {
    pub(super) fn with_members(count: usize) -> Self {
        let region = Self::default();
        for number in 0..count {
            region.add(&format!("m{number}:80"));
        }
        region
    }

    pub(super) fn add(&self, name: &str) {
        lock(&self.0).members.insert(name.to_owned(), Member::new());
    }

    /// Ends a member; `cold`, with all that it has.
    pub(super) fn kill(&self, name: &str, cold: bool) {
        let mut state = lock(&self.0);
        let member = state.members.get_mut(name).unwrap();
        member.is_up = false;
        member.life += 1;
        member.waiting = 0;
        member.origin_turns = Arc::new(Semaphore::new(ORIGIN_CONCURRENCY));
        member.blocks.retain(|_, here| !cold && here.is_open());
    }

    pub(super) fn restart(&self, name: &str) {
        lock(&self.0).members.get_mut(name).unwrap().is_up = true;
    }

    /// Notes that what one of `members` has may be read `times` again.
    pub(super) fn note_churn(&self, members: usize, times: u64) {
        let mut state = lock(&self.0);
        state.totals.churn += 1;
        state.lost_millionths += times * 1_000_000 / members as u64;
    }

    /// Reads past the members.
    pub(super) async fn direct(&self, key: &Key, range: &Range<u64>) {
        tokio::time::sleep(ORIGIN_LATENCY).await;
        let mut state = lock(&self.0);
        for block in blocks(key, range) {
            state.unique.insert(block);
            state.totals.direct_reads += 1;
        }
    }

    pub(super) fn note_read(&self, took: Duration) {
        let longest = &mut lock(&self.0).totals.longest_read;
        *longest = took.max(*longest);
    }

    pub(super) fn note_start(&self, took: Duration, over_at: Duration) {
        let totals = &mut lock(&self.0).totals;
        totals.starts += 1;
        totals.longest_start = took.max(totals.longest_start);
        totals.over_at = over_at.max(totals.over_at);
    }

    pub(super) fn totals(&self, budgeted: u64) -> Totals {
        let state = lock(&self.0);
        let unique_blocks = state.unique.len() as u64;
        Totals {
            unique_blocks,
            lost_blocks: unique_blocks * state.lost_millionths / 1_000_000,
            budgeted,
            ..state.totals
        }
    }

    /// Begins to fetch what a member lacks, and returns what to wait for.
    fn begin(
        &self,
        name: &str,
        wanted: &[Block],
        only_if_cached: bool,
    ) -> Result<(u64, Vec<Arc<Latch>>), WireError> {
        let mut state = lock(&self.0);
        let state = &mut *state;
        let member = state.members.get_mut(name).filter(|member| member.is_up);
        let member = member.ok_or_else(|| WireError::Failed("refused".to_owned()))?;
        let missing = wanted
            .iter()
            .filter(|block| !member.blocks.contains_key(block))
            .count();
        if missing > 0 && only_if_cached {
            return Err(WireError::Refused(504));
        }
        if missing > 0 && member.waiting + missing > QUEUE_MAX {
            state.totals.busy += 1;
            return Err(WireError::Busy(RETRY_AFTER));
        }
        let (life, mut awaited) = (member.life, Vec::new());
        for block in wanted {
            let here = member.blocks.entry(*block).or_insert_with(|| {
                let here = Arc::new(Latch::new());
                let arrives = Arc::clone(&here);
                member.waiting += 1;
                let turns = Arc::clone(&member.origin_turns);
                let (region, name, block) = (Arc::clone(&self.0), name.to_owned(), *block);
                // A task: it goes on when who asked gives up.
                tokio::spawn(async move {
                    let turn = turns.acquire().await.unwrap();
                    tokio::time::sleep(ORIGIN_LATENCY).await;
                    drop(turn);
                    let mut state = lock(&region);
                    state.unique.insert(block);
                    state.totals.origin_reads += 1;
                    if let Some(member) = state.members.get_mut(&name)
                        && member.life == life
                    {
                        member.waiting -= 1;
                    }
                    arrives.open();
                });
                here
            });
            awaited.push(Arc::clone(here));
        }
        Ok((life, awaited))
    }

    /// Returns when a member will have sent so many bytes more.
    #[expect(clippy::disallowed_methods, reason = "virtual time")]
    fn send(&self, name: &str, life: u64, bytes: u64) -> Result<Instant, WireError> {
        let mut state = lock(&self.0);
        let member = state
            .members
            .get_mut(name)
            .filter(|m| m.is_up && m.life == life);
        let member = member.ok_or_else(|| WireError::Failed("reset".to_owned()))?;
        let us = bytes * SEND_US_PER_MIB / (1 << 20);
        member.sent_at = member.sent_at.max(Instant::now()) + Duration::from_micros(us);
        Ok(member.sent_at)
    }
}

#[async_trait::async_trait]
impl Wire for Region {
    async fn get(&self, member: &str, ask: &Ask) -> Result<Answer, WireError> {
        tokio::time::sleep(NETWORK_LATENCY).await;
        let range = ask.range.clone().unwrap();
        let (life, awaited) = self.begin(member, &blocks(&ask.key, &range), ask.only_if_cached)?;
        let mut had = Had::Memory;
        for here in awaited {
            if !here.is_open() {
                had = Had::Origin;
            }
            here.opened().await;
        }
        let sent_at = self.send(member, life, range.end - range.start)?;
        tokio::time::sleep_until(sent_at).await;
        self.send(member, life, 0)?;
        let bytes = Bytes::new();
        Ok(Answer {
            bytes,
            had,
            burst: false,
        })
    }

    async fn put(&self, _member: &str, _part: &Part) -> Result<(), WireError> {
        Ok(())
    }

    async fn report(&self, _: &str, _: &Key, _: Range<u64>) -> Result<(), WireError> {
        Ok(())
    }
}
