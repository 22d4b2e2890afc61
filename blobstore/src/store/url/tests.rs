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
