//! A member as its clients see it.

mod access;
mod bursts;
mod page;
mod ranges;
mod spans;
mod writes;

use std::net::SocketAddr;

use bytes::Bytes;
use nacre_blobstore::testing::{FaultStore, Operation, memory_store};
use nacre_blobstore::{Digest, Key, SystemClock};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const BLOCK: u32 = 64 << 10;
/// Not a multiple of anything.
const LEN: usize = 5 * BLOCK as usize + 321;

/// A running member over a store that fails on demand.
struct Lab {
    store: Arc<FaultStore>,
    address: SocketAddr,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<io::Result<()>>,
    member: Arc<Member>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Lab {
    async fn start() -> Self {
        Self::with(&small_cache()).await
    }

    /// As [`start`](Self::start), with connections on threads of their own: there a test's own
    /// subscriber sees no spans.
    async fn threaded() -> Self {
        let options = ServerOptions {
            cache: small_cache(),
            threads: 2,
            ..ServerOptions::default()
        };
        let store = Arc::new(FaultStore::new(memory_store()));
        Self::serving(options, store, Arc::new(SystemClock::new())).await
    }

    async fn with(options: &CacheOptions) -> Self {
        let store = Arc::new(FaultStore::new(memory_store()));
        let clock = Arc::new(SystemClock::new());
        let options = ServerOptions {
            cache: options.clone(),
            ..ServerOptions::default()
        };
        Self::serving(options, store, clock).await
    }

    async fn serving(
        options: ServerOptions,
        store: Arc<FaultStore>,
        clock: Arc<SystemClock>,
    ) -> Self {
        let server = RegionServer::open(options, Arc::clone(&store) as _, clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let member = Arc::clone(&server.member);
        let served = tokio::spawn(server.serve(listener, async move {
            drop(stopped.await);
        }));
        Self {
            store,
            address,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            stop: Some(stop),
            served,
            member,
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(Method::GET, path, headers, Bytes::new()).await
    }

    /// Stores the object that the tests read, and returns its path.
    async fn object(&self) -> String {
        let path = path();
        let key = Key::new(&path[1..]).unwrap();
        self.store.put(&key, body()).await.unwrap();
        path
    }
}

fn small_cache() -> CacheOptions {
    CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        block_bytes: BLOCK,
        ..CacheOptions::default()
    }
}

fn path() -> String {
    format!("/packs/{}", Digest::of(b"object"))
}

fn body() -> Bytes {
    (0..LEN)
        .map(|at| u8::try_from(at * 31 % 253).unwrap())
        .collect()
}

#[tokio::test]
async fn the_member_tells_how_it_is() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/healthz", &[]).await.status, StatusCode::OK);
    assert_eq!(lab.get("/readyz", &[]).await.status, StatusCode::OK);
    let path = lab.object().await;
    lab.get(&path, &[]).await;
    let metrics = lab.get("/metrics", &[]).await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let expected = format!("nacre_region_origin_bytes_total {LEN}\n");
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("nacre_region_wait_seconds_bucket{tier=\"origin\",le=\"+Inf\"} "));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(name.starts_with("nacre_region_"), "{line}");
        value.parse::<f64>().unwrap();
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let lab = Lab::start().await;
    let id = Digest::of(b"x");
    for path in [
        "/".to_owned(),
        "/refs/images/x".to_owned(),
        format!("/leases/{id}"),
    ] {
        assert_eq!(
            lab.get(&path, &[]).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let object = path();
    let status = lab
        .ask(Method::DELETE, &object, &[], Bytes::new())
        .await
        .status;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(lab.get(&object, &[]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        lab.store.requests(),
        1,
        "only the last one reaches the store"
    );
}

#[tokio::test]
async fn a_failing_origin_is_a_bad_gateway() {
    let lab = Lab::start().await;
    let path = lab.object().await;
    lab.store.fail_next_gets(1);
    assert_eq!(lab.get(&path, &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(lab.get(&path, &[]).await.body, body());
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_when_to_come_back() {
    let lab = Lab::with(&CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        origin_requests: 1,
        ..CacheOptions::default()
    })
    .await;
    let path = lab.object().await;
    lab.store.delay(Duration::from_secs(3600));
    let asker = cache::Asker {
        client: "reader".into(),
        priority: fair::Priority::Demand,
        admission: fair::Admission::Begun,
        span: tracing::Span::none(),
    };
    let queue = Arc::clone(&lab.member.cache.queue);
    let _held = queue
        .turn(&asker.client, asker.priority, asker.admission)
        .await
        .unwrap();
    // Requests take 50 ms as long as nothing is known: these are more than 2 s of them.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (queue, asker) = (Arc::clone(&queue), asker.clone());
            tokio::spawn(async move {
                queue
                    .turn(&asker.client, asker.priority, asker.admission)
                    .await
            })
        })
        .collect();
    while queue.waiting() < 50 {
        tokio::task::yield_now().await;
    }
    let answer = lab.get(&path, &[("x-nacre-client", "reader")]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "3");
    waiting.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn answers_that_have_begun_are_finished_at_the_end() {
    let mut lab = Lab::threaded().await;
    let path = lab.object().await;
    let url = format!("http://{}{path}", lab.address);
    let mut response = lab.http.get(url).send().await.unwrap();
    let mut read = response.chunk().await.unwrap().unwrap().to_vec();
    lab.stop.take().unwrap().send(()).unwrap();
    while !lab.member.is_draining() {
        tokio::task::yield_now().await;
    }
    while let Some(chunk) = response.chunk().await.unwrap() {
        read.extend(chunk);
    }
    assert_eq!(read, body());
    lab.served.await.unwrap().unwrap();
    let refused = lab.http.get(format!("http://{}/healthz", lab.address));
    refused.send().await.unwrap_err();
}
