//! What the burst reads.

use std::ops::Range;
use std::time::Duration;

use nacre_blobstore::PackName;

use super::Random;
use crate::client::tests::fake::pack;

/// The burst arrives within this time.
pub(super) const ARRIVAL: Duration = Duration::from_secs(10);
const PACK_BYTES: u64 = 32 << 20;
const RANGE_BYTES_MIN: u64 = 128 << 10;
const RANGE_BYTES_MAX: u64 = 1 << 20;
/// Ranges that a start reads of what its image shares with others, and of its own.
const SHARED_RANGES: usize = 30;
const OWN_RANGES: Range<u64> = 20..70;
/// Images that share one base.
const IMAGES_OF_BASE: u64 = 12;
/// How far fan-outs are from their median: of the logarithm.
const FAN_OUT_SIGMA: f64 = 0.4;

/// How large the world is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) nodes: usize,
    /// Of each region.
    pub(super) members: usize,
    pub(super) regions: usize,
    pub(super) images: usize,
    pub(super) starts: usize,
}

/// A range of a pack that a start reads in one request.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) id: u64,
    pub(super) pack: PackName,
    pub(super) range: Range<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) at: Duration,
    pub(super) node: usize,
    pub(super) image: usize,
}

#[derive(Debug)]
pub(super) struct Workload {
    pub(super) shape: Shape,
    /// What a start of each image reads.
    pub(super) images: Vec<Vec<Read>>,
    pub(super) starts: Vec<Start>,
}

impl Workload {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut packs = 0;
        let bases = shape.images as u64 / IMAGES_OF_BASE + 1;
        let bases: Vec<Vec<Read>> = (0..bases)
            .map(|_| reads(&mut random, &mut packs, SHARED_RANGES))
            .collect();
        let mut image = || {
            let base = random.below(bases.len() as u64);
            let own = OWN_RANGES.start + random.below(OWN_RANGES.end - OWN_RANGES.start);
            let own = reads(&mut random, &mut packs, usize::try_from(own).unwrap());
            let base = &bases[usize::try_from(base).unwrap()];
            base.iter().cloned().chain(own).collect()
        };
        let images: Vec<Vec<Read>> = (0..shape.images).map(|_| image()).collect();
        let mut starts = Vec::new();
        for (image, count) in fan_outs(&mut random, shape).into_iter().enumerate() {
            for _ in 0..count {
                starts.push(Start {
                    at: random.within(ARRIVAL),
                    node: usize::try_from(random.below(shape.nodes as u64)).unwrap(),
                    image,
                });
            }
        }
        Self {
            shape,
            images,
            starts,
        }
    }

    pub(super) fn median_fan_out(&self) -> usize {
        let mut counts = vec![0; self.images.len()];
        self.starts
            .iter()
            .for_each(|start| counts[start.image] += 1);
        counts.sort_unstable();
        counts[counts.len() / 2]
    }
}

/// Makes `count` reads of new packs.
fn reads(random: &mut Random, packs: &mut u32, count: usize) -> Vec<Read> {
    let own = count.div_ceil(16).max(1);
    let first = *packs;
    *packs += u32::try_from(own).unwrap();
    (0..count)
        .map(|_| {
            let number = first + u32::try_from(random.below(own as u64)).unwrap();
            let len = RANGE_BYTES_MIN + random.below(RANGE_BYTES_MAX - RANGE_BYTES_MIN);
            let start = random.below(PACK_BYTES - len);
            Read {
                id: random.next(),
                pack: pack(number),
                range: start..start + len,
            }
        })
        .collect()
}

/// How often each image is started: log-normal around 3, and all starts together.
fn fan_outs(random: &mut Random, shape: Shape) -> Vec<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small, positive"
    )]
    let mut draw = || {
        (3.0 * (FAN_OUT_SIGMA * random.normal()).exp())
            .round()
            .max(1.0) as u64
    };
    let mut counts: Vec<u64> = (0..shape.images).map(|_| draw()).collect();
    // The total is given; images with more than the median make up for it.
    loop {
        let total: u64 = counts.iter().sum();
        let image = usize::try_from(random.below(counts.len() as u64)).unwrap();
        match total.cmp(&(shape.starts as u64)) {
            std::cmp::Ordering::Equal => return counts,
            std::cmp::Ordering::Greater if counts[image] > 3 => counts[image] -= 1,
            std::cmp::Ordering::Less if counts[image] > 3 => counts[image] += 1,
            std::cmp::Ordering::Greater | std::cmp::Ordering::Less => {}
        }
    }
}
