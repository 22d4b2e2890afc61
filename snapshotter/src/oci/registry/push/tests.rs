use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use serde_json::json;

use super::*;
use crate::oci::RegistryOptions;
use crate::oci::testing::NotingClock;

/// A registry that keeps its uploads on another host.
#[derive(Default)]
struct Fake {
    registry: String,
    storage: String,
    upload: Vec<u8>,
    content: HashMap<String, Vec<u8>>,
    /// How often pieces are answered with 503.
    trouble: u32,
    /// Answer the beginning of an upload without saying where it goes on, or with this.
    no_location: bool,
    status: Option<u16>,
    log: Vec<String>,
}

type Shared = Arc<Mutex<Fake>>;

type Answer = axum::response::Response;

fn built(status: u16) -> axum::http::response::Builder {
    axum::response::Response::builder().status(status)
}

fn empty(status: u16) -> Answer {
    built(status).body(Body::empty()).unwrap()
}

async fn answer(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let mut fake = shared.lock().unwrap();
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let (shown, range) = (text("authorization"), text("content-range"));
    fake.log.push(format!("{method} {uri} {shown}"));
    if uri.path() == "/token" {
        let scope = uri.query().unwrap_or("");
        let token = if scope.contains("push") {
            "push"
        } else {
            "pull"
        };
        return built(200)
            .body(json!({ "token": token }).to_string().into())
            .unwrap();
    }
    if let Some(rest) = uri.path().strip_prefix("/store/") {
        assert_eq!((rest, shown), ("1", ""));
        return fake.store(&method, &uri, range, &body);
    }
    let (scopes, enough): (_, &[&str]) = match method {
        Method::GET | Method::HEAD => ("pull", &["Bearer pull", "Bearer push"]),
        _ => ("pull,push", &["Bearer push"]),
    };
    if !enough.contains(&shown) {
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="s",scope="repository:app:{scopes}""#,
            fake.registry
        );
        let refusal = built(401).header("www-authenticate", challenge);
        return refusal.body(Body::empty()).unwrap();
    }
    fake.registry(&method, &uri, &body)
}

impl Fake {
    /// Answers for the host that keeps uploads.
    fn store(&mut self, method: &Method, uri: &Uri, range: &str, body: &[u8]) -> Answer {
        if method == Method::PUT {
            let mut all = std::mem::take(&mut self.upload);
            all.extend_from_slice(body);
            let digest = OciDigest::of(&all).to_string();
            let query = format!("n=2&digest={}", digest.replace(':', "%3A"));
            assert_eq!(uri.query(), Some(&*query));
            self.content.insert(format!("/v2/app/blobs/{digest}"), all);
            return empty(201);
        }
        if self.trouble > 0 {
            self.trouble -= 1;
            return empty(503);
        }
        let at = self.upload.len();
        assert_eq!(range, format!("{at}-{}", at + body.len() - 1));
        self.upload.extend_from_slice(body);
        built(202)
            .header("location", "1?n=2")
            .body(Body::empty())
            .unwrap()
    }

    fn registry(&mut self, method: &Method, uri: &Uri, body: &[u8]) -> Answer {
        match (method.as_str(), uri.path(), uri.query()) {
            ("POST", "/v2/app/blobs/uploads/", query) => {
                if let Some(status) = self.status {
                    return empty(status);
                }
                if query.is_some_and(|query| query.contains("from=other")) {
                    return empty(201);
                }
                let begun = match self.no_location {
                    true => built(202),
                    false => {
                        built(202).header("location", format!("http://{}/store/1", self.storage))
                    }
                };
                begun.body(Body::empty()).unwrap()
            }
            ("PUT", path, _) if path.contains("/manifests/") => {
                self.content.insert(path.to_owned(), body.to_vec());
                empty(201)
            }
            ("HEAD", path, _) if self.content.contains_key(path) => empty(200),
            _ => empty(404),
        }
    }
}

/// Serves a fake at two addresses; returns a client of it.
async fn serve() -> (Registry, Shared) {
    let shared = Shared::default();
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap().to_string());
        drop(tokio::spawn(
            async move { axum::serve(listener, router).await },
        ));
    }
    let options = RegistryOptions {
        clock: Arc::new(NotingClock::default()),
        ..RegistryOptions::default()
    };
    let reference = format!("{}/app:v1", addresses[0]).parse().unwrap();
    {
        let mut fake = shared.lock().unwrap();
        fake.registry.clone_from(&addresses[0]);
        fake.storage.clone_from(&addresses[1]);
    }
    (Registry::new(reference, &options).unwrap(), shared)
}

#[tokio::test]
async fn pieces_outlive_trouble_and_no_other_host_sees_the_token() {
    let (registry, shared) = serve().await;
    shared.lock().unwrap().trouble = 2;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let bytes: Vec<u8> = (0..PIECE_BYTES + 5)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    std::fs::write(&path, &bytes).unwrap();
    let digest = OciDigest::of(&bytes);
    assert!(!registry.has_blob(&digest).await.unwrap());
    registry.put_blob(&digest, &path).await.unwrap();
    assert!(registry.has_blob(&digest).await.unwrap());
    let fake = shared.lock().unwrap();
    assert_eq!(fake.content[&format!("/v2/app/blobs/{digest}")], bytes);
    let count = |part: &str| fake.log.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("PATCH"), 4, "{:?}", fake.log);
    // One token to read with, and one to write with, which then is for both.
    assert_eq!(count("/token"), 2, "{:?}", fake.log);
}

#[tokio::test]
async fn small_blobs_and_manifests_are_one_request_each() {
    let (registry, shared) = serve().await;
    registry.put_manifest("type", "{}".into()).await.unwrap();
    let digest = OciDigest::of(b"other");
    assert!(registry.mount_blob(&digest, "other").await.unwrap());
    assert!(!registry.mount_blob(&digest, "none").await.unwrap());
    assert_eq!(
        shared.lock().unwrap().content["/v2/app/manifests/v1"],
        b"{}"
    );
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let (registry, shared) = serve().await;
    let digest = OciDigest::of(b"x");
    let put = || registry.put_blob_bytes(&digest, "x".into());
    shared.lock().unwrap().no_location = true;
    assert!(matches!(put().await, Err(OciError::Malformed { .. })));
    shared.lock().unwrap().status = Some(403);
    assert!(matches!(put().await, Err(OciError::Denied { .. })));
    shared.lock().unwrap().status = Some(404);
    assert!(matches!(put().await, Err(OciError::Malformed { .. })));
    shared.lock().unwrap().status = Some(503);
    assert!(matches!(put().await, Err(OciError::Unavailable { .. })));
}
