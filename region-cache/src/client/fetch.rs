//! How one span is asked for: whom, when somebody else too, and when the origin instead.
//!
//! ```text
//! first member ----------------------------- answer
//!      after the p95, under a budget: second member, only what it has
//!      after STALLED: the first again, only what it has; if it says nothing, or PULSES_MAX times that
//!      it has not got it, under a budget: second member, in full
//! no answer -> next member ... -> the origin, at once
//! busy      -> wait as told, again ... -> the origin, under a budget
//! ```
//! The origin must see each byte once, so what may cost it another read is rare: a hedge is
//! answered from a cache or not at all, a stuck member is doubted under a budget, and a busy region
//! is waited for. Only members that do not answer at all are passed by at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nacre_blobstore::Clock;
use tracing::Instrument as _;

use super::breaker::FAILURES_MAX;
use super::budget::Budget;
use super::counters::{Counters, count};
use super::latency::Latency;
use super::members::{Member, Members};
use super::place::{CANDIDATES_MAX, Spot, mix};
use super::span::{member_get, note_outcome};
use super::wire::{Answer, Ask, Wire, WireError};

/// Hedged requests for every 100, and how many at once at most. They cost the members a look.
const HEDGE_PERCENT: u64 = 5;
const HEDGE_RESERVE: u64 = 16;
/// Least wait before a second request: below it nobody notices.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(5);
/// Requests for every 100 that may cost the origin a second read because a member seems stuck. Of
/// 1,000 nodes each has a reserve of its own, so that is small: enough to find out.
const DOUBT_PERCENT: u64 = 1;
const DOUBT_RESERVE: u64 = FAILURES_MAX as u64;
/// A member that is silent for so long, and for [`STALLED_FACTOR`] times the p95, seems stuck.
pub(crate) const STALLED: Duration = Duration::from_secs(2);
const STALLED_FACTOR: u32 = 4;
/// How often a member that says that it has not got the bytes yet is waited for again, as long each
/// time: whom else one asks would ask the same origin. It may have lost the way there.
pub(crate) const PULSES_MAX: u32 = 3;
/// The part of that time that it has to say so.
pub(crate) const PULSE_PART: u32 = 2;
/// A member that is silent for so long is taken for dead: it would have said that it is busy.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(15);
/// Requests for every 100 that may go to the origin because members are busy.
const RELIEF_PERCENT: u64 = 1;
const RELIEF_RESERVE: u64 = 2;
/// How long busy members are waited for before the origin is thought of.
const BUSY_PATIENCE: Duration = Duration::from_secs(20);
/// How long at most. Then the origin is asked whatever the budget says: a job must not fail because
/// one read was slow.
pub(crate) const BUSY_MAX: Duration = Duration::from_secs(120);
/// How long a fetch may take at members, whatever they say or do not say: what all the waits above
/// come to.
pub const PATIENCE_MAX: Duration =
    Duration::from_secs(BUSY_MAX.as_secs() + CANDIDATES_MAX as u64 * SILENT_MAX.as_secs());
/// The part of the patience after which a silent member seems stuck at the latest, in percent.
const STALLED_PERCENT: u32 = 50;
/// The part of the patience after which a silent member is taken for dead, in percent: the next one
/// is asked before the patience ends.
const SILENT_PERCENT: u32 = 75;

const NOT_FOUND: u16 = 404;

/// Why the origin is to be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PassBy {
    #[error("no member answers: {0}")]
    Down(String),
    #[error("members are busy")]
    Busy,
    #[error("no answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("{member} answers {status}")]
    Refused { member: Arc<str>, status: u16 },
}

/// An answer and who gave it.
pub(crate) type Given = (Answer, Arc<str>);

#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) members: Arc<Members>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
    patience: Duration,
    latency: Latency,
    hedges: Budget,
    doubts: Budget,
    relief: Budget,
    jitter: AtomicU64,
}

impl Fetcher {
    pub(crate) fn new(
        wire: Arc<dyn Wire>,
        members: Arc<Members>,
        clock: Arc<dyn Clock>,
        seed: u64,
        patience: Duration,
    ) -> Self {
        Self {
            patience: patience.min(PATIENCE_MAX),
            wire,
            members,
            clock,
            counters: Counters::default(),
            latency: Latency::default(),
            hedges: Budget::new(HEDGE_PERCENT, HEDGE_RESERVE),
            doubts: Budget::new(DOUBT_PERCENT, DOUBT_RESERVE),
            relief: Budget::new(RELIEF_PERCENT, RELIEF_RESERVE),
            jitter: AtomicU64::new(seed),
        }
    }

