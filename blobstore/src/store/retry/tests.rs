use std::collections::BTreeSet;

use futures::TryStreamExt;

use super::*;
use crate::testing::{Fault, FaultKind, FaultStore, Operation, TokioClock, memory_store};

struct Bench {
    memory: Arc<dyn BlobStore>,
    faults: Arc<FaultStore>,
    store: RetryStore,
    clock: Arc<TokioClock>,
}

fn bench() -> Bench {
    let (memory, clock) = (memory_store(), Arc::new(TokioClock::new()));
    let faults = Arc::new(FaultStore::new(Arc::clone(&memory)));
    let inner = Arc::clone(&faults) as Arc<dyn BlobStore>;
    let store = RetryStore::new(inner, Arc::clone(&clock) as _, RetryPolicy::default(), 1);
    Bench {
        memory,
        faults,
        store,
        clock,
    }
}

fn key() -> Key {
    Key::new("a/k").unwrap()
}

#[tokio::test(start_paused = true)]
async fn passing_trouble_is_ridden_out_and_lasting_trouble_ends() {
    let Bench { faults, store, .. } = bench();
    store.put(&key(), "x".into()).await.unwrap();
    faults.fail_next_gets(9);
    assert_eq!(store.get(&key(), 9).await.unwrap().0, "x");
    faults.reset_counts();
    faults.set_partitioned(true);
    let error = store.get(&key(), 9).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(
        faults.requests(),
        u64::from(RetryPolicy::default().attempts_max)
    );
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_not_repeated() {
    let Bench { faults, store, .. } = bench();
    assert!(matches!(
        store.get(&key(), 9).await,
        Err(StoreError::NotFound(_))
    ));
    store.create(&key(), "x".into()).await.unwrap();
    assert!(matches!(
        store.create(&key(), "x".into()).await,
        Err(StoreError::Exists(_))
    ));
    assert_eq!(
        faults.requests(),
        3,
        "the first refusal of a create is final, equal bytes or not"
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_at_the_deadline() {
    let Bench {
        faults,
        store,
        clock,
        ..
    } = bench();
    faults.delay(Duration::from_secs(1_000_000));
    let error = store.size(&key()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::TimedOut { seconds: 120, .. }),
        "{error}"
    );
    assert_eq!(clock.elapsed().as_secs(), 120);
    faults.heal();
    faults.inject(Fault::new(FaultKind::Delay(Duration::from_secs(50))));
    faults.inject(Fault::new(FaultKind::FailBefore));
    store.size(&key()).await.unwrap_err();
    assert!(
        clock.elapsed().as_secs() <= 240,
        "attempts share one deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_succeeds() {
    let Bench {
        memory,
        faults,
        store,
        ..
    } = bench();
    faults.fail_next_puts_after(1);
    let version = store.create(&key(), "ours".into()).await.unwrap();
    assert_eq!(
        memory.get(&key(), 9).await.unwrap(),
        ("ours".into(), version)
    );
}

#[tokio::test(start_paused = true)]
async fn a_create_that_failed_before_somebody_else_s_is_refused() {
    for theirs in ["them", "theirs, longer than ours"] {
        let Bench {
            memory,
            faults,
            store,
            ..
        } = bench();
        memory.put(&key(), theirs.into()).await.unwrap();
        faults.fail_next_puts_before(1);
        let refused = store.create(&key(), "ours".into()).await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replace_whose_answer_was_lost_succeeds() {
    let Bench {
        memory,
        faults,
        store,
        ..
    } = bench();
    let first = store.create(&key(), "1".into()).await.unwrap();
    faults.fail_next_puts_after(1);
    // The question what is stored fails at first, too.
    faults.fail_next_gets(1);
    let second = store.replace(&key(), "2".into(), &first).await.unwrap();
    assert_eq!(memory.get(&key(), 9).await.unwrap(), ("2".into(), second));
}

#[tokio::test(start_paused = true)]
async fn a_replace_that_lost_the_race_or_its_object_is_refused() {
    let Bench {
        memory,
        faults,
        store,
        ..
    } = bench();
    let first = store.create(&key(), "1".into()).await.unwrap();
    memory.put(&key(), "theirs".into()).await.unwrap();
    faults.fail_next_puts_before(1);
    let refused = store.replace(&key(), "2".into(), &first).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    memory.delete(&key()).await.unwrap();
    faults.fail_next_puts_before(1);
    let refused = store.replace(&key(), "2".into(), &first).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_listing_goes_on_and_tells_each_object_once() {
    let Bench { faults, store, .. } = bench();
    for i in 0..20 {
        store
            .put(&Key::new(format!("a/{i}")).unwrap(), "x".into())
            .await
            .unwrap();
    }
    for told in [5, 0, 3, 17] {
        faults.inject(
            Fault::new(FaultKind::Truncate(told))
                .on(&[Operation::List])
                .times(1),
        );
    }
    let objects: Vec<_> = store.list("a").try_collect().await.unwrap();
    let keys: BTreeSet<_> = objects.iter().map(|object| &object.key).collect();
    assert_eq!((objects.len(), keys.len()), (20, 20));
    assert_eq!(faults.count(Operation::List).requests, 5);
    faults.set_partitioned(true);
    store.list("a").try_collect::<Vec<_>>().await.unwrap_err();
}

#[tokio::test]
async fn waits_grow_to_their_bound_and_differ_by_seed() {
    let waits = |seed| {
        let policy = RetryPolicy::default();
        let shared = Shared {
            clock: Arc::new(TokioClock::new()),
            policy,
            jitter: Jitter::new(seed),
        };
        (0..40)
            .map(|failed| shared.backoff(failed))
            .collect::<Vec<_>>()
    };
    let first = waits(1);
    for (wait, bound_ms) in first
        .iter()
        .zip([100, 200, 400, 800, 1600, 3200, 6400, 10_000])
    {
        assert!(*wait <= Duration::from_millis(bound_ms));
    }
    let late = &first[7..];
    assert!(late.iter().all(|wait| *wait <= Duration::from_secs(10)));
    assert!(late.iter().any(|wait| *wait > Duration::from_secs(5)));
    assert!(
        late.iter().any(|wait| *wait < Duration::from_secs(5)),
        "full jitter"
    );
    assert_eq!(first, waits(1));
    assert_ne!(first, waits(2));
}
