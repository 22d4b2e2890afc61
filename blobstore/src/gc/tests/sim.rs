//! A deterministic simulation: several nodes over one store that fails, every request a point at
//! which anything else may happen. Nodes stop to run, are suspended, die, and their clocks differ
//! and are set. One seed decides everything.
//!
//! That it finds what it is for is shown by [`broken`]: with one of the steps of a writer or of the
//! collector left out, a ref reaches what is gone within [`BROKEN_SEEDS`] seeds. Two are not shown so,
//! for the others make up for them: a writer that does not check the time, a collector that heeds no
//! lease.
//!
//! `NACRE_SIM_SEEDS=FIRST-LAST` or a list tells the seeds; `make sim` runs many. A failure prints its
//! seed.

mod broken;
mod node;
mod schedule;
mod world;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::super::*;
use crate::pack::ItemKind;
use crate::{Node as TreeNode, PackIndex, Ref, Tree, UnverifiedBytes, Version};
use node::{Broken, Failure, Met, Writer, chunk};
use world::{Fate, Machine, SimClock, SimStore, World};

/// Seeds of an ordinary test run.
const SEEDS_DEFAULT: std::ops::Range<u64> = 0..40;
/// Seeds within which each broken writer and collector must be found.
const BROKEN_SEEDS: u64 = 500;
const NODES: usize = 2;
const NAMES: u64 = 3;
const CHUNKS: u64 = 4;
const STEPS: u64 = 4000;
/// How long a request may take until it is applied: what `DOOM_ENDS_MS` allows for.
const REQUEST_MS_MAX: u64 = 170_000;
const HOUR_MS: u64 = 3600 * 1000;

/// A generator that is the same everywhere: splitmix64, by Sebastiano Vigna (public domain).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

type Task = JoinHandle<Result<(), Failure>>;

struct Sim {
    rng: Rng,
    world: Arc<World>,
    met: Arc<Mutex<Met>>,
    nodes: Vec<(Writer, Option<Task>)>,
    collector: Option<Task>,
    leases: u64,
    /// Requests fail now and then.
    faults: bool,
    /// Whether clocks of writers are set back by hours. Then leases protect nobody, and the hold
    /// is never short.
    clocks_set_back: bool,
    /// Hardly anything stops to run, so that long runs of the collector come to their ends: those
    /// that repack.
    calm: bool,
    broken: Option<Broken>,
    /// What a ref reaches and is not there.
    violation: Option<String>,
}

impl Sim {
    fn new(seed: u64, broken: Option<Broken>) -> Self {
        let world = Arc::new(World::default());
        world.now_ms.store(1_000_000_000, Ordering::SeqCst);
        *world.machines.lock().unwrap() = vec![Machine::default(); NODES + 1];
        let met = Arc::default();
        let node = |node| (Writer::new(&world, &met, node, broken), None);
        Self {
            rng: Rng(seed),
            clocks_set_back: seed % 4 == 3,
            calm: seed % 5 >= 3,
            broken,
            violation: None,
            nodes: (0..NODES).map(node).collect(),
            world,
            met,
            collector: None,
            leases: 0,
            faults: true,
        }
    }

