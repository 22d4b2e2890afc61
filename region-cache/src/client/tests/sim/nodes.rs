//! The nodes, and what happens to the members meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use nacre_blobstore::testing::TokioClock;
use nacre_blobstore::{ChunkSource, Clock};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::Random;
use super::model::{Region, Totals};
use super::workload::{ARRIVAL, Read, Workload};
use crate::client::{PATIENCE_MAX, RegionCache};

/// Ranges of one start that are under way at once, as in the reader's prefetch.
const RANGES_MAX: usize = 16;
/// Members that come or go in each region during the burst.
const CHURN: u64 = 6;
/// How much later than another one a node may learn of that.
const LIST_SKEW: Duration = Duration::from_secs(2);
/// How long a member that was killed stays away at most.
const AWAY_MAX: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Node {
    cache: RegionCache,
    region: Arc<Region>,
    /// What is on the node, or on its way.
    read: Mutex<BTreeMap<u64, Arc<OnceCell<()>>>>,
}

impl Node {
    async fn read(&self, read: &Read, clock: &dyn Clock) {
        let cell = {
            let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(read.id).or_default())
        };
        let began = clock.elapsed();
        let fetch = || async {
            if self
                .cache
                .fetch(read.pack, read.range.clone())
                .await
                .is_err()
            {
                // As the reader does with its next tier.
                self.region.direct(&read.pack.key(), &read.range).await;
            }
        };
        cell.get_or_init(fetch).await;
        self.region.note_read(clock.elapsed().saturating_sub(began));
    }
}

/// Plays a burst. Returns what it came to in each region.
pub(super) async fn run(workload: &Workload, seed: u64, churn: bool) -> Vec<Totals> {
    let shape = workload.shape;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let region = |_| Arc::new(Region::with_members(shape.members));
    let regions: Vec<Arc<Region>> = (0..shape.regions).map(region).collect();
    let names: BTreeSet<String> = (0..shape.members).map(|n| format!("m{n}:80")).collect();
    let node = |number: usize| {
        let region = Arc::clone(&regions[number % shape.regions]);
        let (wire, clock) = (Arc::clone(&region) as _, Arc::clone(&clock));
        Arc::new(Node {
            cache: RegionCache::over(wire, &names, clock, seed ^ number as u64, PATIENCE_MAX),
            region,
            read: Mutex::default(),
        })
    };
    let nodes: Vec<Arc<Node>> = (0..shape.nodes).map(node).collect();
    let mut churns = JoinSet::new();
    for (number, region) in regions.iter().enumerate().filter(|_| churn) {
        let in_region = nodes.iter().skip(number).step_by(shape.regions).cloned();
        let in_region = in_region.collect();
        let random = Random(seed.wrapping_mul(31).wrapping_add(number as u64));
        churns.spawn(upset(Arc::clone(region), in_region, names.clone(), random));
    }
    let mut starts = JoinSet::new();
    for start in &workload.starts {
        let (at, node) = (start.at, Arc::clone(&nodes[start.node]));
        let (reads, clock) = (workload.images[start.image].clone(), Arc::clone(&clock));
        starts.spawn(async move {
            tokio::time::sleep(at).await;
            let reads = futures::stream::iter(reads);
            let read = |read: Read| {
                let (node, clock) = (Arc::clone(&node), Arc::clone(&clock));
                async move { node.read(&read, &*clock).await }
            };
            reads.for_each_concurrent(RANGES_MAX, read).await;
            let over_at = clock.elapsed();
            node.region.note_start(over_at.saturating_sub(at), over_at);
        });
    }
    while let Some(start) = starts.join_next().await {
        start.unwrap();
    }
    churns.shutdown().await;
    let of_region = |number: usize| {
        let in_region = nodes.iter().skip(number).step_by(shape.regions);
        let stats = in_region.map(|node| node.cache.stats());
        // A range has two blocks, or three.
        let budgeted: u64 = stats
            .map(|stats| 3 * (stats.doubted + stats.relieved))
            .sum();
        regions[number].totals(budgeted)
    };
    (0..shape.regions).map(of_region).collect()
}

/// Kills, restarts, adds and removes members of a region.
async fn upset(
    region: Arc<Region>,
    nodes: Vec<Arc<Node>>,
    mut names: BTreeSet<String>,
    mut random: Random,
) {
    let mut list_changes = JoinSet::new();
    for number in 0..CHURN {
        tokio::time::sleep(random.within(ARRIVAL / 3)).await;
        let picked = random.below(names.len() as u64);
        let name = names
            .iter()
            .nth(usize::try_from(picked).unwrap())
            .unwrap()
            .clone();
        match random.below(4) {
            0 => {
                let new = format!("n{number}:80");
                region.add(&new);
                names.insert(new);
                // What moves to it is read again.
                region.note_churn(names.len(), 1);
            }
            1 if names.len() > 3 => {
                region.note_churn(names.len(), 1);
                names.remove(&name);
            }
            cold => {
                // Once while it is away, and, when it has lost all, once more.
                region.note_churn(names.len(), if cold == 2 { 2 } else { 1 });
                region.kill(&name, cold == 2);
                let (region, away) = (Arc::clone(&region), random.within(AWAY_MAX));
                list_changes.spawn(async move {
                    tokio::time::sleep(away).await;
                    region.restart(&name);
                });
                continue;
            }
        }
        for node in &nodes {
            let (node, names, skew) = (Arc::clone(node), names.clone(), random.within(LIST_SKEW));
            list_changes.spawn(async move {
                tokio::time::sleep(skew).await;
                node.cache.fetcher.members.replace(&names);
            });
        }
    }
    while list_changes.join_next().await.is_some() {}
}
