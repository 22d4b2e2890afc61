//! Runs of the collector, one at a time, and what it does when it dies at each of its points.

use std::sync::Mutex;

use futures::{FutureExt, TryStreamExt};

use super::super::*;
use crate::fsck::tests::bench::Bench;
use crate::testing::{HookStore, Operation, TokioClock};
use crate::{CrashPoint, FsckOptions, delete_ref, read_ref, write_ref};

const READ: FsckOptions = FsckOptions {
    read_data: true,
    rebuild_index: false,
};

fn options(hold: Duration) -> GcOptions {
    GcOptions {
        hold,
        holder: "test".to_owned(),
        ..GcOptions::default()
    }
}

async fn collect(bench: &Bench, options: GcOptions) -> Result<GcReport, GcError> {
    gc(
        Arc::clone(&bench.store),
        Arc::new(TokioClock::new()),
        options,
    )
    .await
}

/// Collects without a hold.
async fn collect_at_once(bench: &Bench, clock: &Arc<dyn Clock>) -> Result<GcReport, GcError> {
    let (store, clock) = (Arc::clone(&bench.store), Arc::clone(clock));
    gc(store, clock, options(Duration::ZERO)).await
}

async fn keys(bench: &Bench) -> Vec<String> {
    let listed: Vec<_> = bench.store.list("").try_collect().await.unwrap();
    let mut keys: Vec<_> = listed.iter().map(|o| o.key.to_string()).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_ref_reaches_goes_after_the_hold_and_the_rest_stays() {
    let bench = Bench::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let (a, b) = (
        bench.image("a", 0..10).await,
        bench.image("b", 10..20).await,
    );
    let before = keys(&bench).await;
    let run = |hold| gc(Arc::clone(&bench.store), Arc::clone(&clock), options(hold));
    let report = run(Duration::ZERO).await.unwrap();
    assert_eq!((report.refs, report.packs, report.bytes_garbage), (2, 4, 0));
    assert_eq!(keys(&bench).await, before, "nothing to do leaves no trace");

    delete_ref(&*bench.store, &a.reference).await.unwrap();
    let report = run(GC_HOLD).await.unwrap();
    assert_eq!((report.condemned, report.deleted), (4, 0));
    assert!(report.bytes_garbage > 0 && report.bytes > report.bytes_garbage);
    let held = run(GC_HOLD).await.unwrap();
    assert_eq!((held.condemned, held.held, held.deleted), (0, 4, 0));
    let report = bench.fsck(READ).await;
    assert_eq!((report.condemned.len(), report.garbage), (4, vec![]));
    assert!(report.bytes_garbage > 0);
    let dry = GcOptions {
        dry_run: true,
        ..options(Duration::ZERO)
    };
    let state = keys(&bench).await;
    let dry = gc(Arc::clone(&bench.store), Arc::clone(&clock), dry).await;
    let dry = dry.unwrap();
    assert_eq!((dry.deleted, dry.held), (4, 0));
    assert_eq!(keys(&bench).await, state, "a dry run changes nothing");

    let swept = run(Duration::ZERO).await.unwrap();
    assert_eq!((swept.deleted, swept.bytes_garbage, swept.packs), (4, 0, 2));
    let report = bench.fsck(READ).await;
    assert_eq!((report.problems, report.garbage), (vec![], vec![]));
    delete_ref(&*bench.store, &b.reference).await.unwrap();
    run(Duration::ZERO).await.unwrap();
    run(Duration::ZERO).await.unwrap();
    assert_eq!(keys(&bench).await, ["gc/epoch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_older_than_a_note_holds_it() {
    let bench = Bench::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let a = bench.image("a", 0..10).await;
    delete_ref(&*bench.store, &a.reference).await.unwrap();
    let (store, time) = (Arc::clone(&bench.store), Arc::clone(&clock));
    let lease = Lease::acquire(store, time, "writer", "me").await.unwrap();
    let run = || collect_at_once(&bench, &clock);
    run().await.unwrap();
    let held = run().await.unwrap();
    assert_eq!((held.deleted, held.held, held.leases), (0, 4, 1));
    lease.release().await.unwrap();
    assert_eq!(run().await.unwrap().deleted, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_at_a_time() {
    let bench = Bench::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let store = Arc::clone(&bench.store);
    let lease = Lease::acquire(store, clock, GC_LEASE, "other")
        .await
        .unwrap();
    let error = collect(&bench, options(GC_HOLD)).await.unwrap_err();
    assert!(matches!(error, GcError::Lease(LeaseError::Held { .. })));
    lease.release().await.unwrap();
    collect(&bench, options(GC_HOLD)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_while_a_root_cannot_be_followed() {
    let bench = Bench::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let (a, b) = (
        bench.image("a", 0..10).await,
        bench.image("b", 10..20).await,
    );
    delete_ref(&*bench.store, &a.reference).await.unwrap();
    let run = || collect_at_once(&bench, &clock);
    run().await.unwrap();
    let damage = |bytes: &mut Vec<u8>| bytes[40] ^= 1;
    bench.damage(&b.record.key(), damage).await;
    let error = run().await.unwrap_err();
    assert!(matches!(error, GcError::Record { .. }), "{error}");
    bench.damage(&b.record.key(), damage).await;
    bench.damage(&b.reference.key(), damage).await;
    let error = run().await.unwrap_err();
    assert!(matches!(error, GcError::Ref(_)), "{error}");
    assert!(bench.store.size(&a.data.key()).await.is_ok());
    bench.damage(&b.reference.key(), damage).await;
    assert_eq!(run().await.unwrap().deleted, 4);
}

/// A ref that comes back while its record's note is doomed, by a writer that read no note: only the
/// mark after the dooming can see it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_reached_again_before_the_last_mark_stays() {
    let bench = Bench::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let a = bench.image("a", 0..10).await;
    let target = read_ref(&*bench.store, &a.reference)
        .await
        .unwrap()
        .unwrap()
        .0;
    delete_ref(&*bench.store, &a.reference).await.unwrap();
    collect_at_once(&bench, &clock).await.unwrap();
    let (store, done) = (Arc::clone(&bench.store), Mutex::new(false));
    let reference = a.reference.clone();
    let hook = move |operation, key: &str| {
        let dooms = operation == Operation::Replace && key.starts_with("condemned/");
        let now = dooms && !std::mem::replace(&mut *done.lock().unwrap(), dooms);
        let (store, reference) = (Arc::clone(&store), reference.clone());
        async move {
            if now {
                write_ref(&*store, &reference, target, None).await.unwrap();
            }
        }
        .boxed()
    };
    let hooked = Arc::new(HookStore::new(Arc::clone(&bench.store), hook));
    let report = gc(hooked, clock, options(Duration::ZERO)).await.unwrap();
    assert_eq!((report.deleted, report.rescued), (0, 4));
    assert_eq!(bench.fsck(READ).await.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_anywhere_leaves_a_consistent_store_and_the_next_one_goes_on() {
    for point in CrashPoint::COLLECTION {
        for passing in 1..=3 {
            let bench = Bench::new();
            let a = bench.image("a", 0..10).await;
            bench.image("b", 5..20).await;
            let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
            delete_ref(&*bench.store, &a.reference).await.unwrap();
            let left = Arc::new(Mutex::new(passing));
            for _ in 0..3 {
                let left = Arc::clone(&left);
                let crash = CrashHook::new(move |reached| {
                    let mut left = left.lock().unwrap();
                    *left -= i32::from(reached == point);
                    assert!(reached != point || *left != 0, "killed");
                });
                let options = GcOptions {
                    crash,
                    ..options(Duration::ZERO)
                };
                let run = gc(Arc::clone(&bench.store), Arc::clone(&clock), options);
                if tokio::spawn(run).await.is_err() {
                    // Its lease has not expired; the next collector would wait for that.
                    let lease = Key::new("leases/gc").unwrap();
                    bench.store.delete(&lease).await.unwrap();
                }
                let report = bench.fsck(READ).await;
                assert_eq!(report.problems, Vec::<String>::new(), "{}", point.name());
            }
            let run = || collect_at_once(&bench, &clock);
            run().await.unwrap();
            run().await.unwrap();
            let report = bench.fsck(READ).await;
            assert_eq!((report.problems, report.garbage), (vec![], vec![]));
            let notes = keys(&bench).await;
            assert!(!notes.iter().any(|key| key.starts_with("condemned/")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_tells_what_goes_with_each_ref() {
    let bench = Bench::new();
    let a = bench.image("a", 0..10).await;
    let b = bench.image("b", 0..20).await;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let found = usage(&bench.store).await.unwrap();
    let of = |name: &RefName| {
        let root = found.roots.iter().find(|root| root.name == *name);
        root.unwrap().clone()
    };
    assert_eq!(found.roots.len(), 2);
    let (a_root, b_root) = (of(&a.reference), of(&b.reference));
    assert!(a_root.bytes_alone < a_root.bytes, "its chunks serve b, too");
    assert!(b_root.bytes_alone < b_root.bytes);
    delete_ref(&*bench.store, &b.reference).await.unwrap();
    let report = gc(bench.store, clock, options(GC_HOLD)).await.unwrap();
    assert_eq!(report.bytes_garbage, b_root.bytes_alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_expire_when_their_owner_says_so_and_a_trace_with_its_tree() {
    let bench = Bench::new();
    let a = bench.image("a", 0..10).await;
    let b = bench.image("b", 10..20).await;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let expired = b.reference.clone();
    let options = GcOptions {
        expiry: Some(Arc::new(move |name: &RefName, _: &Record, _| {
            *name == expired
        })),
        ..options(GC_HOLD)
    };
    let report = gc(Arc::clone(&bench.store), clock, options).await.unwrap();
    assert_eq!(
        (report.refs_expired, report.refs, report.condemned),
        (1, 1, 4)
    );
    assert!(
        read_ref(&*bench.store, &a.reference)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        read_ref(&*bench.store, &b.reference)
            .await
            .unwrap()
            .is_none()
    );
}