    /// Lets all tasks run until each waits for the scheduler or for time.
    async fn settle(&self) {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    /// Checks that every ref reaches a record, packs and metadata images that are there.
    fn check(&mut self) {
        if self.world.changed.swap(0, Ordering::SeqCst) > 0 && self.violation.is_none() {
            self.violation = self.missing();
        }
    }

    fn missing(&self) -> Option<String> {
        if self.world.refs_deleted_by_gc.load(Ordering::SeqCst) > 0 {
            return Some("collection deleted a ref".to_owned());
        }
        let objects = self.world.objects.lock().unwrap();
        let moves = moves_of(&objects);
        for (key, (bytes, _)) in objects
            .iter()
            .filter(|(k, _)| k.as_str().starts_with("refs/"))
        {
            let target = Ref::decode(bytes).unwrap();
            let Some((bytes, _)) = objects.get(&target.record.key()) else {
                return Some(format!("{key}: its record is gone"));
            };
            let record = Record::decode(target.record, bytes).unwrap();
            for needed in Collected::of_record(target.record, &record, &moves) {
                for part in needed.keys() {
                    if !objects.contains_key(&part) {
                        return Some(format!("{key}: {part} is gone"));
                    }
                }
            }
        }
        None
    }

    /// Every ref reaches all its chunks, with the right bytes.
    fn check_bytes(&self) {
        let objects = self.world.objects.lock().unwrap();
        let moves = moves_of(&objects);
        for (key, (bytes, _)) in objects
            .iter()
            .filter(|(k, _)| k.as_str().starts_with("refs/"))
        {
            let id = Ref::decode(bytes).unwrap().record;
            let record = Record::decode(id, &objects[&id.key()].0).unwrap();
            let mut items = std::collections::BTreeMap::new();
            for pack in moves.resolve(id, &record.packs) {
                let index = PackIndex::decode(pack, &objects[&pack.index_key()].0).unwrap();
                let body = &objects[&pack.key()].0;
                for (frame, number, item) in index.items() {
                    let entry = &index.frames()[frame as usize];
                    let (start, end) = (entry.range().start, entry.range().end);
                    let at = |o: u64| usize::try_from(o).unwrap();
                    let stored = UnverifiedBytes::new(body.slice(at(start)..at(end)));
                    let frame = entry.decode(stored).unwrap();
                    items.insert(item.kind, frame.item(number).unwrap().into_untrusted());
                }
            }
            let root = record.trees[0];
            let root = Tree::decode(root, &items[&ItemKind::Tree(root)]).unwrap();
            let (_, top) = root.as_root().unwrap();
            let top = Tree::decode(top, &items[&ItemKind::Tree(top)]).unwrap();
            assert!(!top.entries().is_empty(), "{key}");
            for entry in top.entries() {
                let number = std::str::from_utf8(&entry.name).unwrap().parse().unwrap();
                let expected = chunk(number);
                assert_eq!(items[&ItemKind::Chunk(expected.id())], *expected.bytes());
                assert!(matches!(entry.node, TreeNode::File { .. }));
            }
        }
    }

    /// Runs a task to its end, passing all that waits.
    async fn finish(&mut self, task: Task) -> Result<(), Failure> {
        while !task.is_finished() {
            self.settle().await;
            let waiting = self.world.waiting.lock().unwrap().pop();
            match waiting {
                Some(waiting) => {
                    let _ended: Result<(), Fate> = waiting.go.send(Fate::Pass);
                }
                None if !task.is_finished() => self.world.advance(1000),
                None => {}
            }
            self.check();
        }
        task.await.unwrap()
    }

    /// Takes all refs away and collects until nothing is left.
    async fn wind_up(&mut self) {
        for (_, task) in &mut self.nodes {
            if let Some(task) = task.take() {
                task.abort();
            }
        }
        if let Some(task) = self.collector.take() {
            task.abort();
        }
        self.world.machines.lock().unwrap().fill(Machine::default());
        // What is on its way is lost.
        self.world.waiting.lock().unwrap().clear();
        self.settle().await;
        self.check_bytes();
        self.world.advance(25 * HOUR_MS);
        let refs = |key: &Key| key.as_str().starts_with("refs/");
        self.world
            .objects
            .lock()
            .unwrap()
            .retain(|key, _| !refs(key));
        for _ in 0..2 {
            let (world, met) = (Arc::clone(&self.world), Arc::clone(&self.met));
            let task = tokio::spawn(collect(world, met, GC_HOLD, true, None));
            self.finish(task).await.unwrap();
            self.world.advance(25 * HOUR_MS);
        }
        assert_eq!(self.world.keys(), ["gc/epoch"]);
    }
}

/// Reads all notes of what moved.
fn moves_of(objects: &std::collections::BTreeMap<Key, (bytes::Bytes, u64)>) -> Moves {
    let mut moves = Moves::default();
    for (key, (bytes, version)) in objects {
        if let Some(pack) = moved::moved_pack(key) {
            let moved = Moved::decode(bytes).unwrap();
            moves.0.insert(pack, (moved, Version(version.to_string())));
        }
    }
    moves
}

async fn collect(
    world: Arc<World>,
    met: Arc<Mutex<Met>>,
    hold: Duration,
    repacks: bool,
    broken: Option<Broken>,
) -> Result<(), Failure> {
    let stopped = (broken == Some(Broken::EndlessDoom)).then(|| world.now());
    let clock = Arc::new(SimClock {
        world: Arc::clone(&world),
        node: NODES,
        stopped,
    });
    let store = Arc::new(SimStore {
        world,
        node: NODES,
        is_gc: true,
    });
    let options = GcOptions {
        hold,
        repack_bytes: if repacks { 1 << 20 } else { 0 },
        // All packs of a kind become one, whatever is needed of them.
        repack_share_percent: 101,
        ..GcOptions::default()
    };
    let report = gc(store, clock, options).await?;
    let mut met = met.lock().unwrap();
    met.deleted += report.deleted;
    met.rescued += report.rescued;
    met.repacked += report.repacked;
    Ok(())
}

/// Runs one seed, and returns what it met and the hash of its history, or what a ref reaches that is
/// gone.
fn run(seed: u64, broken: Option<Broken>) -> Result<(Met, blake3::Hash), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut sim = Sim::new(seed, broken);
        for _ in 0..STEPS {
            sim.step().await;
            if let Some(violation) = sim.violation {
                return Err(violation);
            }
        }
        sim.faults = false;
        sim.wind_up().await;
        let history = sim.world.history.lock().unwrap().finalize();
        let met = *sim.met.lock().unwrap();
        sim.violation.map_or(Ok((met, history)), Err)
    })
}

