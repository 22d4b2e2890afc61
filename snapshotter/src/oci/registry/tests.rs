use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;

use super::*;
use crate::oci::credentials::CredentialStore;
use crate::oci::resolve::{ImageSource, ResolvedImage};
use crate::oci::testing::{FakeRegistry, Faults, NotingClock, TestImage};

struct Pull {
    registry: Registry,
    clock: Arc<NotingClock>,
}

impl Pull {
    fn new(server: &FakeRegistry, name: &str) -> Self {
        Self::with(server, name, CredentialStore::anonymous())
    }

    fn with(server: &FakeRegistry, name: &str, credentials: CredentialStore) -> Self {
        let clock = Arc::new(NotingClock::default());
        let options = RegistryOptions {
            credentials,
            clock: Arc::<NotingClock>::clone(&clock),
            ..RegistryOptions::default()
        };
        let reference = format!("{}/app{name}", server.address()).parse().unwrap();
        Self {
            registry: Registry::new(reference, &options).unwrap(),
            clock,
        }
    }

    async fn resolve(&self) -> Result<ResolvedImage, OciError> {
        self.registry.resolve(&"linux/amd64".parse().unwrap()).await
    }

    async fn layer(&self, image: &ResolvedImage, number: usize) -> Result<Vec<u8>, OciError> {
        let stream = self.registry.open_blob(&image.layers[number]).await?;
        Ok(stream.try_collect::<Vec<_>>().await?.concat())
    }
}

async fn serve(layer_bytes: &[usize], faults: Faults) -> (FakeRegistry, TestImage) {
    let server = FakeRegistry::start(faults).await;
    let image = TestImage::new("linux/amd64", layer_bytes);
    server.put_image("v1", &image);
    (server, image)
}

fn logged_in(directory: &std::path::Path, server: &FakeRegistry, entry: &str) -> CredentialStore {
    let path = directory.join("config.json");
    std::fs::write(
        &path,
        format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address()),
    )
    .unwrap();
    CredentialStore::load(&path).unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_byte_for_byte() {
    let (server, image) = serve(&[100_000, 0, 7], Faults::default()).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    assert_eq!(
        (&resolved.manifest, &resolved.config),
        (&image.manifest, &image.config)
    );
    assert_eq!(resolved.manifest_digest, OciDigest::of(&image.manifest));
    assert_eq!(resolved.media_type, OCI_MANIFEST);
    for (number, layer) in image.layers.iter().enumerate() {
        assert_eq!(pull.layer(&resolved, number).await.unwrap(), layer.as_ref());
        assert_eq!(resolved.layers[number].diff_id, OciDigest::of(layer));
    }
    assert!(matches!(
        Pull::new(&server, ":v2").resolve().await,
        Err(OciError::NotFound(_))
    ));
}

