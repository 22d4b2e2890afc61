//! Spans of requests, and of what they cause.

use nacre_blobstore::{ChunkSource, PackName};
use tracing::Instrument as _;

use super::*;
use crate::client::{PATIENCE_MAX, RegionCache, RegionOptions};
use crate::trace_context::testing::{Recorder, attribute};

fn client(lab: &Lab) -> RegionCache {
    let options = RegionOptions {
        members: vec![lab.address.to_string().parse().unwrap()],
        token: None,
        authority: None,
        prefix: None,
        client: "node-1".to_owned(),
        patience: PATIENCE_MAX,
        clock: Arc::new(SystemClock::new()),
        seed: 1,
    };
    RegionCache::new(options).unwrap()
}

#[tokio::test]
async fn a_read_leads_over_the_member_to_the_origin() {
    let recorder = Recorder::start();
    let lab = Lab::start().await;
    let key = Key::new(&lab.object().await[1..]).unwrap();
    let region = client(&lab);
    let reading = tracing::debug_span!("reading");
    let pack = PackName::from_key(&key).unwrap();
    let fetch = region.fetch(pack, 5..100).instrument(reading);
    assert_eq!(fetch.await.unwrap().into_untrusted(), body()[5..100]);
    let chain = ["reading", "member GET", "GET object", "origin GET"];
    let mut spans = Vec::new();
    for name in chain {
        spans.push(recorder.ended(name, 1).await.remove(0));
    }
    for pair in spans.windows(2) {
        let (parent, child) = (&pair[0].span_context, &pair[1]);
        assert_eq!(child.parent_span_id, parent.span_id(), "{child:?}");
        assert_eq!(child.span_context.trace_id(), parent.trace_id());
    }
    let [_, get, request, origin] = spans.try_into().unwrap();
    assert!(request.parent_span_is_remote && !get.parent_span_is_remote);
    assert_eq!(attribute(&request, "object"), key.as_str());
    assert_eq!(attribute(&request, "range"), "5-99");
    assert_eq!(attribute(&request, "tier"), "origin");
    assert_eq!(attribute(&get, "tier"), "origin");
    assert_eq!(attribute(&origin, "range"), format!("0-{}", BLOCK - 1));
}

#[tokio::test]
async fn all_that_an_answer_wants_is_its_child() {
    let recorder = Recorder::start();
    let lab = Lab::start().await;
    let path = lab.object().await;
    assert_eq!(lab.get(&path, &[]).await.body, body());
    let request = recorder.ended("GET object", 1).await.remove(0);
    assert_eq!(attribute(&request, "bytes"), LEN.to_string());
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    let origin = recorder.named("origin GET");
    assert!(!origin.is_empty());
    for get in &origin {
        assert_eq!(get.parent_span_id, request.span_context.span_id());
        // The answer does not end before the last of its parts is here.
        assert!(get.end_time <= request.end_time, "{get:?}");
    }
}

#[tokio::test]
async fn requests_that_fail_say_so() {
    let recorder = Recorder::start();
    let lab = Lab::start().await;
    let path = lab.object().await;
    lab.store.fail_next_gets(1);
    lab.get(&path, &[]).await;
    lab.get("/refs/x", &[]).await;
    lab.get("/healthz", &[]).await;
    lab.ask(Method::DELETE, &path, &[], Bytes::new()).await;
    let failed = recorder.ended("GET object", 2).await;
    assert_eq!(attribute(&failed[0], "http.response.status_code"), "502");
    assert_ne!(failed[0].status, failed[1].status);
    assert_eq!(attribute(&failed[1], "object"), "");
    let origin = recorder.named("origin GET");
    assert_eq!(attribute(&origin[0], "outcome"), "unavailable");
    assert_eq!(recorder.ended("GET health", 1).await.len(), 1);
    assert_eq!(recorder.ended("_OTHER object", 1).await.len(), 1);
}

#[tokio::test]
async fn who_is_not_known_does_not_say_whose_child_a_request_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "op token-of-operator rw *\n").unwrap();
    let options = ServerOptions {
        tokens: Some(tokens),
        ..ServerOptions::default()
    };
    let store = Arc::new(FaultStore::new(memory_store()));
    let recorder = Recorder::start();
    let lab = Lab::serving(options, store, Arc::new(SystemClock::new())).await;
    let path = lab.object().await;
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let header = format!("00-{trace}-{span}-01");
    let named = ("traceparent", header.as_str());
    let unknown = lab.get(&path, &[named]).await;
    assert_eq!(unknown.status, StatusCode::UNAUTHORIZED);
    lab.get(
        &path,
        &[named, ("authorization", "Bearer token-of-operator")],
    )
    .await;
    let [unknown, known] = recorder.ended("GET object", 2).await.try_into().unwrap();
    assert_ne!(unknown.span_context.trace_id().to_string(), trace);
    assert_eq!(known.span_context.trace_id().to_string(), trace);
    assert_eq!(known.parent_span_id.to_string(), span);
}

#[tokio::test]
async fn a_request_that_names_two_parents_has_none() {
    let recorder = Recorder::start();
    let lab = Lab::start().await;
    let path = lab.object().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("00-{trace}-00f067aa0ba902b7-01");
    let named = ("traceparent", header.as_str());
    lab.get(&path, &[named, named]).await;
    let request = recorder.ended("GET object", 1).await.remove(0);
    assert_ne!(request.span_context.trace_id().to_string(), trace);
}