    /// Asks the members that have `spot`, best first, until one answers.
    pub(crate) async fn fetch(self: &Arc<Self>, spot: Spot, ask: &Ask) -> Result<Given, PassBy> {
        for budget in [&self.hedges, &self.doubts, &self.relief] {
            budget.earn();
        }
        let fetched = tokio::select! {
            biased;
            fetched = self.try_members(spot, ask) => fetched,
            () = self.clock.sleep(self.patience) => Err(PassBy::Late(self.patience)),
        };
        match &fetched {
            Ok((answer, _)) => self.counters.answered(answer.had),
            Err(_) => count(&self.counters.passed_by),
        }
        fetched
    }

    /// Asks one member that has `spot` for what it has, and nobody else; for no longer than hedges
    /// wait, as nobody may need it.
    pub(crate) async fn fetch_cached(&self, spot: Spot, ask: &Ask) -> Option<Given> {
        let candidates = self.members.candidates(spot, self.clock.elapsed());
        let member = candidates.first().filter(|m| m.breaker.is_closed())?;
        let enough = self.latency.p95().unwrap_or(STALLED).max(HEDGE_AFTER_MIN);
        let given = tokio::select! {
            biased;
            given = self.ask_cached(member, ask, false) => given?,
            () = self.clock.sleep(enough) => return None,
        };
        self.counters.answered(given.0.had);
        Some(given)
    }

    async fn try_members(self: &Arc<Self>, spot: Spot, ask: &Ask) -> Result<Given, PassBy> {
        let began = self.clock.elapsed();
        let mut reason = "there are none".to_owned();
        let candidates = self.members.candidates(spot, began);
        for (number, member) in candidates.iter().enumerate() {
            if !member.breaker.allows(self.clock.elapsed()) {
                reason = format!("{} rests", member.name);
                continue;
            }
            let next = candidates[number + 1..]
                .iter()
                .find(|m| m.breaker.is_closed());
            loop {
                match self.ask(member, next, ask).await {
                    Ok(given) => return Ok(given),
                    Err(WireError::Refused(status)) => {
                        // What is on its way to the origin is at two members, and not there yet.
                        if let (NOT_FOUND, Some(next)) = (status, next)
                            && let Some(given) = self.ask_cached(next, ask, false).await
                        {
                            return Ok(given);
                        }
                        let member = Arc::clone(&member.name);
                        return Err(PassBy::Refused { member, status });
                    }
                    Err(WireError::Failed(error)) => {
                        reason = format!("{}: {error}", member.name);
                        break;
                    }
                    Err(WireError::Busy(retry_after)) => {
                        self.wait_for_busy(began, retry_after).await?;
                    }
                }
            }
        }
        Err(PassBy::Down(reason))
    }

    /// Waits before a busy member is asked again, or sends the caller to the origin.
    async fn wait_for_busy(&self, began: Duration, retry_after: Duration) -> Result<(), PassBy> {
        let waited = self.clock.elapsed().saturating_sub(began);
        if waited >= BUSY_MAX || waited >= BUSY_PATIENCE && self.relief.spend() {
            count(&self.counters.relieved);
            return Err(PassBy::Busy);
        }
        // Never earlier than told; spread over as much time again.
        self.clock
            .sleep(retry_after + self.random_below(retry_after))
            .await;
        Ok(())
    }

    /// Asks a member, and `next` as well when that takes long.
    async fn ask(
        self: &Arc<Self>,
        member: &Arc<Member>,
        next: Option<&Arc<Member>>,
        ask: &Ask,
    ) -> Result<Given, WireError> {
        let began = self.clock.elapsed();
        let mut first = Box::pin(Arc::clone(self).ask_owned(Arc::clone(member), ask.clone()));
        let p95 = self.latency.p95();
        let stalled = STALLED.max(p95.unwrap_or_default() * STALLED_FACTOR);
        let stalled = stalled.min(self.patience * STALLED_PERCENT / 100);
        let until_stalled = || {
            let waited = self.clock.elapsed().saturating_sub(began);
            self.clock.sleep(stalled.saturating_sub(waited))
        };
        if let Some(p95) = p95 {
            tokio::select! {
                biased;
                answer = &mut first => return answer,
                () = self.clock.sleep(p95.max(HEDGE_AFTER_MIN).min(stalled)) => {}
            }
            if let Some(next) = next.filter(|_| self.hedges.spend()) {
                count(&self.counters.hedged);
                tokio::select! {
                    biased;
                    answer = &mut first => return answer,
                    hedged = self.ask_cached(next, ask, true) => if let Some(given) = hedged {
                        count(&self.counters.hedged_won);
                        self.finish_probe(member, began, first);
                        return Ok(given);
                    },
                    () = until_stalled() => {}
                }
            }
        }
        if let Some(answer) = self
            .until_stuck(member, ask, stalled, began, &mut first)
            .await
        {
            return answer;
        }
        let Some(next) = next.filter(|_| self.doubts.spend()) else {
            return self.last_wait(member, began, first).await;
        };
        count(&self.counters.doubted);
        let mut second = Box::pin(self.ask_one(next, ask, true));
        tokio::select! {
            biased;
            answer = &mut first => match answer {
                Err(WireError::Failed(_)) => second.await,
                answer => answer,
            },
            answer = &mut second => match answer {
                Ok(given) => {
                    // The other one had all this time more.
                    self.note_failure(member);
                    Ok(given)
                }
                Err(_) => self.last_wait(member, began, first).await,
            },
        }
    }

