//! A burst in three regions, in virtual time: the real client on each of 1,000 nodes, over members
//! and origins that are modelled.
//!
//! What is modelled: a member keeps blocks, fetches each once however many wait (single flight),
//! has at most [`ORIGIN_CONCURRENCY`] requests under way at the origin, sheds beyond a queue, and
//! sends at the speed of its network. The origin counts each block. A node reads a block once.

mod model;
mod nodes;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

use model::Totals;
use nodes::run;
use workload::{Shape, Workload};

/// SplitMix64: equal seeds give equal runs.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Standard normal, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        let uniform = (0..12).map(|_| f64::from(u32::try_from(self.next() >> 32).unwrap()));
        uniform.sum::<f64>() / f64::from(u32::MAX) - 6.0
    }

    /// A wait of up to `bound`.
    fn within(&mut self, bound: Duration) -> Duration {
        let us = u64::try_from(bound.as_micros()).unwrap();
        Duration::from_micros(self.below(us))
    }
}

const SMALL: Shape = Shape {
    nodes: 60,
    members: 5,
    regions: 3,
    images: 160,
    starts: 500,
};
/// The burst of the issue: 8,192 starts of 2,700 images within 10 s.
const FULL: Shape = Shape {
    nodes: 1000,
    members: 10,
    regions: 3,
    images: 2700,
    starts: 8192,
};

/// More than the origin carries: members are busy.
const CROWDED: Shape = Shape {
    nodes: 50,
    members: 4,
    regions: 1,
    images: 500,
    starts: 1600,
};

fn shape() -> Shape {
    if std::env::var_os("NACRE_SIM_FULL").is_some() {
        FULL
    } else {
        SMALL
    }
}

/// The seeds of `NACRE_SIM_SEEDS`, such as `3,17` or `0-7`.
fn seeds() -> Vec<u64> {
    let text = std::env::var_os("NACRE_SIM_SEEDS").unwrap_or_else(|| "0-1".into());
    let text = text.into_string().unwrap();
    let parts = text.split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u64>().unwrap()..=last.parse().unwrap()
    });
    parts.collect()
}

fn report(name: &str, seed: u64, regions: &[Totals]) {
    for (number, totals) in regions.iter().enumerate() {
        println!("{name} seed {seed} region {number}: {totals:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_origin_sees_each_block_once_for_each_region() {
    for seed in seeds() {
        let workload = Workload::new(shape(), seed);
        assert_eq!(workload.median_fan_out(), 3);
        let totals = run(&workload, seed, false).await;
        report("quiet", seed, &totals);
        for (number, region) in totals.iter().enumerate() {
            assert_eq!(
                region.origin_reads, region.unique_blocks,
                "seed {seed}, region {number}"
            );
            assert_eq!(region.direct_reads, 0, "seed {seed}, region {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_cost_what_they_had_and_no_read() {
    for seed in seeds() {
        let workload = Workload::new(shape(), seed);
        let totals = run(&workload, seed, true).await;
        report("churn", seed, &totals);
        for (number, region) in totals.iter().enumerate() {
            let bound = region.unique_blocks + region.lost_blocks + region.budgeted;
            assert!(region.churn > 0, "seed {seed}");
            assert!(
                region.origin_reads + region.direct_reads <= bound,
                "seed {seed}, region {number}: {region:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_runs() {
    let workload = Workload::new(CROWDED, 11);
    let mut digests = BTreeMap::new();
    for _ in 0..2 {
        let totals = run(&workload, 11, true).await;
        assert!(totals[0].busy > 0);
        *digests.entry(format!("{totals:?}")).or_insert(0) += 1;
    }
    assert_eq!(digests.len(), 1, "{digests:#?}");
}
