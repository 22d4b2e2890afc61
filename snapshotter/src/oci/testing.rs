//! A registry for tests, which can be told to misbehave, and images to put into it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use futures::StreamExt as _;
use nacre_blobstore::Clock;
use serde_json::{Value, json};

use super::digest::OciDigest;
use super::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};

/// A clock that only takes notes of waits.
#[derive(Debug, Default)]
pub(crate) struct NotingClock {
    pub(crate) waits: Mutex<Vec<Duration>>,
}

#[async_trait::async_trait]
impl Clock for NotingClock {
    fn now_ms(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, duration: Duration) {
        self.waits.lock().unwrap().push(duration);
        tokio::task::yield_now().await;
    }
}

/// An image of plain layers with all its blobs.
pub(crate) struct TestImage {
    pub(crate) manifest: Bytes,
    pub(crate) config: Bytes,
    pub(crate) layers: Vec<Bytes>,
}

impl TestImage {
    /// Makes an image for `os/arch` whose layers are of the lengths given.
    pub(crate) fn new(platform: &str, layer_bytes: &[usize]) -> Self {
        let fill = |seed: usize, len: usize| {
            (0..len)
                .map(|i| u8::try_from((i * 31 + i / 257 + seed) % 256).unwrap())
                .collect()
        };
        let layers: Vec<Bytes> = layer_bytes
            .iter()
            .enumerate()
            .map(|(seed, len)| fill(seed, *len))
            .collect();
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|l| OciDigest::of(l)).collect();
        let config = json!({
            "os": os, "architecture": architecture, "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Bytes::from(config.to_string());
        let described = layers.iter().map(|l| describe(OCI_LAYER, l));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": describe(OCI_CONFIG, &config), "layers": described.collect::<Vec<_>>(),
        });
        Self {
            manifest: manifest.to_string().into(),
            config,
            layers,
        }
    }

    /// Returns the config and the layers.
    pub(crate) fn blobs(&self) -> Vec<Bytes> {
        std::iter::once(&self.config)
            .chain(&self.layers)
            .cloned()
            .collect()
    }
}

pub(crate) fn describe(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": OciDigest::of(blob), "size": blob.len()})
}

/// How the registry misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Demand bearer tokens, each good for this many requests.
    pub(crate) token_uses: Option<u32>,
    /// What the token server wants to see as `Authorization`, or in a form.
    pub(crate) token_secret: Option<String>,
    /// Demand this `Authorization`.
    pub(crate) basic: Option<String>,
    /// Break the connection after this many bytes of a blob.
    pub(crate) break_after_bytes: Option<usize>,
    /// End blobs cleanly after this many bytes.
    pub(crate) end_after_bytes: Option<usize>,
    /// Answer this many requests with 429 and a `Retry-After` of so many seconds.
    pub(crate) busy: Option<(u32, u64)>,
    /// Answer every request with this status.
    pub(crate) status: Option<u16>,
    /// Send whole blobs whatever the range.
    pub(crate) ignore_range: bool,
    /// Send blobs of twice their length.
    pub(crate) doubled: bool,
    /// Send blobs whose bits are flipped.
    pub(crate) flipped: bool,
    /// Redirect blobs to this base URL.
    pub(crate) redirect: Option<String>,
    /// Leave out `Content-Length`.
    pub(crate) chunked: bool,
}

#[derive(Default)]
struct Shared {
    address: String,
    content: HashMap<String, (String, Bytes)>,
    faults: Faults,
    /// Uses left of each token.
    tokens: HashMap<String, u32>,
    log: Vec<String>,
}

