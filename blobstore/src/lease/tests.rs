use std::sync::atomic::AtomicU64;

use super::*;
use crate::testing::memory_store;

/// Wall time that the test sets; sleeping waits on tokio's paused clock.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

#[async_trait::async_trait]
impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        self.0.fetch_add(millis(duration), Ordering::Relaxed);
    }
}

fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::default())
}

#[tokio::test(start_paused = true)]
async fn is_exclusive_while_held_and_free_after_release() {
    let (store, clock) = (memory_store(), clock());
    let acquire = || Lease::acquire(Arc::clone(&store), Arc::clone(&clock) as _, "gc", "me");
    let lease = acquire().await.unwrap();
    assert!(matches!(acquire().await, Err(LeaseError::Held { holder, .. }) if holder == "me"));
    // Renewed well beyond its first expiry.
    tokio::time::sleep(LEASE_TTL * 3).await;
    lease.check().unwrap();
    assert!(matches!(acquire().await, Err(LeaseError::Held { .. })));
    lease.release().await.unwrap();
    assert_eq!(acquire().await.unwrap().token(), 1);
}

#[tokio::test(start_paused = true)]
async fn is_taken_over_after_expiry_with_a_larger_token_and_the_late_holder_learns() {
    let (store, clock) = (memory_store(), clock());
    let acquire = || Lease::acquire(Arc::clone(&store), Arc::clone(&clock) as _, "gc", "me");
    let late = acquire().await.unwrap();
    clock
        .0
        .fetch_add(millis(LEASE_TTL) + CLOCK_SKEW_MAX_MS - 1, Ordering::Relaxed);
    assert!(matches!(acquire().await, Err(LeaseError::Held { .. })));
    clock.0.fetch_add(1, Ordering::Relaxed);
    let next = acquire().await.unwrap();
    assert_eq!(next.token(), 2);
    tokio::time::sleep(LEASE_TTL).await;
    assert!(matches!(late.check(), Err(LeaseError::Lost { .. })));
    next.check().unwrap();
    late.release().await.unwrap();
    assert!(
        matches!(acquire().await, Err(LeaseError::Held { .. })),
        "released only its own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_did_not_run_is_told_before_its_renewal_is() {
    let (store, clock) = (memory_store(), clock());
    let lease = Lease::acquire(Arc::clone(&store), Arc::clone(&clock) as _, "a", "me")
        .await
        .unwrap();
    clock.0.fetch_add(millis(LEASE_TTL) - 1, Ordering::Relaxed);
    lease.check().unwrap();
    clock.0.fetch_add(1, Ordering::Relaxed);
    assert!(matches!(lease.check(), Err(LeaseError::Lost { .. })));
    // Nor does the renewal bring it back: meanwhile it protected nothing.
    tokio::time::sleep(LEASE_TTL).await;
    assert!(matches!(lease.check(), Err(LeaseError::Lost { .. })));
}

#[tokio::test(start_paused = true)]
async fn all_leases_are_listed_with_when_they_were_acquired_and_end() {
    let (store, clock) = (memory_store(), clock());
    clock.0.store(1000, Ordering::Relaxed);
    let acquire = |name| Lease::acquire(Arc::clone(&store), Arc::clone(&clock) as _, name, "me");
    let (b, a) = (acquire("b").await.unwrap(), acquire("a").await.unwrap());
    tokio::time::sleep(LEASE_TTL * 2).await;
    let listed = list_leases(&*store).await.unwrap();
    assert_eq!(
        listed.iter().map(|l| l.0.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    let (_, record) = &listed[0];
    assert_eq!(record.acquired_ms, 1000);
    assert!(record.expires_ms > 1000 + 2 * millis(LEASE_TTL));
    assert!(record.is_live(record.expires_ms + CLOCK_SKEW_MAX_MS - 1));
    assert!(!record.is_live(record.expires_ms + CLOCK_SKEW_MAX_MS));
    a.release().await.unwrap();
    b.release().await.unwrap();
    assert_eq!(list_leases(&*store).await.unwrap(), []);
}
