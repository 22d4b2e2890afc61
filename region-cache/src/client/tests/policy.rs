//! Whom the client asks, and when, in virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use nacre_blobstore::{ChunkSource, Digest, Key, PackName, StoreError, UnverifiedBytes};
use tokio::time::Instant;

use super::fake::{FakeWire, Says, Script, body, pack, region, region_with};
use crate::client::RegionCache;
use crate::client::breaker::{FAILURES_MAX, REST_FIRST};
use crate::client::fetch::{BUSY_MAX, PULSE_PART, PULSES_MAX, SILENT_MAX, STALLED};
use crate::client::place::{SPAN_BYTES, Spot};

const MS: Duration = Duration::from_millis(1);
/// Fetches after which the client knows how long answers take.
const TRAINING: u32 = 64;

async fn get(region: &RegionCache, pack: PackName) -> Result<UnverifiedBytes, StoreError> {
    region.fetch(pack, 0..100).await
}

/// The members of a pack's first span, best first.
fn ranked(region: &RegionCache, pack: PackName) -> Vec<String> {
    let members = region.fetcher.members.ranked(Spot::of(&pack.key(), 0));
    members
        .iter()
        .map(|member| member.name.to_string())
        .collect()
}

/// A pack whose first member is `member`.
fn pack_of(region: &RegionCache, member: &str) -> PackName {
    let mut packs = (0..).map(pack);
    packs
        .find(|pack| ranked(region, *pack)[0] == member)
        .unwrap()
}

async fn train(region: &RegionCache, wire: &FakeWire) {
    for number in 0..TRAINING {
        get(region, pack(number)).await.unwrap();
    }
    wire.take_asks();
}

