//! The queue before the origin: a limit on requests under way, fair between clients.
//!
//! Clients take turns: one that asks for a thousand blocks does not keep another waiting for more
//! than one of them. Demand goes before prefetch, but for one turn in eight. Who would wait for longer than [`WAIT_MAX`] is
//! told at once to come back later, so the queue holds only what will be served while somebody
//! still waits for it: an overloaded origin goes on at its full rate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::Clock;
use tokio::sync::oneshot;

/// Longest wait for the origin that a request is admitted to, by what requests take just now.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);
/// Requests that wait at most, whatever they take.
pub(super) const QUEUE_MAX: usize = 4096;
/// What a request to the origin takes until the first was measured.
const SERVICE_FIRST: Duration = Duration::from_millis(50);
/// While both wait, one turn in this many is a prefetch's: a reader may have joined its fetch.
const PREFETCH_SHARE: u64 = 8;
/// A new measurement's part of the average is one in this many.
const SERVICE_SHARE: u32 = 16;
/// Longest time after which a client that was turned away is asked to come back.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Who asks: a name that it gave, or its address.
pub(super) type ClientId = Arc<str>;

/// Whether somebody waits for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// A reader waits.
    Demand,
    /// They may be wanted later.
    Prefetch,
}

/// Whether a request may be turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Its answer has not begun.
    MayShed,
    /// A part of an answer that has begun: it waits for as long as it takes.
    Begun,
}

/// Come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shed {
    pub(super) retry_after_s: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct FairQueue {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    turns: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    demand: Line,
    prefetch: Line,
    passed_on: u64,
    service: Duration,
    /// Until when those who were turned away keep the origin busy, if each comes when it was told.
    booked: Duration,
}

/// Clients with waiting requests. Each that is in `round` has a queue, and each queue is not empty.
#[derive(Debug, Default)]
struct Line {
    waiting: HashMap<ClientId, VecDeque<oneshot::Sender<Turn>>>,
    round: VecDeque<ClientId>,
    len: usize,
}

/// The right to make one request. Dropping it passes it on.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` once it was given back.
    queue: Option<Arc<FairQueue>>,
    since: Duration,
}

impl FairQueue {
    /// Lets `turns` requests through at once; 0 counts as 1.
    pub(super) fn new(turns: usize, clock: Arc<dyn Clock>) -> Self {
        let turns = turns.max(1);
        Self {
            state: Mutex::new(State {
                free: turns,
                demand: Line::default(),
                prefetch: Line::default(),
                passed_on: 0,
                service: SERVICE_FIRST,
                booked: Duration::ZERO,
            }),
            clock,
            turns,
        }
    }

    /// Waits for a turn, in which the request is to be made.
    ///
    /// # Errors
    /// [`Shed`], at once, when the wait would be too long.
    pub(super) async fn turn(
        self: &Arc<Self>,
        client: &ClientId,
        priority: Priority,
        admission: Admission,
    ) -> Result<Turn, Shed> {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                drop(state);
                return Ok(self.new_turn());
            }
            if admission == Admission::MayShed {
                self.admit(&mut state, client, priority)?;
            }
            let (sender, turn) = oneshot::channel();
            state.line(priority).push(client, sender);
            turn
        };
        // Only a queue that is gone drops the sender, and `self` keeps it.
        turn.await.map_err(|_| Shed { retry_after_s: 1 })
    }

    /// Returns the requests that wait.
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        state.demand.len + state.prefetch.len
    }

    /// Returns the requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.turns - self.state().free
    }

    /// Turns away who would wait for too long: by how many of its own requests are before it, and
    /// how many clients take turns with it.
    fn admit(&self, state: &mut State, client: &ClientId, priority: Priority) -> Result<(), Shed> {
        let rounds = |line: &Line| {
            let own = line.waiting.get(client).map_or(0, VecDeque::len);
            let clients = line.round.len() + usize::from(own == 0);
            ((own + 1) * clients).min(line.len + 1)
        };
        let before = match priority {
            Priority::Demand => rounds(&state.demand),
            Priority::Prefetch => state.demand.len + rounds(&state.prefetch),
        };
        let wait = state.service.as_secs_f64() * before as f64 / self.turns as f64;
        let len = state.demand.len + state.prefetch.len;
        if wait <= WAIT_MAX.as_secs_f64() && len < QUEUE_MAX {
            return Ok(());
        }
        Err(self.book(state, len))
    }

    /// Tells one who is turned away when to come back. Each gets a time of his own, as far apart
    /// as the origin serves them: if all came back at once, most would be turned away again, and
    /// the crowd would only grow.
    fn book(&self, state: &mut State, waiting: usize) -> Shed {
        let now = self.clock.elapsed();
        let each = state.service.as_secs_f64() / self.turns as f64;
        let all = Duration::try_from_secs_f64(each * waiting as f64).unwrap_or(RETRY_MAX);
        let each = Duration::try_from_secs_f64(each).unwrap_or(RETRY_MAX);
        state.booked = (state.booked.max(now + all) + each).min(now + RETRY_MAX);
        let wait_ms = state.booked.saturating_sub(now).as_millis();
        Shed {
            retry_after_s: u64::try_from(wait_ms.div_ceil(1000)).unwrap_or(u64::MAX),
        }
    }

    fn new_turn(self: &Arc<Self>) -> Turn {
        Turn {
            queue: Some(Arc::clone(self)),
            since: self.clock.elapsed(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a measurement into the average.
    fn measured(&mut self, took: Duration) {
        self.service = (self.service * (SERVICE_SHARE - 1) + took) / SERVICE_SHARE;
    }

    /// Returns who has the next turn.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.passed_on = self.passed_on.wrapping_add(1);
        if self.passed_on.is_multiple_of(PREFETCH_SHARE) {
            self.prefetch.pop().or_else(|| self.demand.pop())
        } else {
            self.demand.pop().or_else(|| self.prefetch.pop())
        }
    }

    const fn line(&mut self, priority: Priority) -> &mut Line {
        match priority {
            Priority::Demand => &mut self.demand,
            Priority::Prefetch => &mut self.prefetch,
        }
    }
}

impl Line {
    fn push(&mut self, client: &ClientId, sender: oneshot::Sender<Turn>) {
        if !self.waiting.contains_key(client) {
            self.round.push_back(Arc::clone(client));
        }
        let queue = self.waiting.entry(Arc::clone(client)).or_default();
        queue.push_back(sender);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let client = self.round.pop_front()?;
        let queue = self.waiting.get_mut(&client)?;
        let sender = queue.pop_front();
        self.len -= 1;
        if queue.is_empty() {
            drop(self.waiting.remove(&client));
        } else {
            self.round.push_back(client);
        }
        sender
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        let mut turn = queue.new_turn();
        let took = turn.since.saturating_sub(self.since);
        queue.state().measured(took);
        // A loop, as those who waited may all be gone.
        loop {
            let next = {
                let mut state = queue.state();
                let next = state.next();
                if next.is_none() {
                    state.free += 1;
                    turn.queue = None;
                }
                next
            };
            match next.map(|next| next.send(turn)) {
                Some(Err(unwanted)) => turn = unwanted,
                Some(Ok(())) | None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
