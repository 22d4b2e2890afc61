//! `PUT` and reports.

use tempfile::TempDir;

use super::*;

fn hash(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

#[tokio::test]
async fn what_is_written_through_is_served_without_the_origin() {
    let folder = TempDir::new().unwrap();
    let on_disk = CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        disk: Some((folder.path().to_owned(), 10 << 20)),
        block_bytes: BLOCK,
        ..CacheOptions::default()
    };
    let in_memory = CacheOptions {
        disk: None,
        ..on_disk.clone()
    };
    for (options, status) in [
        (on_disk, StatusCode::CREATED),
        (in_memory, StatusCode::ACCEPTED),
    ] {
        let lab = Lab::with(&options).await;
        let sum = hash(&body());
        let answer = lab
            .ask(Method::PUT, &path(), &[("x-nacre-blake3", &sum)], body())
            .await;
        assert_eq!(answer.status, status);
        let answer = lab.get(&path(), &[]).await;
        assert_eq!((answer.body, answer.status), (body(), StatusCode::OK));
        assert_eq!(lab.store.requests(), 0);
    }
}

#[tokio::test]
async fn a_body_without_its_hash_is_not_kept() {
    let lab = Lab::start().await;
    let wrong = hash(b"other");
    for headers in [
        &[("x-nacre-blake3", &*wrong)][..],
        &[("x-nacre-blake3", "x")],
        &[],
    ] {
        let answer = lab.ask(Method::PUT, &path(), headers, body()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(lab.get(&path(), &[]).await.status, StatusCode::NOT_FOUND);
    // The limit is a part of the memory.
    let large = Bytes::from(vec![0; 9 << 20]);
    let sum = hash(&large);
    let answer = lab
        .ask(Method::PUT, &path(), &[("x-nacre-blake3", &sum)], large)
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let refs = format!("/refs/images/{}", Digest::of(b"x"));
    let answer = lab
        .ask(
            Method::PUT,
            &refs,
            &[("x-nacre-blake3", &hash(&body()))],
            body(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(lab.member.cache.budget.bytes(), 0, "nothing is held");
}

#[tokio::test]
async fn reported_bytes_are_fetched_anew() {
    let lab = Lab::start().await;
    let path = lab.object().await;
    lab.store.flip_bit_in_next_gets(1, 999);
    assert_ne!(lab.get(&path, &[]).await.body, body());
    let report = format!("{{\"key\":\"{}\",\"offset\":124,\"length\":1}}", &path[1..]);
    let answer = lab.ask(Method::POST, "/report", &[], report.into()).await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::OK, &b"{\"dropped\":1}\n"[..])
    );
    assert_eq!(lab.get(&path, &[]).await.body, body());
}

#[tokio::test]
async fn reports_are_bounded() {
    let lab = Lab::start().await;
    let key = path()[1..].to_owned();
    let report = async |text: String| {
        let answer = lab.ask(Method::POST, "/report", &[], text.into()).await;
        answer.status
    };
    for (text, status) in [
        ("{".to_owned(), StatusCode::BAD_REQUEST),
        (" ".repeat(5000), StatusCode::PAYLOAD_TOO_LARGE),
        (
            "{\"key\":\"refs/x\",\"offset\":0,\"length\":1}".to_owned(),
            StatusCode::NOT_FOUND,
        ),
        (
            format!("{{\"key\":\"{key}\",\"offset\":0,\"length\":{}}}", u64::MAX),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (
            format!("{{\"key\":\"{key}\",\"offset\":{},\"length\":9}}", u64::MAX),
            StatusCode::OK,
        ),
    ] {
        assert_eq!(report(text.clone()).await, status, "{text:?}");
    }
    let text = format!("{{\"key\":\"{key}\",\"offset\":0,\"length\":1}}");
    let mut refused = 0;
    for _ in 0..300 {
        let status = report(text.clone()).await;
        refused += u32::from(status == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(refused > 0, "they are too many");
}

#[tokio::test]
async fn parts_of_an_object_are_kept_where_they_belong() {
    let lab = Lab::start().await;
    let block = BLOCK as usize;
    let put = async |range: std::ops::Range<usize>| {
        let part = body().slice(range.clone());
        let content_range = format!("bytes {}-{}/{LEN}", range.start, range.end - 1);
        let headers = [
            ("x-nacre-blake3", &*hash(&part)),
            ("content-range", &*content_range),
        ];
        lab.ask(Method::PUT, &path(), &headers, part.clone())
            .await
            .status
    };
    assert_eq!(put(2 * block..4 * block).await, StatusCode::ACCEPTED);
    assert_eq!(put(5 * block..LEN).await, StatusCode::ACCEPTED);
    assert_eq!(put(1..block).await, StatusCode::BAD_REQUEST);
    for (range, here) in [
        (2 * block..4 * block, true),
        (5 * block + 7..LEN, true),
        (4 * block - 1..4 * block + 1, false),
    ] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let headers = [("range", &*header), ("cache-control", "only-if-cached")];
        let answer = lab.get(&path(), &headers).await;
        if here {
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
            assert_eq!(answer.body, body().slice(range));
        } else {
            assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        }
    }
    assert_eq!(lab.store.requests(), 0);
}
