use futures::TryStreamExt;

use super::*;
use crate::testing::memory_store;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn store() -> FaultStore {
    let store = FaultStore::new(memory_store());
    store
        .put(&key("a/1"), Bytes::from_static(b"abcd"))
        .await
        .unwrap();
    store
        .put(&key("b/1"), Bytes::from_static(b"efgh"))
        .await
        .unwrap();
    store
}

#[tokio::test]
async fn faults_hit_only_what_they_are_meant_for_and_so_often() {
    let store = store().await;
    let fault = Fault::new(FaultKind::FailBefore)
        .on(&[Operation::Get])
        .below("a/")
        .times(2);
    store.inject(fault);
    store.get(&key("b/1"), 9).await.unwrap();
    store.size(&key("a/1")).await.unwrap();
    for _ in 0..2 {
        assert!(store.get(&key("a/1"), 9).await.unwrap_err().is_retryable());
    }
    store.get(&key("a/1"), 9).await.unwrap();
    assert_eq!(
        store.count(Operation::Get),
        Count {
            requests: 4,
            bytes: 8
        }
    );
}

#[tokio::test]
async fn writes_fail_before_or_after_they_are_applied() {
    let store = store().await;
    store.fail_next_puts_before(1);
    store.create(&key("c"), "x".into()).await.unwrap_err();
    store.fail_next_puts_after(1);
    store.create(&key("c"), "y".into()).await.unwrap_err();
    assert_eq!(store.get(&key("c"), 9).await.unwrap().0, "y");
    assert_eq!(
        store.count(Operation::Create),
        Count {
            requests: 2,
            bytes: 2
        }
    );
}

#[tokio::test]
async fn bodies_and_listings_are_damaged() {
    let store = store().await;
    store.truncate_next_gets(1, 3);
    assert_eq!(store.get_range(&key("a/1"), 0..4).await.unwrap(), "abc");
    store.flip_bit_in_next_gets(1, 8);
    assert_eq!(store.get(&key("a/1"), 9).await.unwrap().0, "accd");
    assert_eq!(store.get(&key("a/1"), 9).await.unwrap().0, "abcd");
    store.inject(
        Fault::new(FaultKind::Truncate(1))
            .on(&[Operation::List])
            .times(1),
    );
    let mut listing = store.list("");
    listing.next().await.unwrap().unwrap();
    listing.next().await.unwrap().unwrap_err();
    assert_eq!(
        store.list("").try_collect::<Vec<_>>().await.unwrap().len(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn delays_add_to_other_faults_and_a_partition_ends_with_healing() {
    let store = store().await;
    let clock = crate::testing::TokioClock::new();
    store.delay(Duration::from_millis(30));
    store.delay(Duration::from_millis(20));
    store.size(&key("a/1")).await.unwrap();
    assert_eq!(crate::Clock::elapsed(&clock), Duration::from_millis(50));
    store.set_partitioned(true);
    assert!(store.size(&key("a/1")).await.unwrap_err().is_retryable());
    store.heal();
    store.size(&key("a/1")).await.unwrap();
    assert_eq!(crate::Clock::elapsed(&clock), Duration::from_millis(50));
    assert_eq!(store.requests(), 5);
}
