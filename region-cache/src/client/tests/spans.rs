//! Spans of requests to members.

use nacre_blobstore::ChunkSource;
use tracing::Instrument as _;

use super::fake::{Says, Script, pack, region};
use crate::client::place::Spot;
use crate::trace_context::testing::{Recorder, attribute};

/// Fetches after which the client knows how long answers take.
const TRAINING: u32 = 64;

#[tokio::test(start_paused = true)]
async fn each_request_has_one_that_says_what_came_of_it() {
    let recorder = Recorder::start();
    let (region, wire) = region(1);
    for (number, (says, outcome)) in [
        (Says::Bytes, "ok"),
        (Says::Refused(404), "refused"),
        (Says::Dead, "failed"),
    ]
    .into_iter()
    .enumerate()
    {
        wire.set_all(&Script::new(says, 10));
        let reading = tracing::debug_span!("reading");
        let fetch = region.fetch(pack(1), 3..70).instrument(reading);
        assert_eq!(fetch.await.is_ok(), outcome == "ok");
        let get = recorder.named("member GET").remove(number);
        let reading = recorder.named("reading").remove(number);
        assert_eq!(get.parent_span_id, reading.span_context.span_id());
        for (key, value) in [
            ("member", "m0:1"),
            ("object", pack(1).key().as_str()),
            ("range", "3-69"),
            ("hedged", "false"),
            ("outcome", outcome),
            ("bytes", if outcome == "ok" { "67" } else { "" }),
            ("tier", if outcome == "ok" { "origin" } else { "" }),
        ] {
            assert_eq!(attribute(&get, key), value, "{key} of {outcome}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_request_is_a_hedge_and_the_slower_one_was_given_up() {
    let (region, wire) = region(2);
    for number in 0..TRAINING {
        region.fetch(pack(number), 0..100).await.unwrap();
    }
    let recorder = Recorder::start();
    let slow = Script::new(Says::Bytes, 500);
    let fast = Script {
        cached: true,
        ..Script::new(Says::Bytes, 10)
    };
    wire.set("m0:1", slow);
    wire.set("m1:1", fast);
    let has_slow_first = |number: &u32| {
        let spot = Spot::of(&pack(*number).key(), 0);
        &*region.fetcher.members.ranked(spot)[0].name == "m0:1"
    };
    let wanted = (0..).find(has_slow_first).unwrap();
    region.fetch(pack(wanted), 0..100).await.unwrap();
    let gets = recorder.named("member GET");
    let hedge = gets.iter().find(|get| attribute(get, "hedged") == "true");
    let hedge = hedge.unwrap();
    assert_eq!(attribute(hedge, "member"), "m1:1");
    assert_eq!(attribute(hedge, "only_if_cached"), "true");
    assert_eq!(attribute(hedge, "outcome"), "ok");
    let given_up = gets.iter().find(|get| attribute(get, "member") == "m0:1");
    assert_eq!(attribute(given_up.unwrap(), "outcome"), "");
}
