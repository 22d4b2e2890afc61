//! Packs that are mostly garbage, and what becomes of who needs the rest.

use std::sync::Mutex;

use futures::{FutureExt, TryStreamExt};

use super::super::*;
use crate::fsck::tests::bench::{Bench, Stored, chunk};
use crate::pack::ItemKind;
use crate::testing::{HookStore, Operation, TokioClock};
use crate::{
    CrashPoint, FsckOptions, Origin, PackLoader, Reader, ReaderOptions, Ref, delete_ref,
    load_packs, secure, write_ref,
};

const READ: FsckOptions = FsckOptions {
    read_data: true,
    rebuild_index: false,
};

/// Collects without a hold.
async fn collect(bench: &Bench, clock: &Arc<dyn Clock>) -> GcReport {
    let options = GcOptions {
        hold: Duration::ZERO,
        ..GcOptions::default()
    };
    gc(Arc::clone(&bench.store), Arc::clone(clock), options)
        .await
        .unwrap()
}

/// A store with a pack of 20 chunks in 5 frames, of which an image needs two chunks in one frame.
async fn mostly_garbage() -> (Bench, Stored) {
    let bench = Bench::new();
    let a = bench.image("a", 0..20).await;
    let b = bench.image("b", 0..2).await;
    assert_eq!(a.data, b.data);
    delete_ref(&*bench.store, &a.reference).await.unwrap();
    (bench, b)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock::new())
}

async fn keys(bench: &Bench) -> Vec<String> {
    let listed: Vec<_> = bench.store.list("").try_collect().await.unwrap();
    let mut keys: Vec<_> = listed.iter().map(|o| o.key.to_string()).collect();
    keys.sort();
    keys
}

async fn is_there(bench: &Bench, pack: PackName) -> bool {
    bench.store.size(&pack.key()).await.is_ok()
}

