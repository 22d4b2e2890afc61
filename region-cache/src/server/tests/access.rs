//! Tokens, TLS, and the page for people.

use std::path::Path;

use reqwest::Version;
use tempfile::TempDir;

use super::*;

/// Starts a member that knows two tokens.
async fn start(folder: &TempDir) -> Lab {
    let tokens = folder.path().join("tokens");
    std::fs::write(
        &tokens,
        "a token-of-tenant-a r tenant-a\nop token-of-operator rw *\n",
    )
    .unwrap();
    let options = ServerOptions {
        tokens: Some(tokens),
        ..ServerOptions::default()
    };
    let store = Arc::new(FaultStore::new(memory_store()));
    Lab::serving(options, store, Arc::new(SystemClock::new())).await
}

const A: (&str, &str) = ("authorization", "Bearer token-of-tenant-a");
const OPERATOR: (&str, &str) = ("authorization", "Bearer token-of-operator");

#[tokio::test]
async fn a_tenant_reads_its_own_and_writes_nothing() {
    let folder = TempDir::new().unwrap();
    let lab = start(&folder).await;
    let own = format!("/tenant-a{}", path());
    let other = format!("/tenant-b{}", path());
    for path in [&own, &other] {
        lab.store
            .put(&Key::new(&path[1..]).unwrap(), body())
            .await
            .unwrap();
    }
    assert_eq!(lab.get(&own, &[A]).await.body, body());
    let no_token = lab.get(&own, &[]).await;
    assert_eq!(no_token.status, StatusCode::UNAUTHORIZED);
    assert_eq!(no_token.header("www-authenticate"), "Bearer");
    let wrong = ("authorization", "Bearer token-of-tenant-b");
    assert_eq!(
        lab.get(&own, &[wrong]).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(lab.get(&other, &[OPERATOR]).await.body, body());
    let requests = lab.store.requests();
    for refused in [&other, &path(), &"/status".to_owned()] {
        assert_eq!(
            lab.get(refused, &[A]).await.status,
            StatusCode::FORBIDDEN,
            "{refused}"
        );
    }
    let sum = Digest::of(&body()).to_string();
    let sum = ("x-nacre-blake3", &*sum);
    let put = lab.ask(Method::PUT, &own, &[A, sum], body()).await;
    assert_eq!(put.status, StatusCode::FORBIDDEN);
    let report = format!("{{\"key\":\"{}\",\"offset\":0,\"length\":1}}", &other[1..]);
    let report = lab.ask(Method::POST, "/report", &[A], report.into()).await;
    assert_eq!(report.status, StatusCode::FORBIDDEN);
    assert_eq!(lab.store.requests(), requests, "nothing was asked for");
    let put = lab.ask(Method::PUT, &own, &[OPERATOR, sum], body()).await;
    assert_eq!(put.status, StatusCode::ACCEPTED);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(lab.get(open, &[]).await.status, StatusCode::OK, "{open}");
    }
}

#[tokio::test]
async fn the_page_is_all_there_is_to_load() {
    let folder = TempDir::new().unwrap();
    let lab = start(&folder).await;
    let path = lab.object().await;
    lab.get(&path, &[OPERATOR]).await;
    let page = lab.get("/status", &[OPERATOR]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(html.contains(&path[1..]), "{html}");
    assert_eq!(html.matches("<svg").count(), 2);
    for elsewhere in ["http:", "https:", "src=", "href=", "<script"] {
        assert!(!html.contains(elsewhere), "{elsewhere}");
    }
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_with_and_without_tls() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests");
    let certificate = std::fs::read(folder.join("certificate.pem")).unwrap();
    let tls = Tls::read(&folder.join("certificate.pem"), &folder.join("key.pem")).unwrap();
    let trusting = || {
        let root = reqwest::Certificate::from_pem(&certificate).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root])
    };
    let prior = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    for (tls, client, scheme, version) in [
        (Some(tls.clone()), trusting(), "https", Version::HTTP_2),
        (
            Some(tls),
            trusting().http1_only(),
            "https",
            Version::HTTP_11,
        ),
        (None, prior, "http", Version::HTTP_2),
    ] {
        let options = ServerOptions {
            tls,
            ..ServerOptions::default()
        };
        let store = Arc::new(FaultStore::new(memory_store()));
        let lab = Lab::serving(options, store, Arc::new(SystemClock::new())).await;
        let path = lab.object().await;
        let url = format!("{scheme}://{}{path}", lab.address);
        let client = client.build().unwrap();
        let response = client
            .get(url)
            .header("range", "bytes=9-")
            .send()
            .await
            .unwrap();
        assert_eq!(response.version(), version);
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(response.bytes().await.unwrap(), body().slice(9..));
    }
}

#[test]
fn files_that_are_no_certificate_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.pem");
    std::fs::write(&file, "no certificate").unwrap();
    Tls::read(&file, &file).unwrap_err();
    Tls::read(&folder.path().join("missing"), &file).unwrap_err();
}