    /// Awaits a member's answer; `None` when it seems stuck.
    async fn until_stuck(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
        stalled: Duration,
        began: Duration,
        first: &mut (impl Future<Output = Result<Given, WireError>> + Unpin),
    ) -> Option<Result<Given, WireError>> {
        for number in 1..=PULSES_MAX {
            let waited = self.clock.elapsed().saturating_sub(began);
            tokio::select! {
                biased;
                answer = &mut *first => return Some(answer),
                () = self.clock.sleep((stalled * number).saturating_sub(waited)) => {}
            }
            let cached = ask.only_cached();
            let pulse = tokio::select! {
                biased;
                answer = &mut *first => return Some(answer),
                pulse = self.ask_one(member, &cached, true) => pulse,
                () = self.clock.sleep(stalled / PULSE_PART) => return None,
            };
            match pulse {
                Ok(given) => return Some(Ok(given)),
                Err(WireError::Failed(_)) => return None,
                Err(WireError::Refused(_) | WireError::Busy(_)) => {}
            }
        }
        None
    }

    /// Awaits the answer of a member that was asked how it is, though nobody needs it any more. A
    /// member that comes back empty is slower than the hedge each time: without its answer it would
    /// rest for good.
    fn finish_probe(
        self: &Arc<Self>,
        member: &Arc<Member>,
        began: Duration,
        answer: impl Future<Output = Result<Given, WireError>> + Send + 'static,
    ) {
        if member.breaker.is_closed() {
            return;
        }
        let (fetcher, member) = (Arc::clone(self), Arc::clone(member));
        tokio::spawn(async move { fetcher.last_wait(&member, began, answer).await });
    }

    /// Waits for a member for as long as any is waited for.
    async fn last_wait(
        &self,
        member: &Arc<Member>,
        began: Duration,
        answer: impl Future<Output = Result<Given, WireError>>,
    ) -> Result<Given, WireError> {
        let waited = self.clock.elapsed().saturating_sub(began);
        let silent_max = SILENT_MAX.min(self.patience * SILENT_PERCENT / 100);
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.clock.sleep(silent_max.saturating_sub(waited)) => {
                self.note_failure(member);
                Err(WireError::Failed("silent".to_owned()))
            }
        }
    }

    /// Asks a member for what it has, at no cost to the origin.
    async fn ask_cached(&self, member: &Arc<Member>, ask: &Ask, hedged: bool) -> Option<Given> {
        self.ask_one(member, &ask.only_cached(), hedged).await.ok()
    }

    /// [`Self::ask_one`] that may outlive its caller.
    async fn ask_owned(self: Arc<Self>, member: Arc<Member>, ask: Ask) -> Result<Given, WireError> {
        self.ask_one(&member, &ask, false).await
    }

    async fn ask_one(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
        hedged: bool,
    ) -> Result<Given, WireError> {
        let began = self.clock.elapsed();
        let _load = member.load();
        let span = member_get(&member.name, ask, hedged);
        let get = self.wire.get(&member.name, ask);
        let outcome = get.instrument(span.clone()).await;
        note_outcome(&span, &outcome);
        match outcome {
            Ok(answer) => {
                self.latency
                    .note(self.clock.elapsed().saturating_sub(began));
                self.note_answer(member);
                Ok((answer, Arc::clone(&member.name)))
            }
            Err(error) => {
                match &error {
                    WireError::Failed(_) => self.note_failure(member),
                    WireError::Busy(_) => {
                        count(&self.counters.busy);
                        self.note_answer(member);
                    }
                    WireError::Refused(_) => self.note_answer(member),
                }
                Err(error)
            }
        }
    }

    pub(crate) fn note_answer(&self, member: &Member) {
        if member.breaker.succeeded() {
            tracing::info!(member = %member.name, "a member of the region is back");
        }
    }

    pub(crate) fn note_failure(&self, member: &Member) {
        count(&self.counters.failed);
        if member.breaker.failed(self.clock.elapsed()) {
            tracing::warn!(member = %member.name, "a member of the region does not answer");
        }
    }

    /// Spreads the clients of a region, nothing more.
    fn random_below(&self, bound: Duration) -> Duration {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = mix(self.jitter.fetch_add(GAMMA, Ordering::Relaxed));
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(number % bound_us.saturating_add(1).max(1))
    }
}
