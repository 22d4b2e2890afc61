//! What happens next in a simulation: who begins what, which request is served, who stops to run,
//! and how much time passes.

use super::*;

/// A request that takes long is picked with this chance, until it has waited for [`SLOW_MS`].
const SLOW_PICKS: u64 = 60;
const SLOW_MS: u64 = 150_000;
/// Clocks differ by this much at most, as `CLOCK_SKEW_MAX_MS` says.
const SKEW_MS_MAX: u64 = 30_000;

impl Sim {
    fn name(&mut self) -> RefName {
        let number = self.rng.below(NAMES);
        format!("images/{number}").parse().unwrap()
    }

    pub(super) async fn step(&mut self) {
        for node in 0..NODES {
            let idle = self.nodes[node]
                .1
                .as_ref()
                .is_none_or(JoinHandle::is_finished);
            if idle && self.runs(node) && self.rng.one_in(8) {
                self.start(node);
            }
        }
        let idle = self.collector.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && self.runs(NODES) && self.rng.one_in(12) {
            self.start_gc();
        }
        let calm = if self.calm { 10 } else { 1 };
        if self.rng.one_in(500 * calm) {
            self.crash();
        }
        if self.rng.one_in(250 * calm) {
            let victim = usize::try_from(self.rng.below(NODES as u64 + 1)).unwrap();
            self.freeze(victim);
        }
        if self.rng.one_in(200) {
            let victim = usize::try_from(self.rng.below(NODES as u64 + 1)).unwrap();
            self.set_clock(victim);
        }
        self.settle().await;
        match self.pick() {
            Some(pick) if !self.rng.one_in(30) => self.serve(pick),
            _ => self.let_time_pass(),
        }
        self.settle().await;
        self.check();
    }

    fn runs(&self, node: usize) -> bool {
        self.world.machine(node).frozen_until.is_none()
    }

    /// Chooses what goes on: any request that was sent, and any process of a machine that runs.
    fn pick(&mut self) -> Option<usize> {
        let now = self.world.now();
        let world = Arc::clone(&self.world);
        let mut waiting = world.waiting.lock().unwrap();
        let (mut ready, mut slow) = (Vec::new(), Vec::new());
        for (number, waiting) in waiting.iter_mut().enumerate() {
            if waiting.sent_ms.is_none() && !self.runs(waiting.node) {
                continue;
            }
            let is_slow = *waiting.slow.get_or_insert_with(|| self.rng.one_in(80));
            let is_late = waiting.sent_ms.is_some_and(|sent| sent + SLOW_MS <= now);
            if is_slow && !is_late {
                slow.push(number);
            } else {
                ready.push(number);
            }
        }
        drop(waiting);
        let from_slow = !slow.is_empty() && self.rng.one_in(SLOW_PICKS);
        let from = if from_slow { slow } else { ready };
        if from.is_empty() {
            return None;
        }
        Some(from[usize::try_from(self.rng.below(from.len() as u64)).unwrap()])
    }

    fn serve(&mut self, pick: usize) {
        let waiting = self.world.waiting.lock().unwrap().remove(pick);
        if waiting.is_pause && self.rng.one_in(2) {
            self.freeze(waiting.node);
            self.world.waiting.lock().unwrap().push(waiting);
            return;
        }
        let fate = match self.rng.below(800) {
            0 if self.faults => Fate::FailBefore,
            1 if self.faults => Fate::FailAfter,
            _ => Fate::Pass,
        };
        let _ended: Result<(), Fate> = waiting.go.send(fate);
    }