async fn is_whole(bench: &Bench) {
    let report = bench.fsck(READ).await;
    assert_eq!(report.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_of_a_mostly_empty_pack_moves_and_every_reader_finds_it() {
    let (bench, b) = mostly_garbage().await;
    let clock = clock();
    let dry = GcOptions {
        dry_run: true,
        ..GcOptions::default()
    };
    let before = keys(&bench).await;
    let told = gc(Arc::clone(&bench.store), Arc::clone(&clock), dry)
        .await
        .unwrap();
    assert_eq!((told.sparse, told.repacked), (1, 0));
    assert!(told.bytes_sparse > 900_000, "{told:?}");
    assert_eq!(keys(&bench).await, before, "a dry run changes nothing");

    // A node that read of the image before, and one that never did.
    let store = Arc::clone(&bench.store);
    let knows = PackLoader::new(store, Arc::clone(&bench.index), crate::READ_WAIT_MAX).unwrap();
    let sources = || vec![Arc::new(Origin::new(Arc::clone(&bench.store))) as _];
    let knows = Reader::with_loader(Arc::new(knows), sources(), ReaderOptions::default());

    let report = collect(&bench, &clock).await;
    assert_eq!((report.sparse, report.repacked), (1, 1));
    assert!(report.bytes_repacked < 300_000);
    is_whole(&bench).await;
    assert!(is_there(&bench, b.data).await);
    let report = collect(&bench, &clock).await;
    assert_eq!((report.sparse, report.repacked), (0, 0));
    assert!(report.deleted > 0);
    assert!(!is_there(&bench, b.data).await);
    is_whole(&bench).await;
    let usage = usage(&bench.store).await.unwrap();
    assert!(usage.roots[0].bytes > 100_000, "{usage:?}");

    for number in 0..2 {
        let expected = chunk(number);
        let read = knows.chunk(expected.id()).await.unwrap();
        assert_eq!(read.bytes(), expected.bytes());
    }
    let record = Record::read(&*bench.store, b.record).await.unwrap();
    let fresh = Bench::over(Arc::clone(&bench.store));
    load_packs(&fresh.store, &fresh.index, &record.packs)
        .await
        .unwrap();
    assert!(fresh.index.is_moved(b.data).unwrap());
    let located = fresh.index.locate(ItemKind::Chunk(chunk(1).id())).unwrap();
    assert!(located.is_some());
    // Known from now on.
    assert!(fresh.index.contains(b.data).unwrap());
    let loader = PackLoader::new(
        Arc::clone(&fresh.store),
        Arc::clone(&fresh.index),
        crate::READ_WAIT_MAX,
    )
    .unwrap();
    loader.expect(&record.packs).await.unwrap();
    loader.settled(&record.packs).await;
    assert_eq!(loader.awaited(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_repacked_can_be_named_anew_and_all_goes_with_it() {
    let (bench, b) = mostly_garbage().await;
    let clock = clock();
    collect(&bench, &clock).await;
    collect(&bench, &clock).await;
    let record = Record::read(&*bench.store, b.record).await.unwrap();
    let needed = resolve_packs(&*bench.store, b.record, &record)
        .await
        .unwrap();
    assert!(!needed.contains(&b.data) && needed.len() == record.packs.len());
    secure(&*bench.store, &*clock, b.record, &record, None)
        .await
        .unwrap();
    delete_ref(&*bench.store, &b.reference).await.unwrap();
    // Condemned with all that it needs; named again; and gone for good.
    collect(&bench, &clock).await;
    secure(&*bench.store, &*clock, b.record, &record, None)
        .await
        .unwrap();
    let target = Ref {
        record: b.record,
        changed_ms: 0,
    };
    write_ref(&*bench.store, &b.reference, target, None)
        .await
        .unwrap();
    collect(&bench, &clock).await;
    is_whole(&bench).await;
    delete_ref(&*bench.store, &b.reference).await.unwrap();
    for _ in 0..3 {
        collect(&bench, &clock).await;
    }
    assert_eq!(keys(&bench).await, ["gc/epoch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_relies_on_the_old_pack_meanwhile_keeps_it() {
    let (bench, b) = mostly_garbage().await;
    let clock = clock();
    let store = Arc::clone(&bench.store);
    let done = Mutex::new(false);
    let record = Record::read(&*bench.store, b.record).await.unwrap();
    let other = Record {
        payload: b"another".to_vec(),
        ..record
    };
    let id = other.write(&*bench.store).await.unwrap();
    let hook = move |operation, key: &str| {
        let moves = operation == Operation::Create && key.starts_with("condemned/moved/");
        let now = moves && !std::mem::replace(&mut *done.lock().unwrap(), moves);
        let store = Arc::clone(&store);
        async move {
            if now {
                let target = Ref {
                    record: id,
                    changed_ms: 0,
                };
                let name = "images/c".parse().unwrap();
                write_ref(&*store, &name, target, None).await.unwrap();
            }
        }
        .boxed()
    };
    let hooked = Arc::new(HookStore::new(Arc::clone(&bench.store), hook));
    let options = GcOptions {
        hold: Duration::ZERO,
        ..GcOptions::default()
    };
    let report = gc(hooked, Arc::clone(&clock), options).await.unwrap();
    assert_eq!(report.repacked, 1);
    // The next run moves what the new record needs, too, and only then nothing needs the old pack.
    let report = collect(&bench, &clock).await;
    assert_eq!(report.repacked, 1);
    assert!(is_there(&bench, b.data).await);
    is_whole(&bench).await;
    collect(&bench, &clock).await;
    assert!(!is_there(&bench, b.data).await);
    is_whole(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_packs_and_more_than_a_run_may_copy_are_left_alone() {
    let (bench, b) = mostly_garbage().await;
    let clock = clock();
    let options = GcOptions {
        repack_bytes: 1000,
        ..GcOptions::default()
    };
    let report = gc(Arc::clone(&bench.store), Arc::clone(&clock), options)
        .await
        .unwrap();
    assert_eq!((report.sparse, report.repacked), (1, 0));
    let damage = |bytes: &mut Vec<u8>| bytes[20] ^= 1;
    bench.damage(&b.data.key(), damage).await;
    let report = collect(&bench, &clock).await;
    assert_eq!((report.sparse, report.repacked), (1, 0));
    bench.damage(&b.data.key(), damage).await;
    // A tree that cannot be read tells nothing of what is needed.
    bench.damage(&b.tree.key(), damage).await;
    let report = collect(&bench, &clock).await;
    assert_eq!((report.sparse, report.repacked), (0, 0));
    bench.damage(&b.tree.key(), damage).await;
    assert_eq!(collect(&bench, &clock).await.repacked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_while_it_repacks_loses_nothing() {
    let points = [
        CrashPoint::RepackPut,
        CrashPoint::RepackMoved,
        CrashPoint::RepackForgotten,
    ];
    for point in points {
        let (bench, b) = mostly_garbage().await;
        let clock = clock();
        let crashes = Arc::new(Mutex::new(0));
        let crash_once = || {
            let crashes = Arc::clone(&crashes);
            let crash = CrashHook::new(move |reached| {
                let is_first = {
                    let mut crashes = crashes.lock().unwrap();
                    *crashes += i32::from(reached == point);
                    reached == point && *crashes == 1
                };
                assert!(!is_first, "killed");
            });
            let options = GcOptions {
                hold: Duration::ZERO,
                crash,
                ..GcOptions::default()
            };
            let (store, clock) = (Arc::clone(&bench.store), Arc::clone(&clock));
            async {
                let died = tokio::spawn(gc(store, clock, options)).await.is_err();
                if died {
                    // Its leases have not expired; the next collector would wait for that.
                    for (name, _) in crate::list_leases(&*bench.store).await.unwrap() {
                        let lease = Key::new(format!("leases/{name}")).unwrap();
                        bench.store.delete(&lease).await.unwrap();
                    }
                }
            }
        };
        for _ in 0..4 {
            crash_once().await;
            is_whole(&bench).await;
        }
        assert!(!is_there(&bench, b.data).await, "{}", point.name());
        delete_ref(&*bench.store, &b.reference).await.unwrap();
        for _ in 0..5 {
            crash_once().await;
        }
        assert!(
            *crashes.lock().unwrap() > 0,
            "{} is not reached",
            point.name()
        );
        assert_eq!(keys(&bench).await, ["gc/epoch"], "{}", point.name());
    }
}
