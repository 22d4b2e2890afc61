use std::future::pending;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::Key;
use crate::testing::TokioClock;

fn options(config: &[(&str, &str)]) -> StoreOptions {
    let mut options = StoreOptions::new(Arc::new(TokioClock::new()), 1);
    options.config = config
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    options
}

#[test]
fn urls_are_parsed_strictly_and_print_as_they_were() {
    for good in [
        "memory:",
        "memory:?delay_ms=20",
        "file:///var/lib/nacre/store",
        "file:///a%20b?delay_ms=1",
        "file:///a?journal=/tmp/journal",
        "s3://bucket/x?delay_ms=40&journal=/tmp/journal",
        "s3://bucket",
        "s3://bucket/some/prefix",
        "s3://Bucket.with-dots/x?delay_ms=60000",
        "gs://bucket/p",
        "az://container/p",
    ] {
        assert_eq!(good.parse::<StoreUrl>().unwrap().to_string(), good);
    }
    let slashes: StoreUrl = "s3://bucket/p/".parse().unwrap();
    assert_eq!(slashes.to_string(), "s3://bucket/p");
    let directory: StoreUrl = "file:///a%20b/c".parse().unwrap();
    assert_eq!(directory.as_directory(), Some(Path::new("/a b/c")));
    assert_eq!(StoreUrl::directory("/a b/c"), directory);
}

#[test]
fn what_names_no_store_is_refused() {
    for bad in [
        "",
        "bucket",
        "/var/lib",
        "http://host/bucket",
        "s3:",
        "s3://",
        "s3:///prefix",
        "s3://bucket/a//b",
        "s3://bucket/a b",
        "s3://bucket/a/../b",
        "s3://key:secret@bucket/p",
        "s3://bucket:9000/p",
        "s3://bucket/p#x",
        "s3://bucket?region=x",
        "file://host/path",
        "memory:///x",
        "memory:x",
        "memory:?delay_ms=-1",
        "memory:?delay_ms=60001",
        "memory:?delay_ms=",
        "memory:?journal=relative",
        "memory:?journal=/a%26delay_ms",
    ] {
        assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn clients_are_built_from_the_clouds_own_names() {
    let url: StoreUrl = "s3://bucket/p".parse().unwrap();
    let config = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-key"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_PROFILE", "unknown to the client"),
        ("AWS_BUCKET", "of no effect"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
    ];
    let options = options(&config);
    open(&url, &options).unwrap();
    assert!(!format!("{options:?}").contains("hidden-key"));
    let mut wrong = options;
    wrong
        .config
        .insert("AWS_ALLOW_HTTP".into(), "perhaps".into());
    let error = open(&url, &wrong).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn delays_count_once_a_request() {
    let options = options(&[]);
    let store = open(&"memory:?delay_ms=20".parse().unwrap(), &options).unwrap();
    let key = Key::new("k").unwrap();
    store.put(&key, "x".into()).await.unwrap();
    store.get(&key, 1).await.unwrap();
    assert_eq!(options.clock.elapsed(), Duration::from_millis(40));
}

#[tokio::test]
async fn a_directory_is_created_and_keeps_what_was_stored() {
    let parent = tempfile::tempdir().unwrap();
    let url = StoreUrl::directory(parent.path().join("a/b"));
    let key = Key::new("k").unwrap();
    open(&url, &options(&[]))
        .unwrap()
        .put(&key, "x".into())
        .await
        .unwrap();
    assert_eq!(
        open(&url, &options(&[]))
            .unwrap()
            .get(&key, 1)
            .await
            .unwrap()
            .0,
        "x"
    );
    std::fs::write(parent.path().join("file"), "").unwrap();
    open(
        &StoreUrl::directory(parent.path().join("file")),
        &options(&[]),
    )
    .unwrap_err();
}

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Keeps the connection and says nothing.
    Nothing,
    /// Sends half of the body and says no more.
    Half,
    /// Answers.
    All,
}

/// Starts a server with one object of 4 bytes, which does `first` with the first request and answers
/// all others. Returns a store there whose calls may take 8 seconds and `attempts` attempts.
async fn stumbling(first: Does, attempts: u32) -> Arc<dyn BlobStore> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut does = first;
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(connection, does));
            does = Does::All;
        }
    });
    let mut options = options(&[
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("AWS_REGION", "r"),
    ]);
    options.retry.deadline = Duration::from_secs(8);
    options.retry.attempts_max = attempts;
    open(&"s3://bucket".parse().unwrap(), &options).unwrap()
}

/// Serves the one request of a connection, and keeps it open.
async fn serve(mut connection: TcpStream, does: Does) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await.unwrap());
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"e\"\r\n\
                Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
    let answer = match does {
        Does::Nothing => String::new(),
        Does::Half => format!("{head}bo"),
        Does::All => format!("{head}body"),
    };
    connection.write_all(answer.as_bytes()).await.unwrap();
    pending::<()>().await;
}

#[tokio::test]
async fn a_request_that_nobody_answers_is_made_again() {
    let store = stumbling(Does::Nothing, 1).await;
    let (body, _) = store.get(&Key::new("k").unwrap(), 4).await.unwrap();
    assert_eq!(body, "body");
}

#[tokio::test]
async fn a_body_that_stops_in_the_middle_is_an_error_that_may_pass() {
    let key = Key::new("k").unwrap();
    let once = stumbling(Does::Half, 1).await;
    let error = once.get(&key, 4).await.unwrap_err();
    assert!(error.is_retryable());
    let error = error.to_string();
    assert!(
        error.contains("nothing comes after 2 of 4 bytes"),
        "{error}"
    );
    let twice = stumbling(Does::Half, 2).await;
    assert_eq!(twice.get(&key, 4).await.unwrap().0, "body");
}