    fn start(&mut self, node: usize) {
        let (from, to) = (self.name(), self.name());
        self.leases += 1;
        let lease = format!("writer-{}", self.leases);
        let size = 1 + self.rng.below(3);
        let chunks: BTreeSet<_> = (0..size)
            .map(|_| u8::try_from(self.rng.below(CHUNKS)).unwrap())
            .collect();
        let kind = self.rng.below(10);
        let writer = self.nodes[node].0.clone();
        let met = Arc::clone(&self.met);
        let task = async move {
            let done = match kind {
                0..4 => writer.ingest(to, chunks, lease).await,
                4 => writer.upload(to, chunks, lease).await,
                5 | 6 => writer.tag(from, to, lease).await,
                _ => crate::delete_ref(&*writer.store, &to)
                    .await
                    .map_err(Into::into),
            };
            met.lock().unwrap().failed += u64::from(done.is_err());
            done
        };
        self.nodes[node].1 = Some(tokio::spawn(task));
    }

    fn start_gc(&mut self) {
        let half = HOUR_MS / 2;
        let holds = match self.clocks_set_back {
            true => [half, half, 2 * HOUR_MS, 24 * HOUR_MS],
            false => [0, 0, half, 24 * HOUR_MS],
        };
        let hold_ms = holds[usize::try_from(self.rng.below(4)).unwrap()];
        let repacks = self.calm || self.rng.one_in(2);
        self.collector = Some(tokio::spawn(collect(
            Arc::clone(&self.world),
            Arc::clone(&self.met),
            Duration::from_millis(hold_ms),
            repacks,
            self.broken,
        )));
    }

    /// Kills a node or the collector: the requests that it has sent may still be applied.
    fn crash(&mut self) {
        self.met.lock().unwrap().crashed += 1;
        let victim = usize::try_from(self.rng.below(NODES as u64 + 1)).unwrap();
        let task = match self.nodes.get_mut(victim) {
            Some((writer, task)) => {
                *writer = Writer::new(&self.world, &self.met, victim, self.broken);
                task.take()
            }
            None => self.collector.take(),
        };
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Lets a machine stop to run, or suspends it; its wall clock may be set meanwhile.
    fn freeze(&mut self, victim: usize) {
        let for_ms = match self.rng.below(4) {
            0 => 1 + self.rng.below(100_000),
            1 | 2 => 100_000 + self.rng.below(500_000),
            _ => self.rng.below(4 * HOUR_MS),
        };
        // Where both clocks are wrong nothing is left to tell how long it was.
        let is_suspended = !self.clocks_set_back && self.rng.one_in(2);
        let until = self.world.now() + for_ms;
        {
            let mut machines = self.world.machines.lock().unwrap();
            machines[victim].frozen_until = Some(until);
            machines[victim].is_suspended = is_suspended;
        }
        if self.rng.one_in(2) {
            self.set_clock(victim);
        }
    }

    /// Sets the wall clock of a machine, within what clocks may differ, or a writer's back.
    fn set_clock(&mut self, victim: usize) {
        let skew_ms = i64::try_from(self.rng.below(SKEW_MS_MAX)).unwrap();
        let back_ms = i64::try_from(self.rng.below(8 * HOUR_MS)).unwrap();
        let back = self.clocks_set_back && victim < NODES && self.rng.one_in(2);
        self.world.machines.lock().unwrap()[victim].ahead_ms =
            if back { -back_ms } else { skew_ms };
    }

    /// Lets time pass, but no more than a request on its way may take.
    fn let_time_pass(&mut self) {
        let wanted = match self.rng.below(40) {
            0..36 if self.calm => self.rng.below(1000),
            0..28 => self.rng.below(10_000),
            28..36 => self.rng.below(200_000),
            36..39 => self.rng.below(2 * HOUR_MS),
            _ => self.rng.below(30 * HOUR_MS),
        };
        let now = self.world.now();
        let waiting = self.world.waiting.lock().unwrap();
        let oldest = waiting.iter().filter_map(|w| w.sent_ms).min();
        drop(waiting);
        let most = oldest.map_or(u64::MAX, |sent| (sent + REQUEST_MS_MAX).saturating_sub(now));
        self.world.advance(wanted.min(most));
    }
}
