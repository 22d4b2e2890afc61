use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use nacre_blobstore::{PackId, PackKind};

use super::*;

/// What a member serves: the bytes of every pack, and how often it was asked.
#[derive(Debug, Default)]
struct Member {
    asked: AtomicU64,
    /// Answers with this many bytes too few.
    short_by: usize,
}

const BODY: &[u8] = b"0123456789";

async fn serve(
    State(member): State<Arc<Member>>,
    Path(_): Path<(String, String)>,
    headers: HeaderMap,
) -> (StatusCode, Vec<u8>) {
    member.asked.fetch_add(1, Ordering::SeqCst);
    let range = headers["range"]
        .to_str()
        .unwrap()
        .strip_prefix("bytes=")
        .unwrap();
    let (start, last) = range.split_once('-').unwrap();
    let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
    (
        StatusCode::PARTIAL_CONTENT,
        BODY[start..=last - member.short_by].to_vec(),
    )
}

async fn start(member: Member) -> (String, Arc<Member>) {
    let member = Arc::new(member);
    let routes = Router::new()
        .route("/{folder}/{id}", get(serve))
        .with_state(Arc::clone(&member));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, member)
}

fn pack(number: u8) -> PackName {
    PackName {
        kind: PackKind::Data,
        id: PackId::new(Digest::of(&[number])),
    }
}

#[tokio::test]
async fn a_range_is_fetched_and_always_from_the_same_member() {
    let (one, member_one) = start(Member::default()).await;
    let (two, member_two) = start(Member::default()).await;
    let region = RegionCache::new(vec![one.clone(), two.clone()]).unwrap();
    let turned = RegionCache::new(vec![two, one]).unwrap();
    for number in 0..32 {
        for client in [&region, &turned] {
            let bytes = client.fetch(pack(number), 2..5).await.unwrap();
            assert_eq!(bytes.into_untrusted(), &b"234"[..]);
        }
    }
    let asked = [&member_one, &member_two].map(|member| member.asked.load(Ordering::SeqCst));
    assert_eq!(asked.iter().sum::<u64>(), 64);
    assert!(
        asked.iter().all(|count| count % 2 == 0 && *count > 8),
        "{asked:?}"
    );
}

#[tokio::test]
async fn short_answers_and_dead_members_are_errors_that_may_pass() {
    let (short, _member) = start(Member {
        short_by: 1,
        ..Member::default()
    })
    .await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for members in [vec![short], vec![unused.to_string()], vec![]] {
        let region = RegionCache::new(members).unwrap();
        let error = region.fetch(pack(1), 0..4).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
}
