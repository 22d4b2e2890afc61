use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{ContentId, Record, RecordId, RecordKind, Tier, TraceEntry, Traced};

use super::super::publisher::trace_record;
use super::*;
use crate::oci::OciDigest;

/// A clock that is set by hand.
#[derive(Debug)]
struct Hand(AtomicU64);

#[async_trait::async_trait]
impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, _: Duration) {}
}

fn tree(seed: &str) -> TreeId {
    TreeId::new(Digest::of(seed.as_bytes()))
}

fn layers(seeds: &[&str]) -> Vec<ImageLayer> {
    let digest = OciDigest::of(b"");
    let layer = |seed: &&str| ImageLayer {
        digest: digest.clone(),
        diff_id: digest.clone(),
        chain_id: digest.clone(),
        tree: tree(seed).to_string(),
    };
    seeds.iter().map(layer).collect()
}

fn kin(name: &str, base: &str, trees: &[&str]) -> Kin {
    let top = tree(trees.last().unwrap());
    Kin::of(name, base, &layers(trees), top)
}

/// Stores a trace of some contents.
async fn stored(store: &dyn BlobStore, contents: &[&str]) -> RecordId {
    let entry = |name: &&str| TraceEntry {
        what: Traced::Content {
            content: ContentId::new(Digest::of(name.as_bytes())),
            size_bytes: 9,
            offset_bytes: 0,
            len_bytes: 9,
        },
        starts: 1,
        unread: 0,
        at_us: 0,
        waited_us: 0,
        tier: Tier::Origin,
    };
    let trace = Trace {
        starts: 1,
        entries: contents.iter().map(entry).collect(),
    };
    let record = trace_record(&trace, BTreeSet::new());
    record.write(store).await.unwrap()
}

struct Lab {
    store: Arc<dyn BlobStore>,
    clock: Hand,
}

impl Lab {
    fn new() -> Self {
        Self {
            store: memory_store(),
            clock: Hand(AtomicU64::new(10_000_000)),
        }
    }

    async fn lend(&self, kin: &Kin, contents: &[&str]) {
        let target = Ref {
            record: stored(&*self.store, contents).await,
            changed_ms: self.clock.now_ms(),
        };
        kin.lend(&*self.store, &self.clock, target).await;
    }

    /// How many contents a borrowed trace names, and whether it begins with that one.
    async fn borrowed(&self, kin: &Kin, first: &str) -> Option<(usize, bool)> {
        let borrowed = kin.borrow_trace(&*self.store).await?;
        let entries = borrowed.trace.entries;
        let Traced::Content { content, .. } = entries[0].what else {
            return None;
        };
        let is_first = content == ContentId::new(Digest::of(first.as_bytes()));
        Some((entries.len(), is_first))
    }
}

#[test]
fn images_of_one_repository_have_a_name_in_common() {
    let name = repository("host:5000/a/b:v1");
    assert!(name.is_some());
    assert_eq!(name, repository("host:5000/a/b"));
    assert_eq!(name, repository("host:5000/a/b@sha256:00"));
    assert_ne!(name, repository("host:5000/a/c:v1"));
    assert_ne!(repository("b:v1"), name);
    assert_eq!(repository(&Digest::of(b"x").to_string()), None);
}

#[tokio::test]
async fn the_nearest_kin_come_first_and_two_are_enough() {
    let lab = Lab::new();
    let ours = kin("new:v1", "new", &["1", "2", "3"]);
    assert_eq!(lab.borrowed(&ours, "").await, None);
    lab.lend(&kin("other:v1", "other", &["1", "x"]), &["low", "both"])
        .await;
    assert_eq!(lab.borrowed(&ours, "low").await, Some((2, true)));
    // Each ref that the first one moved is left alone for a while, the others are moved.
    lab.lend(&kin("near:v1", "near", &["1", "2", "y"]), &["high", "both"])
        .await;
    assert_eq!(lab.borrowed(&ours, "high").await, Some((3, true)));
    lab.lend(&kin("new:v0", "old", &["z"]), &["tag"]).await;
    assert_eq!(lab.borrowed(&ours, "tag").await, Some((3, true)));
    lab.lend(&kin("snapshot", "new", &["s"]), &["line"]).await;
    assert_eq!(lab.borrowed(&ours, "line").await, Some((2, true)));
}

#[tokio::test]
async fn what_is_above_a_tree_is_not_its_kin() {
    let lab = Lab::new();
    let base = Kin::of("a", "a", &layers(&["1", "2"]), tree("1"));
    lab.lend(&kin("b", "b", &["0", "2"]), &["x"]).await;
    assert_eq!(lab.borrowed(&base, "x").await, None);
    let whole = Kin::of("a", "a", &layers(&["1", "2"]), tree("2"));
    assert_eq!(lab.borrowed(&whole, "x").await, Some((1, true)));
}

#[tokio::test]
async fn a_ref_is_moved_once_a_minute() {
    let lab = Lab::new();
    let ours = kin("a", "a", &["1"]);
    lab.lend(&ours, &["first"]).await;
    lab.clock.0.fetch_add(59_000, Ordering::Relaxed);
    lab.lend(&ours, &["second"]).await;
    assert_eq!(lab.borrowed(&ours, "first").await, Some((1, true)));
    lab.clock.0.fetch_add(1_000, Ordering::Relaxed);
    lab.lend(&ours, &["third"]).await;
    assert_eq!(lab.borrowed(&ours, "third").await, Some((1, true)));
    // Written by a clock that is an hour ahead.
    lab.clock.0.fetch_sub(3_600_000, Ordering::Relaxed);
    lab.lend(&ours, &["fourth"]).await;
    assert_eq!(lab.borrowed(&ours, "fourth").await, Some((1, true)));
}

#[tokio::test]
async fn what_is_no_trace_is_not_borrowed() {
    let lab = Lab::new();
    let (near, far) = (kin("a", "a", &["1", "2"]), kin("b", "b", &["1", "3"]));
    lab.lend(&far, &["x"]).await;
    let record = Record {
        kind: RecordKind::Image,
        trees: Vec::new(),
        packs: BTreeSet::new(),
        metadata_images: BTreeMap::new(),
        payload: Vec::new(),
    };
    let of_image = record.write(&*lab.store).await.unwrap();
    let target = Ref {
        record: of_image,
        changed_ms: lab.clock.now_ms(),
    };
    near.lend(&*lab.store, &lab.clock, target).await;
    assert_eq!(lab.borrowed(&near, "x").await, Some((1, true)));
}
