//! `GET` and `HEAD`.

use super::*;

#[tokio::test]
async fn a_whole_object_is_answered() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    for tier in ["origin", "memory"] {
        let answer = lab.get(&path, &[]).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body, body());
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("content-length"), LEN.to_string());
        assert_eq!(answer.header("x-nacre-cache"), tier);
        assert!(answer.header("cache-control").contains("immutable"));
        assert_eq!(
            answer.header("etag"),
            format!("\"{}\"", Digest::of(b"object"))
        );
    }
}

#[tokio::test]
async fn ranges_are_answered_whatever_is_known_of_the_object() {
    let block = BLOCK as usize;
    for (header, range) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=5-9".to_owned(), 5..10),
        (
            format!("bytes={}-{}", block - 1, block),
            block - 1..block + 1,
        ),
        (format!("bytes={}-", 4 * block), 4 * block..LEN),
        (format!("bytes={}-99999999999", 5 * block), 5 * block..LEN),
        ("bytes=-7".to_owned(), LEN - 7..LEN),
        ("bytes=-99999999999".to_owned(), 0..LEN),
        (format!("bytes=0-{}", LEN - 1), 0..LEN),
    ] {
        // A member of its own, that knows nothing yet; the second time it knows all.
        let lab = Lab::threaded().await;
        let path = lab.object().await;
        for _ in 0..2 {
            let answer = lab.get(&path, &[("range", &header)]).await;
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{header}");
            assert_eq!(answer.body, body().slice(range.clone()), "{header}");
            let expected = format!("bytes {}-{}/{LEN}", range.start, range.end - 1);
            assert_eq!(answer.header("content-range"), expected);
        }
    }
}

#[tokio::test]
async fn ranges_that_the_object_has_not_are_refused() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    for header in [
        format!("bytes={LEN}-"),
        format!("bytes={LEN}-{LEN}"),
        "bytes=9999999999999-9999999999999".to_owned(),
        "bytes=18446744073709551614-18446744073709551615".to_owned(),
        "bytes=-0".to_owned(),
    ] {
        let answer = lab.get(&path, &[("range", &header)]).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{header}");
        assert_eq!(
            answer.header("content-range"),
            format!("bytes */{LEN}"),
            "{header}"
        );
    }
    let many = format!("bytes={}", vec!["0-1"; RANGES_MAX + 1].join(","));
    let answer = lab.get(&path, &[("range", &many)]).await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    // What is no range at all is ignored.
    let answer = lab.get(&path, &[("range", "lines=1-2")]).await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, body()));
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_answer() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    let header = format!("bytes=0-9, {}-{}, -5", BLOCK - 3, 2 * BLOCK + 2);
    let answer = lab.get(&path, &[("range", &header)]).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    let kind = answer.header("content-type").to_owned();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    assert_eq!(
        answer.header("content-length"),
        answer.body.len().to_string()
    );
    let mut rest = &answer.body[..];
    let block = BLOCK as usize;
    for range in [0..10, block - 3..2 * block + 3, LEN - 5..LEN] {
        let head = format!(
            "\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\
             content-range: bytes {}-{}/{LEN}\r\n\r\n",
            range.start,
            range.end - 1
        );
        rest = rest.strip_prefix(head.as_bytes()).unwrap();
        let (part, after) = rest.split_at(range.len());
        assert_eq!(part, &body()[range]);
        rest = after;
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
    // Of several ranges one may be left.
    let header = format!("bytes={LEN}-, 3-4");
    let answer = lab.get(&path, &[("range", &header)]).await;
    assert_eq!(answer.header("content-range"), format!("bytes 3-4/{LEN}"));
    assert_eq!(answer.body, body().slice(3..5));
}

