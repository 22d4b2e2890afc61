//! What goes over HTTP, with members of axum.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use nacre_blobstore::{ChunkSource, Digest, Key, SystemClock};

use super::fake::{body, pack};
use crate::client::http::Http;
use crate::client::wire::{Ask, Had, Part, Wire, WireError};
use crate::client::{PATIENCE_MAX, RegionCache, RegionOptions};

/// A request as a member got it.
#[derive(Debug, Clone)]
struct Got {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Answers = fn(&Got) -> Response;

#[derive(Debug)]
struct Member {
    answers: Answers,
    got: Mutex<Vec<Got>>,
}

async fn serve(State(member): State<Arc<Member>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let got = Got {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: axum::body::to_bytes(body, 1 << 20).await.unwrap(),
    };
    let answer = (member.answers)(&got);
    member
        .got
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(got);
    answer
}

async fn start(answers: Answers) -> (String, Arc<Member>) {
    let got = Mutex::default();
    let member = Arc::new(Member { answers, got });
    let routes = Router::new()
        .fallback(serve)
        .with_state(Arc::clone(&member));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, member)
}

impl Member {
    fn got(&self) -> Vec<Got> {
        std::mem::take(&mut *self.got.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn range_of(got: &Got) -> std::ops::Range<u64> {
    let range = got.headers["range"].to_str().unwrap();
    let (start, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    start.parse().unwrap()..last.parse::<u64>().unwrap() + 1
}

fn right(got: &Got) -> Response {
    let key = Key::new(&got.path[1..]).unwrap();
    let headers = [("x-nacre-cache", "memory")];
    (
        StatusCode::PARTIAL_CONTENT,
        headers,
        body(&key, &range_of(got)),
    )
        .into_response()
}

fn options(members: &[String]) -> RegionOptions {
    RegionOptions {
        members: members
            .iter()
            .map(|member| member.parse().unwrap())
            .collect(),
        token: None,
        authority: None,
        prefix: None,
        client: "node-1".to_owned(),
        patience: PATIENCE_MAX,
        clock: Arc::new(SystemClock::new()),
        seed: 1,
    }
}

fn ask(range: Option<std::ops::Range<u64>>) -> Ask {
    Ask {
        key: pack(1).key(),
        limit_bytes: 1000,
        range,
        only_if_cached: false,
        ahead: false,
    }
}

#[tokio::test]
async fn a_range_is_asked_for_and_counted() {
    let (address, member) = start(right).await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let mut options = options(&[format!("http://{address}/")]);
    options.token = Some(token);
    let region = RegionCache::new(options).unwrap();
    let bytes = region.fetch(pack(1), 3..70).await.unwrap();
    assert_eq!(bytes.giver(), Some(&*address));
    assert_eq!(bytes.into_untrusted(), body(&pack(1).key(), &(3..70)));
    let got = member.got().remove(0);
    assert_eq!(got.path, format!("/{}", pack(1).key()));
    assert_eq!(got.headers["range"], "bytes=3-69");
    assert_eq!(got.headers["x-nacre-client"], "node-1");
    assert_eq!(got.headers["authorization"], "Bearer secret");
    assert_eq!((region.stats().memory, region.stats().members), (1, 1));
}

#[tokio::test]
async fn answers_that_are_not_what_was_asked_for_are_refused() {
    let wire = Http::new("node-1", None, None).unwrap();
    let cases: [(Answers, &str); 7] = [
        (
            |_| (StatusCode::PARTIAL_CONTENT, "short").into_response(),
            "Failed",
        ),
        (
            |_| (StatusCode::PARTIAL_CONTENT, vec![0; 11]).into_response(),
            "Failed",
        ),
        (
            |_| (StatusCode::OK, vec![0; 10]).into_response(),
            "Refused(200)",
        ),
        (|_| StatusCode::NOT_FOUND.into_response(), "Refused(404)"),
        (
            |_| StatusCode::GATEWAY_TIMEOUT.into_response(),
            "Refused(504)",
        ),
        (
            |_| StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            "Failed",
        ),
        (
            |_| (StatusCode::FOUND, [("location", "/")]).into_response(),
            "Failed",
        ),
    ];
    for (answers, expected) in cases {
        let (address, _member) = start(answers).await;
        let error = wire.get(&address, &ask(Some(0..10))).await.unwrap_err();
        assert!(
            format!("{error:?}").starts_with(expected),
            "{error:?}, not {expected}"
        );
    }
    // A body without a length may have any.
    let (address, _member) = start(|_| {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("bytes"));
        (StatusCode::PARTIAL_CONTENT, Body::from_stream(endless)).into_response()
    })
    .await;
    assert!(wire.get(&address, &ask(Some(0..10))).await.is_err());
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr();
    let unused = unused.unwrap().to_string();
    let error = wire.get(&unused, &ask(Some(0..10))).await.unwrap_err();
    assert!(matches!(error, WireError::Failed(_)));
}

#[tokio::test]
async fn whole_objects_are_bounded() {
    let wire = Http::new("node-1", None, None).unwrap();
    let (address, member) = start(|_| vec![7; 1000].into_response()).await;
    let answer = wire.get(&address, &ask(None)).await.unwrap();
    assert_eq!((answer.bytes.len(), answer.had), (1000, Had::Origin));
    let got = member.got().remove(0);
    assert!(!got.headers.contains_key("range") && !got.headers.contains_key("cache-control"));
    let (address, _member) = start(|_| vec![7; 1001].into_response()).await;
    assert!(wire.get(&address, &ask(None)).await.is_err());
}

#[tokio::test]
async fn what_a_busy_member_says_is_understood() {
    let wire = Http::new("node-1", None, None).unwrap();
    let cases: [(Answers, u64); 4] = [
        (
            |_| (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3")]).into_response(),
            3,
        ),
        (
            |_| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "99999")]).into_response(),
            10,
        ),
        (
            |_| (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "soon")]).into_response(),
            1,
        ),
        (|_| StatusCode::SERVICE_UNAVAILABLE.into_response(), 1),
    ];
    for (answers, seconds) in cases {
        let (address, _member) = start(answers).await;
        match wire.get(&address, &ask(Some(0..10))).await.unwrap_err() {
            WireError::Busy(after) => assert_eq!(after, Duration::from_secs(seconds)),
            error => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn parts_reports_and_looks_into_the_cache_are_told_as_agreed() {
    let (address, member) = start(|got| match got.method {
        Method::GET => right(got),
        _ => StatusCode::CREATED.into_response(),
    })
    .await;
    let wire = Http::new("node-1", Some("/tenant/"), None).unwrap();
    let key = pack(1).key();
    let mut part = Part {
        key: key.clone(),
        body: Bytes::from_static(b"0123456789"),
        offset: 20,
        total: 100,
    };
    wire.put(&address, &part).await.unwrap();
    (part.offset, part.total) = (0, 10);
    wire.put(&address, &part).await.unwrap();
    wire.report(&address, &key, 5..25).await.unwrap();
    let cached = Ask {
        only_if_cached: true,
        ahead: true,
        ..ask(Some(0..10))
    };
    wire.get(&address, &cached).await.unwrap();
    let got = member.got();
    assert_eq!(got[0].method, Method::PUT);
    assert_eq!(got[0].path, format!("/tenant/{key}"));
    assert_eq!(got[0].headers["content-range"], "bytes 20-29/100");
    assert_eq!(
        got[0].headers["x-nacre-blake3"],
        Digest::of(&part.body).to_string()
    );
    assert_eq!(got[0].body, part.body);
    assert!(
        !got[1].headers.contains_key("content-range"),
        "a whole object"
    );
    assert_eq!(
        (&got[2].method, got[2].path.as_str()),
        (&Method::POST, "/report")
    );
    let report = format!(r#"{{"key":"tenant/{key}","offset":5,"length":20}}"#);
    assert_eq!(got[2].body, report);
    assert_eq!(got[3].headers["cache-control"], "only-if-cached");
    assert!(got[3].headers.contains_key("x-nacre-prefetch"));
    assert!(Http::new("node-1", Some("a/../b"), None).is_err());
}

#[tokio::test]
async fn the_list_of_members_follows_its_file() {
    let (one, member_one) = start(right).await;
    let (two, member_two) = start(right).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("members");
    let write = |text: &str| nacre_blobstore::publish(&path, text.as_bytes()).unwrap();
    write(&one);
    let region = RegionCache::new(options(&[format!("file:{}", path.display())])).unwrap();
    region.fetch(pack(1), 0..10).await.unwrap();
    assert_eq!(member_one.got().len(), 1);
    write(&two);
    while region.stats().members != 1 || member_two.got().is_empty() {
        region.fetch(pack(1), 0..10).await.unwrap();
        tokio::task::yield_now().await;
    }
    // What is no list changes nothing.
    write("<html>");
    let options = options(&[format!("file:{}", path.display())]);
    assert!(RegionCache::new(options).is_err());
}

#[tokio::test]
async fn a_node_hears_of_a_burst_with_the_record() {
    let (address, _member) = start(|got| {
        let burst = HeaderValue::from_static("1");
        let mut response = right(got);
        response.headers_mut().insert("x-nacre-burst", burst);
        response
    })
    .await;
    let client = Http::new("node", None, None).unwrap();
    assert!(client.get(&address, &ask(Some(0..5))).await.unwrap().burst);
}

#[tokio::test]
async fn a_name_is_resolved_before_the_first_request() {
    let (address, member) = start(right).await;
    let port = address.rsplit_once(':').unwrap().1;
    let region = RegionCache::new(options(&[format!("dns:localhost:{port}")])).unwrap();
    // Other addresses of the name have no member; one has.
    region.fetch(pack(1), 0..10).await.unwrap();
    assert_eq!(member.got().len(), 1);
}