fn seeds() -> Vec<u64> {
    #[expect(clippy::disallowed_methods, reason = "the test's own parameter")]
    let Ok(text) = std::env::var("NACRE_SIM_SEEDS") else {
        return SEEDS_DEFAULT.collect();
    };
    let number = |text: &str| text.trim().parse().expect("a number of NACRE_SIM_SEEDS");
    match text.split_once('-') {
        Some((first, last)) => (number(first)..=number(last)).collect(),
        None => text.split(',').map(number).collect(),
    }
}

#[test]
fn no_ref_ever_reaches_what_is_gone_and_the_store_returns_to_empty() {
    let mut all = Met::default();
    let seeds = seeds();
    for seed in &seeds {
        let repeat = format!("seed {seed} fails; repeat it: NACRE_SIM_SEEDS={seed} make sim");
        let outcome = std::panic::catch_unwind(|| run(*seed, None));
        let outcome = outcome.unwrap_or_else(|panic| {
            println!("{repeat}");
            std::panic::resume_unwind(panic)
        });
        let (met, _) = outcome.unwrap_or_else(|violation| panic!("{violation}; {repeat}"));
        all.stored += met.stored;
        all.uploaded += met.uploaded;
        all.reused += met.reused;
        all.gone += met.gone;
        all.failed += met.failed;
        all.deleted += met.deleted;
        all.rescued += met.rescued;
        all.repacked += met.repacked;
        all.crashed += met.crashed;
    }
    println!("{} seeds: {all:?}", seeds.len());
    if seeds.len() >= 40 {
        let Met {
            stored,
            uploaded,
            reused,
            gone,
            failed,
            deleted,
            rescued,
            repacked,
            crashed,
        } = all;
        for (what, count) in [
            ("stored", stored),
            ("uploaded", uploaded),
            ("reused", reused),
            ("gone", gone),
            ("failed", failed),
            ("deleted", deleted),
            ("rescued", rescued),
            ("repacked", repacked),
            ("crashed", crashed),
        ] {
            assert!(count > 0, "the simulation met nothing that was {what}");
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    let history = |seed| run(seed, None).unwrap().1;
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}