#[tokio::test]
async fn a_pinned_digest_is_what_counts() {
    let (server, image) = serve(&[10], Faults::default()).await;
    let digest = OciDigest::of(&image.manifest);
    let pinned = format!(":other@{digest}");
    assert!(Pull::new(&server, &pinned).resolve().await.is_ok());
    let other = TestImage::new("linux/amd64", &[11]).manifest;
    server.put(&format!("manifests/{digest}"), OCI_MANIFEST, &other);
    let error = Pull::new(&server, &pinned).resolve().await.unwrap_err();
    assert!(
        matches!(&error, OciError::Corrupt { expected, .. } if *expected == digest),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let faults = Faults {
        break_after_bytes: Some(30_000),
        ..Faults::default()
    };
    let (server, image) = serve(&[100_000], faults).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    assert_eq!(
        pull.layer(&resolved, 0).await.unwrap(),
        image.layers[0].as_ref()
    );
    let resumed = server.count(&["/blobs/", "bytes="]);
    assert!(resumed >= 3, "{:?}", server.log());
    assert_eq!(server.count(&["bytes=0-"]), 0);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let (server, image) = serve(&[100_000], Faults::default()).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    server.misbehave(|f| (f.ignore_range, f.break_after_bytes) = (true, Some(60_000)));
    let mut stream = pull.registry.open_blob(&resolved.layers[0]).await.unwrap();
    let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
    assert!(!read.is_empty() && read.len() <= 60_000);
    server.misbehave(|f| f.break_after_bytes = None);
    while let Some(bytes) = stream.try_next().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert_eq!(read, image.layers[0].as_ref());
}

#[tokio::test]
async fn a_connection_that_always_breaks_is_given_up() {
    let (server, _) = serve(&[100_000], Faults::default()).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    server.misbehave(|f| f.break_after_bytes = Some(0));
    let error = pull.layer(&resolved, 0).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    // The first connection and five more, each of which is one request or was sent again.
    assert!(
        server.count(&["/blobs/"]) <= 2 + 6 * 6,
        "{:?}",
        server.log()
    );
}

#[tokio::test]
async fn what_is_not_the_blob_never_passes() {
    let (server, _) = serve(&[100_000], Faults::default()).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    server.misbehave(|f| f.flipped = true);
    let error = pull.layer(&resolved, 0).await.unwrap_err();
    assert!(matches!(error, OciError::Corrupt { .. }), "{error}");
    server.misbehave(|f| (f.flipped, f.doubled) = (false, true));
    let error = pull.layer(&resolved, 0).await.unwrap_err();
    assert!(
        matches!(error, OciError::Size { longer: true, .. }),
        "{error}"
    );
    server.misbehave(|f| (f.doubled, f.end_after_bytes, f.chunked) = (false, Some(99_999), true));
    let error = pull.layer(&resolved, 0).await.unwrap_err();
    assert!(
        matches!(error, OciError::Size { longer: false, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_corrupt_config_is_refused() {
    let (server, image) = serve(&[10], Faults::default()).await;
    let path = format!("blobs/{}", OciDigest::of(&image.config));
    let other: Bytes = image
        .config
        .iter()
        .map(|b| if *b == b'b' { b'c' } else { *b })
        .collect();
    server.put(&path, "", &other);
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(matches!(error, OciError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let faults = Faults {
        token_uses: Some(2),
        break_after_bytes: Some(20_000),
        ..Faults::default()
    };
    let (server, image) = serve(&[100_000], faults).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    assert_eq!(
        pull.layer(&resolved, 0).await.unwrap(),
        image.layers[0].as_ref()
    );
    assert!(
        server.count(&["/token", "service=test"]) >= 3,
        "{:?}",
        server.log()
    );
    assert!(
        server.count(&["/blobs/", "bytes=", "Bearer"]) >= 4,
        "{:?}",
        server.log()
    );
}

#[tokio::test]
async fn many_blobs_are_read_at_once_on_short_lived_tokens() {
    let faults = Faults {
        token_uses: Some(5),
        ..Faults::default()
    };
    let (server, image) = serve(&[50_000; 12], faults).await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    let all = (0..12).map(|number| pull.layer(&resolved, number));
    let all = futures::future::try_join_all(all).await.unwrap();
    assert!(
        all.iter()
            .zip(&image.layers)
            .all(|(read, layer)| read == layer)
    );
    // Fewer tokens than requests: those who wait share one.
    assert!(server.count(&["/token"]) <= 8, "{:?}", server.log());
}

#[tokio::test]
async fn a_token_that_is_never_accepted_is_given_up() {
    let (server, _) = serve(
        &[10],
        Faults {
            token_uses: Some(0),
            ..Faults::default()
        },
    )
    .await;
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(matches!(error, OciError::Denied { .. }), "{error}");
    assert_eq!(server.count(&["/token"]), 1 + RENEWALS_MAX as usize);
}

#[tokio::test]
async fn passwords_are_sent_when_asked_for_and_once_only() {
    let directory = tempfile::tempdir().unwrap();
    // user:pass
    let faults = Faults {
        basic: Some("Basic dXNlcjpwYXNz".to_owned()),
        ..Faults::default()
    };
    let (server, _) = serve(&[10], faults).await;
    let right = logged_in(directory.path(), &server, r#"{"auth":"dXNlcjpwYXNz"}"#);
    Pull::with(&server, ":v1", right).resolve().await.unwrap();
    assert_eq!(server.log()[0], "GET /v2/app/manifests/v1  ");
    let wrong = logged_in(
        directory.path(),
        &server,
        r#"{"username":"user","password":"no"}"#,
    );
    let before = server.log().len();
    let error = Pull::with(&server, ":v1", wrong)
        .resolve()
        .await
        .unwrap_err();
    assert!(matches!(error, OciError::Denied { .. }), "{error}");
    assert_eq!(server.log().len() - before, 2);
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(matches!(error, OciError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn token_servers_see_passwords_and_identity_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults {
        token_uses: Some(9),
        token_secret: Some("Basic dXNlcjpwYXNz".to_owned()),
        ..Faults::default()
    };
    let (server, _) = serve(&[10], faults).await;
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(matches!(error, OciError::Denied { .. }), "{error}");
    let password = logged_in(directory.path(), &server, r#"{"auth":"dXNlcjpwYXNz"}"#);
    Pull::with(&server, ":v1", password)
        .resolve()
        .await
        .unwrap();
    let form = "grant_type=refresh_token&refresh_token=s%26crt&client_id=nacre";
    server.misbehave(|f| f.token_secret = Some(form.to_owned()));
    let token = logged_in(directory.path(), &server, r#"{"identitytoken":"s&crt"}"#);
    Pull::with(&server, ":v1", token).resolve().await.unwrap();
    assert_eq!(server.count(&["POST /token"]), 1);
}

#[tokio::test]
async fn a_busy_registry_is_given_the_time_it_asks_for() {
    let (server, _) = serve(
        &[10],
        Faults {
            busy: Some((2, 7)),
            ..Faults::default()
        },
    )
    .await;
    let pull = Pull::new(&server, ":v1");
    pull.resolve().await.unwrap();
    assert_eq!(
        *pull.clock.waits.lock().unwrap(),
        [Duration::from_secs(7); 2]
    );
    server.misbehave(|f| f.busy = Some((1, 86_400)));
    let pull = Pull::new(&server, ":v1");
    pull.resolve().await.unwrap();
    assert_eq!(*pull.clock.waits.lock().unwrap(), [Duration::from_secs(60)]);
    server.misbehave(|f| f.status = Some(503));
    let before = server.log().len();
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(server.log().len() - before, 6);
}

#[tokio::test]
async fn large_manifests_are_not_read() {
    let (server, _) = serve(&[10], Faults::default()).await;
    let large = Bytes::from(vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1]);
    server.put("manifests/v1", OCI_MANIFEST, &large);
    for chunked in [false, true] {
        server.misbehave(|f| f.chunked = chunked);
        let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
        assert!(matches!(error, OciError::TooLarge { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_broken_manifest_is_read_again_and_given_up() {
    let (server, _) = serve(
        &[10],
        Faults {
            break_after_bytes: Some(20),
            ..Faults::default()
        },
    )
    .await;
    let error = Pull::new(&server, ":v1").resolve().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(server.count(&["/manifests/"]) >= MANIFEST_ATTEMPTS_MAX as usize);
}

#[tokio::test]
async fn another_host_does_not_see_the_credentials() {
    let (storage, image) = serve(&[1000], Faults::default()).await;
    let redirect = Some(format!(
        "http://{}",
        storage.address().replace("127.0.0.1", "localhost")
    ));
    let (server, _) = serve(
        &[1000],
        Faults {
            token_uses: Some(99),
            redirect,
            ..Faults::default()
        },
    )
    .await;
    let pull = Pull::new(&server, ":v1");
    let resolved = pull.resolve().await.unwrap();
    assert_eq!(
        pull.layer(&resolved, 0).await.unwrap(),
        image.layers[0].as_ref()
    );
    assert_eq!(storage.count(&["/blobs/"]), 2);
    assert_eq!(storage.count(&["Bearer"]), 0, "{:?}", storage.log());
}

#[test]
fn only_loopback_and_listed_hosts_are_reached_without_tls() {
    let listed = ["registry.lan".to_owned(), "other.lan:5000".to_owned()];
    for host in [
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:5000",
        "[::1]",
        "registry.lan:5000",
        "other.lan:5000",
    ] {
        assert!(is_plain_http(host, &listed), "{host}");
    }
    for host in [
        "docker.io",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "10.0.0.1",
        "[::2]",
        "other.lan:1",
    ] {
        assert!(!is_plain_http(host, &listed), "{host}");
    }
}