#[tokio::test]
async fn long_ranges_from_the_disk_come_in_pieces_and_are_whole() {
    let folder = tempfile::TempDir::new().unwrap();
    let options = CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        disk: Some((folder.path().to_owned(), 64 << 20)),
        ..CacheOptions::default()
    };
    let long: Bytes = (0..5_000_000_u32)
        .map(|at| u8::try_from(at % 241).unwrap())
        .collect();
    {
        let mut lab = Lab::with(&options).await;
        let key = Key::new(&path()[1..]).unwrap();
        lab.store.put(&key, long.clone()).await.unwrap();
        assert_eq!(lab.get(&path(), &[]).await.body, long);
        lab.stop.take().unwrap().send(()).unwrap();
        lab.served.await.unwrap().unwrap();
    }
    let lab = Lab::with(&options).await;
    // Each block goes to memory when it was read often.
    for _ in 0..4 {
        for range in [0..5_000_000, 33_333..4_444_444, 1_048_575..1_048_577] {
            let header = format!("bytes={}-{}", range.start, range.end - 1);
            let answer = lab.get(&path(), &[("range", &header)]).await;
            assert!(answer.body == long.slice(range), "{header}");
        }
    }
    assert_eq!(lab.store.requests(), 0);
    let metrics = &lab.member.cache.metrics;
    assert!(metrics.tier(Tier::Disk).reads.get() > 20);
    assert!(metrics.tier(Tier::Memory).reads.get() > 0);
}

#[tokio::test]
async fn heads_tell_lengths() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    for _ in 0..2 {
        let answer = lab
            .ask(Method::HEAD, &path, &[("range", "bytes=1-2")], Bytes::new())
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-length"), LEN.to_string());
    }
    let missing = format!("/packs/{}", Digest::of(b"missing"));
    let answer = lab.ask(Method::HEAD, &missing, &[], Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_not_cached_is_not_fetched_for_who_wants_only_that() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    let only = ("cache-control", "no-transform, only-if-cached");
    let put = lab.store.requests();
    assert_eq!(
        lab.get(&path, &[only]).await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    assert_eq!(lab.store.requests(), put);
    lab.get(&path, &[("range", "bytes=0-0")]).await;
    assert_eq!(
        lab.get(&path, &[only]).await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    let first = ("range", "bytes=5-9");
    assert_eq!(
        lab.get(&path, &[only, first]).await.body,
        body().slice(5..10)
    );
}

#[tokio::test]
async fn conditions_are_heeded() {
    let lab = Lab::threaded().await;
    let path = lab.object().await;
    let etag = format!("\"{}\"", Digest::of(b"object"));
    for same in [&*etag, "*", &format!("\"x\", {etag}"), &format!("W/{etag}")] {
        let answer = lab.get(&path, &[("if-none-match", same)]).await;
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{same}");
    }
    assert_eq!(lab.store.count(Operation::GetRange).requests, 0);
    let answer = lab.get(&path, &[("if-none-match", "\"other\"")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let range = ("range", "bytes=1-2");
    let answer = lab.get(&path, &[range, ("if-range", &etag)]).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    for other in [
        "\"other\"",
        &format!("W/{etag}"),
        "Sun, 29 Nov 2026 00:00:00 GMT",
    ] {
        let answer = lab.get(&path, &[range, ("if-range", other)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{other}");
    }
}

#[tokio::test]
async fn an_origin_that_fails_in_the_middle_cuts_the_answer_off() {
    let lab = Lab::with(&CacheOptions {
        memory_bytes: MEMORY_BYTES_MIN,
        block_bytes: BLOCK_BYTES_MAX,
        ..CacheOptions::default()
    })
    .await;
    let path = lab.object().await;
    let key = Key::new(&path[1..]).unwrap();
    let long = Bytes::from(vec![7; 3 * BLOCK_BYTES_MAX as usize]);
    lab.store.put(&key, long).await.unwrap();
    let first = ("range", "bytes=0-0");
    assert_eq!(
        lab.get(&path, &[first]).await.status,
        StatusCode::PARTIAL_CONTENT
    );
    lab.store.set_partitioned(true);
    let url = format!("http://{}{path}", lab.address);
    let response = lab.http.get(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.bytes().await.unwrap_err();
}