#[expect(clippy::disallowed_methods, reason = "virtual time")]
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let done = work.await;
    (done, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn every_node_asks_the_same_member_and_spans_spread() {
    let (region, wire) = region(3);
    for number in 0..300 {
        let bytes = region.fetch(pack(number), 5..9).await.unwrap();
        let first = ranked(&region, pack(number)).remove(0);
        assert_eq!(bytes.giver(), Some(&*first));
        assert_eq!(bytes.into_untrusted(), body(&pack(number).key(), &(5..9)));
    }
    let asks = wire.take_asks();
    assert!(
        asks.values().all(|count| (60..140).contains(count)),
        "{asks:?}"
    );
    // Over the end of a span: both parts, each from its own member.
    let range = SPAN_BYTES - 3..SPAN_BYTES + 4;
    for number in 0..10 {
        let bytes = region.fetch(pack(number), range.clone()).await.unwrap();
        assert_eq!(bytes.into_untrusted(), body(&pack(number).key(), &range));
    }
    let told = wire.told();
    let parts = told.asks.iter().map(|(_, ask)| ask.range.clone().unwrap());
    assert_eq!(parts.map(|part| part.end - part.start).sum::<u64>(), 70);
    assert_eq!(told.asks.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_slow_member_is_hedged_by_what_the_second_has() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    let wanted = pack_of(&region, "m0:1");
    let second = ranked(&region, wanted).remove(1);
    wire.set("m0:1", Script::new(Says::Bytes, 500));
    // The second has not got it: the origin is not asked again for it, and the first is awaited.
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert_eq!((bytes.unwrap().giver(), took), (Some("m0:1"), 500 * MS));
    let asks = std::mem::take(&mut wire.told().asks);
    let asked: Vec<_> = asks
        .iter()
        .map(|(m, ask)| (m.as_str(), ask.only_if_cached))
        .collect();
    assert_eq!(asked, [("m0:1", false), (second.as_str(), true)]);
    // It has.
    wire.set(
        &second,
        Script {
            cached: true,
            ..Script::new(Says::Bytes, 10)
        },
    );
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert_eq!(bytes.unwrap().giver(), Some(&*second));
    assert_eq!(took, 20 * MS);
    let stats = region.stats();
    assert_eq!((stats.hedged, stats.hedged_won, stats.doubted), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_guessed_is_asked_of_one_member_that_may_have_it() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    let wanted = pack_of(&region, "m0:1");
    let guess = || timed(region.fetch_cached(wanted, 0..5));
    let (guessed, took) = guess().await;
    assert!(matches!(guessed, Err(StoreError::NotFound(_))));
    assert_eq!(took, 10 * MS);
    let has = Script {
        cached: true,
        ..Script::new(Says::Bytes, 9)
    };
    wire.set("m0:1", has);
    assert_eq!(guess().await.0.unwrap().giver(), Some("m0:1"));
    // It is not waited for.
    wire.set("m0:1", Script::new(Says::Silent, 0));
    let (guessed, took) = guess().await;
    assert!(matches!(guessed, Err(StoreError::NotFound(_))));
    assert_eq!(took, 10 * MS);
    let asks = std::mem::take(&mut wire.told().asks);
    let asked: Vec<_> = asks
        .iter()
        .map(|(m, ask)| (m.as_str(), ask.only_if_cached))
        .collect();
    assert_eq!(asked, [("m0:1", true); 3]);
    let stats = region.stats();
    assert_eq!((stats.hedged, stats.passed_by, stats.failed), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn hedges_are_few_when_everything_is_slow() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    wire.set_all(&Script::new(Says::Bytes, 400));
    for round in 0..10 {
        let fetches = (0..100).map(|number| get(&region, pack(round * 100 + number)));
        assert!(join_all(fetches).await.iter().all(Result::is_ok));
    }
    let stats = region.stats();
    assert!(
        stats.hedged > 0 && stats.hedged <= 16 + 1064 / 20,
        "{stats:?}"
    );
    assert_eq!((stats.doubted, stats.passed_by), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_member_costs_few_readers_a_stall_and_then_none() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    let wanted = pack_of(&region, "m0:1");
    wire.set("m0:1", Script::new(Says::Silent, 0));
    for _ in 0..FAILURES_MAX {
        let (bytes, took) = timed(get(&region, wanted)).await;
        assert_ne!(bytes.unwrap().giver(), Some("m0:1"));
        assert_eq!(took, STALLED + STALLED / PULSE_PART + 10 * MS);
    }
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert!(bytes.is_ok());
    assert_eq!(took, 10 * MS, "it rests");
    assert_eq!(region.stats().members_down, 1);
    assert_eq!(region.stats().passed_by, 0);
    // What may not be doubted any more is waited for, but not for ever.
    wire.set_all(&Script::new(Says::Silent, 0));
    let (error, took) = timed(get(&region, pack_of(&region, "m1:1"))).await;
    assert!(error.is_err() && took <= 3 * SILENT_MAX, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_has_not_got_it_yet_is_not_stuck() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    let wanted = pack_of(&region, "m0:1");
    wire.set("m0:1", Script::new(Says::Bytes, 5000));
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert_eq!((bytes.unwrap().giver(), took), (Some("m0:1"), 5000 * MS));
    let asks = std::mem::take(&mut wire.told().asks);
    let in_full = asks.iter().filter(|(_, ask)| !ask.only_if_cached);
    assert_eq!(in_full.count(), 1);
    // Nor is it trusted for ever: it may have lost the way to the origin.
    wire.set("m0:1", Script::new(Says::Bytes, 60_000));
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert_ne!(bytes.unwrap().giver(), Some("m0:1"));
    assert_eq!(took, PULSES_MAX * STALLED + 20 * MS);
    assert_eq!(region.stats().doubted, 1);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_of_all_do_not_send_the_clients_to_the_origin() {
    // An empty cache under a burst: all wait for the origin, long, or very long.
    for (answer_ms, doubts_max) in [(5000, 0), (9000, 3 + 464 / 100)] {
        let (region, wire) = region(3);
        train(&region, &wire).await;
        wire.set_all(&Script::new(Says::Bytes, answer_ms));
        let fetches = (0..400).map(|number| get(&region, pack(number)));
        let (fetched, took) = timed(join_all(fetches)).await;
        assert!(fetched.iter().all(Result::is_ok));
        assert_eq!(took, Duration::from_millis(answer_ms));
        let stats = region.stats();
        assert!(stats.doubted <= doubts_max, "{stats:?}");
        assert_eq!((stats.passed_by, stats.members_down), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_member_costs_its_share_and_comes_back() {
    let (region, wire) = region(3);
    let wanted = pack_of(&region, "m1:1");
    let second = ranked(&region, wanted).remove(1);
    wire.set("m1:1", Script::new(Says::Dead, 0));
    for _ in 0..10 {
        assert_eq!(get(&region, wanted).await.unwrap().giver(), Some(&*second));
    }
    let asks = wire.take_asks();
    assert_eq!(asks["m1:1"], FAILURES_MAX as usize);
    wire.set("m1:1", Script::new(Says::Bytes, 10));
    assert_eq!(
        get(&region, wanted).await.unwrap().giver(),
        Some(&*second),
        "it rests"
    );
    tokio::time::sleep(REST_FIRST).await;
    assert_eq!(get(&region, wanted).await.unwrap().giver(), Some("m1:1"));
    assert_eq!(region.stats().members_down, 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_back_is_asked_again_though_hedges_are_faster() {
    let (region, wire) = region(3);
    train(&region, &wire).await;
    let wanted = pack_of(&region, "m0:1");
    let second = ranked(&region, wanted).remove(1);
    wire.set("m0:1", Script::new(Says::Dead, 0));
    for _ in 0..FAILURES_MAX {
        get(&region, wanted).await.unwrap();
    }
    assert_eq!(region.stats().members_down, 1);
    // It comes back empty, and has to ask the origin; the second has it.
    wire.set("m0:1", Script::new(Says::Bytes, 500));
    let cached = Script {
        cached: true,
        ..Script::new(Says::Bytes, 10)
    };
    wire.set(&second, cached);
    tokio::time::sleep(REST_FIRST).await;
    let (bytes, took) = timed(get(&region, wanted)).await;
    assert_eq!(bytes.unwrap().giver(), Some(&*second));
    assert!(took < 500 * MS, "{took:?}");
    tokio::time::sleep(500 * MS).await;
    assert_eq!(region.stats().members_down, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_region_the_origin_is_asked_at_once_and_the_region_comes_back() {
    let (region, wire) = region(3);
    wire.set_all(&Script::new(Says::Dead, 0));
    for number in 0..50 {
        let (error, took) = timed(get(&region, pack(number))).await;
        assert!(error.unwrap_err().is_retryable());
        assert_eq!(took, Duration::ZERO);
    }
    assert_eq!(region.stats().members_down, 3);
    assert!(
        wire.take_asks()
            .values()
            .all(|count| *count <= FAILURES_MAX as usize)
    );
    wire.set_all(&Script::new(Says::Bytes, 10));
    tokio::time::sleep(REST_FIRST).await;
    for number in 0..50 {
        get(&region, pack(number)).await.unwrap();
    }
    assert_eq!(region.stats().members_down, 0);
    let none = super::fake::region(0).0;
    assert!(get(&none, pack(1)).await.unwrap_err().is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_busy_member_is_obeyed() {
    let (region, wire) = region(3);
    let wanted = pack_of(&region, "m0:1");
    wire.set("m0:1", Script::new(Says::Busy(3000 * MS), 0));
    let mut fetch = Box::pin(get(&region, wanted));
    let wait = tokio::time::timeout(2999 * MS, &mut fetch).await;
    assert!(wait.is_err());
    assert_eq!(
        wire.take_asks(),
        BTreeMap::from([("m0:1".to_owned(), 1)]),
        "not before it says"
    );
    wire.set("m0:1", Script::new(Says::Bytes, 0));
    let (bytes, took) = timed(fetch).await;
    assert_eq!(bytes.unwrap().giver(), Some("m0:1"));
    assert!(took <= 3001 * MS, "{took:?}");
    assert_eq!(region.stats().members_down, 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_region_is_not_passed_by_by_all_at_once() {
    let (region, wire) = region(3);
    wire.set_all(&Script::new(Says::Busy(1000 * MS), 1));
    let fetches = (0..1000).map(|number| get(&region, pack(number)));
    let mut all = Box::pin(join_all(fetches));
    assert!(tokio::time::timeout(60_000 * MS, &mut all).await.is_err());
    let stats = region.stats();
    assert!(
        stats.relieved > 0 && stats.relieved <= 2 + 1000 / 100,
        "{stats:?}"
    );
    assert_eq!(stats.passed_by, stats.relieved);
    // But nobody waits for ever.
    let (all, took) = timed(all).await;
    assert!(all.iter().all(Result::is_err));
    assert!(60_000 * MS + took < BUSY_MAX + 3000 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_members_for_longer_than_the_patience() {
    let patience = 1000 * MS;
    for says in [Says::Silent, Says::Busy(400 * MS)] {
        let (region, wire) = region_with(3, patience);
        wire.set_all(&Script::new(says, 0));
        let (bytes, took) = timed(get(&region, pack(1))).await;
        assert!(bytes.is_err());
        assert_eq!(took, patience);
        assert_eq!(region.stats().passed_by, 1);
    }
    // A silent one counts as dead before, so that it rests like any other.
    let (region, wire) = region_with(1, patience);
    wire.set_all(&Script::new(Says::Silent, 0));
    for _ in 0..FAILURES_MAX {
        get(&region, pack(1)).await.unwrap_err();
    }
    let (bytes, took) = timed(get(&region, pack(1))).await;
    assert!(bytes.is_err());
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_a_member_refuses_comes_from_the_origin() {
    let (region, wire) = region(3);
    let wanted = pack_of(&region, "m0:1");
    wire.set("m0:1", Script::new(Says::Refused(403), 0));
    assert!(get(&region, wanted).await.is_err());
    assert_eq!(wire.take_asks(), BTreeMap::from([("m0:1".to_owned(), 1)]));
    // What is not there may be on its way, and at the second member.
    wire.set("m0:1", Script::new(Says::Refused(404), 0));
    assert!(get(&region, wanted).await.is_err());
    let second = ranked(&region, wanted).remove(1);
    wire.set(
        &second,
        Script {
            cached: true,
            ..Script::new(Says::Bytes, 0)
        },
    );
    assert_eq!(get(&region, wanted).await.unwrap().giver(), Some(&*second));
    assert_eq!(region.stats().members_down, 0);
}

#[tokio::test(start_paused = true)]
async fn the_node_that_is_told_of_a_burst_hears_of_it_and_not_of_too_many() {
    let (region, wire) = region(3);
    let record = |number: u32| {
        let id = Digest::of(&number.to_le_bytes());
        Key::new(format!("records/{id}")).unwrap()
    };
    region.whole(&record(0), 1000, false).await.unwrap();
    wire.burst.store(true, Ordering::Relaxed);
    for number in 1..100 {
        region.whole(&record(number), 1000, false).await.unwrap();
    }
    get(&region, pack(1)).await.unwrap();
    let mut bursts = region.bursts().unwrap();
    assert!(region.bursts().is_none(), "one listens");
    assert_eq!(bursts.recv().await, Some(record(1)));
    assert_eq!(bursts.len() as u64 + 1, region.stats().bursts);
    assert!(bursts.len() < 32, "{}", bursts.len());
}

#[tokio::test(start_paused = true)]
async fn objects_go_to_two_members_for_each_span() {
    let (region, wire) = region(4);
    let key = pack(1).key();
    let len = SPAN_BYTES + 10;
    let object = body(&key, &(0..len));
    assert_eq!(region.write(&key, &object).await, 2);
    let mut parts = BTreeMap::<u64, Vec<String>>::new();
    for (member, part) in std::mem::take(&mut wire.told().puts) {
        let range = part.offset..part.offset + part.body.len() as u64;
        assert_eq!(part.body, body(&key, &range));
        assert_eq!(part.total, len);
        parts.entry(part.offset).or_default().push(member);
    }
    assert_eq!(parts.keys().copied().collect::<Vec<_>>(), [0, SPAN_BYTES]);
    for (offset, members) in parts {
        let ranked = region.fetcher.members.ranked(Spot::of(&key, offset));
        let best: Vec<_> = ranked[..2]
            .iter()
            .map(|member| member.name.to_string())
            .collect();
        assert_eq!(members, best);
    }
    // Another one stands in for one that is dead, and a single one is told apart.
    wire.set(&ranked(&region, pack(1))[0], Script::new(Says::Dead, 0));
    assert_eq!(region.write(&key, &body(&key, &(0..10))).await, 2);
    wire.set_all(&Script::new(Says::Dead, 0));
    wire.set(&ranked(&region, pack(1))[1], Script::new(Says::Bytes, 0));
    assert_eq!(region.write(&key, &body(&key, &(0..10))).await, 1);
    assert_eq!(
        (region.stats().written, region.stats().written_short),
        (3, 1)
    );
}