/// An HTTP server that speaks enough of the distribution API to pull.
pub(crate) struct FakeRegistry {
    shared: Arc<Mutex<Shared>>,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

impl FakeRegistry {
    pub(crate) async fn start(faults: Faults) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(Shared {
            address,
            faults,
            ..Shared::default()
        }));
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Self { shared, server }
    }

    pub(crate) fn address(&self) -> String {
        self.shared.lock().unwrap().address.clone()
    }

    /// Serves `bytes` under `/v2/app/PATH`.
    pub(crate) fn put(&self, path: &str, media_type: &str, bytes: &Bytes) {
        let content = (media_type.to_owned(), bytes.clone());
        self.shared
            .lock()
            .unwrap()
            .content
            .insert(format!("/v2/app/{path}"), content);
    }

    pub(crate) fn put_image(&self, tag: &str, image: &TestImage) {
        self.put(&format!("manifests/{tag}"), OCI_MANIFEST, &image.manifest);
        let digest = OciDigest::of(&image.manifest);
        self.put(
            &format!("manifests/{digest}"),
            OCI_MANIFEST,
            &image.manifest,
        );
        for blob in image.blobs() {
            self.put(&format!("blobs/{}", OciDigest::of(&blob)), "", &blob);
        }
    }

    pub(crate) fn misbehave(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.lock().unwrap().faults);
    }

    /// Returns the requests so far: method, path, range and whether it was authorized.
    pub(crate) fn log(&self) -> Vec<String> {
        self.shared.lock().unwrap().log.clone()
    }

    /// Counts the requests whose log line has all of `parts`.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        self.log()
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .count()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mut shared = shared.lock().unwrap();
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let (range, authorization) = (text("range"), text("authorization"));
    let scheme = authorization.split(' ').next().unwrap_or("");
    shared.log.push(format!("{method} {uri} {range} {scheme}"));
    if uri.path() == "/token" {
        let shown = format!("{authorization} {}", String::from_utf8_lossy(&body));
        return shared.issue_token(&shown);
    }
    if let Some(refusal) = shared.refuse(authorization) {
        return refusal;
    }
    if uri.path() == "/v2/" {
        return response(200).body(Body::empty()).unwrap();
    }
    let faults = &shared.faults;
    let is_blob = uri.path().contains("/blobs/");
    if let Some(base) = faults.redirect.as_ref().filter(|_| is_blob) {
        return response(307)
            .header("location", format!("{base}{uri}"))
            .body(Body::empty())
            .unwrap();
    }
    let Some((media_type, bytes)) = shared.content.get(uri.path()) else {
        return response(404).body(Body::from(r#"{"errors":[]}"#)).unwrap();
    };
    if is_blob {
        blob(faults, bytes, range)
    } else {
        let built = response(200).header("content-type", media_type);
        built.body(body_of(faults, bytes.clone())).unwrap()
    }
}

fn response(status: u16) -> axum::http::response::Builder {
    Response::builder().status(status)
}

impl Shared {
    fn issue_token(&mut self, shown: &str) -> Response<Body> {
        let wanted = self.faults.token_secret.as_deref().unwrap_or("");
        if !shown.contains(wanted) {
            return response(401).body(Body::empty()).unwrap();
        }
        let token = format!("token{}", self.tokens.len());
        self.tokens
            .insert(token.clone(), self.faults.token_uses.unwrap_or(u32::MAX));
        response(200)
            .body(Body::from(json!({"token": token}).to_string()))
            .unwrap()
    }

    fn refuse(&mut self, authorization: &str) -> Option<Response<Body>> {
        if let Some(status) = self.faults.status {
            return Some(response(status).body(Body::empty()).unwrap());
        }
        if let Some((left @ 1.., seconds)) = &mut self.faults.busy {
            *left -= 1;
            let seconds = seconds.to_string();
            return Some(
                response(429)
                    .header("retry-after", seconds)
                    .body(Body::empty())
                    .unwrap(),
            );
        }
        let challenge = if let Some(wanted) = &self.faults.basic {
            (authorization != wanted).then(|| r#"Basic realm="test""#.to_owned())
        } else if self.faults.token_uses.is_some() {
            let token = authorization.strip_prefix("Bearer ").unwrap_or("");
            match self.tokens.get_mut(token) {
                Some(left @ 1..) => {
                    *left -= 1;
                    None
                }
                _ => Some(format!(
                    r#"Bearer realm="http://{}/token",service="test",scope="repository:app:pull""#,
                    self.address
                )),
            }
        } else {
            None
        };
        let built = response(401).header("www-authenticate", challenge?);
        Some(built.body(Body::empty()).unwrap())
    }
}

fn blob(faults: &Faults, bytes: &Bytes, range: &str) -> Response<Body> {
    let mut bytes = bytes.clone();
    if faults.doubled {
        bytes = [bytes.clone(), bytes].concat().into();
    }
    if faults.flipped {
        bytes = bytes.iter().map(|byte| !byte).collect();
    }
    let start: Option<usize> = range
        .strip_prefix("bytes=")
        .and_then(|r| r.strip_suffix('-')?.parse().ok());
    let start = start.filter(|_| !faults.ignore_range);
    let whole = bytes.len();
    if let Some(end) = faults.end_after_bytes {
        bytes.truncate(end);
    }
    match start {
        None => response(200).body(body_of(faults, bytes)).unwrap(),
        Some(start) if start >= bytes.len() => response(416).body(Body::empty()).unwrap(),
        Some(start) => response(206)
            .header(
                "content-range",
                format!("bytes {start}-{}/{whole}", bytes.len() - 1),
            )
            .body(body_of(faults, bytes.slice(start..)))
            .unwrap(),
    }
}

fn body_of(faults: &Faults, bytes: Bytes) -> Body {
    match faults.break_after_bytes {
        Some(limit) if limit < bytes.len() => {
            // The server has to send the first part before it learns of the second.
            let broken = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err(io::Error::other("broken on purpose"))
            };
            let sent = futures::stream::iter([Ok(bytes.slice(..limit))]);
            Body::from_stream(sent.chain(futures::stream::once(broken)))
        }
        _ if faults.chunked => {
            Body::from_stream(futures::stream::iter([Ok::<_, io::Error>(bytes)]))
        }
        _ => Body::from(bytes),
    }
}
