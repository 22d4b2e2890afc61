//! Every kind of damage, and what the report says of it.

pub(crate) mod bench;

use std::sync::Mutex;

use futures::FutureExt;

use super::*;
use crate::testing::{Fault, FaultKind, FaultStore, HookStore, Operation};
use crate::{delete_ref, sync_index};
use bench::{Bench, chunk};

const CHECK: FsckOptions = FsckOptions {
    read_data: false,
    rebuild_index: false,
};
const READ: FsckOptions = FsckOptions {
    read_data: true,
    rebuild_index: false,
};
const REBUILD: FsckOptions = FsckOptions {
    read_data: false,
    rebuild_index: true,
};

fn flip(at: u64) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[usize::try_from(at).unwrap()] ^= 0x10
}

fn has(report: &FsckReport, parts: &[&str]) -> bool {
    report
        .problems
        .iter()
        .any(|problem| parts.iter().all(|part| problem.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_store_has_no_problems() {
    let bench = Bench::new();
    let empty = bench.fsck(READ).await;
    assert_eq!(
        (empty.problems, empty.refs, empty.packs),
        (Vec::<String>::new(), 0, 0)
    );
    let stored = bench.image("a", 0..10).await;
    bench.image("b", 5..20).await;
    let known = Bench::over(Arc::clone(&bench.store));
    for (bench, options) in [
        (&bench, READ),
        (&bench, REBUILD),
        (&known, READ),
        (&known, REBUILD),
    ] {
        let report = bench.fsck(options).await;
        assert_eq!(report.problems, Vec::<String>::new());
        assert!(report.corrupt.is_empty() && report.garbage.is_empty());
        assert_eq!((report.refs, report.records, report.packs), (2, 2, 4));
        assert_eq!(report.items, 20 + 4);
        let data = bench.bytes(&stored.data.key()).await;
        assert!(report.bytes > data.len() as u64 && report.bytes_garbage == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_told_of_and_forgotten() {
    let bench = Bench::new();
    let stored = bench.image("a", 0..10).await;
    bench.store.delete(&stored.data.key()).await.unwrap();
    let other = Bench::over(Arc::clone(&bench.store));
    for bench in [&bench, &other] {
        for options in [CHECK, READ] {
            let report = bench.fsck(options).await;
            let key = stored.data.key();
            assert!(has(
                &report,
                &[key.as_str(), "needed by a record and not there"]
            ));
            assert!(has(&report, &[&chunk(3).id().to_string(), "missing"]));
            assert_eq!(report.garbage, [stored.data.index_key().to_string()]);
        }
        assert_eq!(
            bench.index.chunk(chunk(3).id()).unwrap(),
            None,
            "nobody relies on it"
        );
    }
    bench.image("b", 0..10).await;
    assert!(
        bench.index.chunk(chunk(3).id()).unwrap().is_some(),
        "stored again"
    );
    assert_eq!(
        bench.fsck(READ).await.problems,
        Vec::<String>::new(),
        "which heals image a, too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pack_is_forgotten_and_the_others_are_not() {
    let bench = Bench::new();
    let (a, b) = (
        bench.image("a", 0..10).await,
        bench.image("b", 10..20).await,
    );
    bench.store.delete(&a.data.index_key()).await.unwrap();
    bench.store.delete(&a.data.key()).await.unwrap();
    assert!(bench.index.contains(a.data).unwrap());
    let unreadable = sync_index(&bench.store, &bench.index).await.unwrap();
    assert!(unreadable.is_empty());
    assert_eq!(
        bench.index.packs().unwrap(),
        BTreeSet::from([a.tree, b.data, b.tree])
    );
    assert_eq!(bench.index.chunk(chunk(3).id()).unwrap(), None);
    assert!(bench.index.chunk(chunk(13).id()).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_written_during_a_sync_stays_known() {
    let bench = Bench::new();
    bench.image("a", 0..10).await;
    let writer = Arc::new(Bench {
        _dir: tempfile::tempdir().unwrap(),
        store: Arc::clone(&bench.store),
        index: Arc::clone(&bench.index),
    });
    let written = Arc::new(Mutex::new(false));
    let hook = {
        let (writer, written) = (Arc::clone(&writer), Arc::clone(&written));
        move |operation, folder: &str| {
            // Both folders of copies are listed by then.
            let now = operation == Operation::List && folder == "packs";
            let now = now && !std::mem::replace(&mut *written.lock().unwrap(), now);
            let writer = Arc::clone(&writer);
            async move {
                if now {
                    writer.image("b", 10..20).await;
                }
            }
            .boxed()
        }
    };
    let hooked: Arc<dyn BlobStore> = Arc::new(HookStore::new(Arc::clone(&bench.store), hook));
    sync_index(&hooked, &bench.index).await.unwrap();
    assert!(*written.lock().unwrap());
    assert!(bench.index.chunk(chunk(13).id()).unwrap().is_some());
    assert!(bench.index.chunk(chunk(3).id()).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_added_during_a_check_is_no_problem() {
    for folder in ["refs", "index/packs", "packs", "trees", "records"] {
        let bench = Bench::new();
        bench.image("a", 0..10).await;
        let writer = Arc::new(Bench::over(Arc::clone(&bench.store)));
        let left = Arc::new(Mutex::new(1));
        let hook = move |operation, listed: &str| {
            let mut left = left.lock().unwrap();
            let now = operation == Operation::List && listed == folder && *left > 0;
            *left -= i32::from(now);
            let writer = Arc::clone(&writer);
            async move {
                if now {
                    writer.image("b", 10..20).await;
                }
            }
            .boxed()
        };
        let hooked: Arc<dyn BlobStore> = Arc::new(HookStore::new(Arc::clone(&bench.store), hook));
        let report = fsck(hooked, Arc::clone(&bench.index), READ).await.unwrap();
        assert_eq!(
            report.problems,
            Vec::<String>::new(),
            "before {folder} is listed"
        );
        assert_eq!(bench.fsck(CHECK).await.refs, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_damaged_copy_of_an_index_is_restored() {
    for damaged in [false, true] {
        let bench = Bench::new();
        let stored = bench.image("a", 0..10).await;
        let copy = stored.data.index_key();
        let before = bench.bytes(&copy).await;
        if damaged {
            bench.damage(&copy, flip(30)).await;
        } else {
            bench.store.delete(&copy).await.unwrap();
        }
        let report = bench.fsck(CHECK).await;
        assert!(!report.problems.is_empty());
        assert_eq!(bench.fsck(REBUILD).await.problems, Vec::<String>::new());
        assert_eq!(bench.bytes(&copy).await, before);
        assert_eq!(bench.fsck(READ).await.problems, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_damages_the_items_of_its_frame() {
    let bench = Bench::new();
    let stored = bench.image("a", 0..10).await;
    let key = stored.data.key();
    let frames = bench.frames(stored.data).await;
    assert_eq!(
        frames.iter().map(|f| f.1.len()).collect::<Vec<_>>(),
        [4, 4, 2]
    );
    for (range, items) in &frames {
        for at in [range.start, range.end - 1] {
            bench.damage(&key, flip(at)).await;
            let report = bench.fsck(READ).await;
            assert_eq!(report.corrupt, *items, "{at}");
            assert_eq!(report.problems.len(), items.len());
            assert!(
                bench.fsck(CHECK).await.problems.is_empty(),
                "data is not read"
            );
            bench.damage(&key, flip(at)).await;
        }
    }
    let len = bench.bytes(&key).await.len() as u64;
    let frames_end = frames.last().unwrap().0.end;
    for at in [0, 7, frames_end, frames_end + 20, len - 9, len - 8, len - 1] {
        bench.damage(&key, flip(at)).await;
        let report = bench.fsck(READ).await;
        assert_eq!(report.corrupt, []);
        assert_eq!(report.problems.len(), 1, "{at}: {:?}", report.problems);
        assert!(has(&report, &[key.as_str()]));
        assert!(
            bench.fsck(REBUILD).await.problems.is_empty(),
            "the copy of the index is right"
        );
        bench.damage(&key, flip(at)).await;
    }
    assert_eq!(bench.fsck(READ).await.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_tree_is_found_without_reading_data() {
    let bench = Bench::new();
    let stored = bench.image("a", 0..10).await;
    let (range, trees) = bench.frames(stored.tree).await.remove(0);
    bench
        .damage(&stored.tree.key(), flip(range.start + 5))
        .await;
    let report = bench.fsck(CHECK).await;
    assert!(!report.corrupt.is_empty() && report.corrupt.iter().all(|item| trees.contains(item)));
    assert_eq!(bench.fsck(READ).await.corrupt, trees);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_cut_short_lacks_what_was_behind_the_cut() {
    let bench = Bench::new();
    let stored = bench.image("a", 0..10).await;
    let key = stored.data.key();
    let frames = bench.frames(stored.data).await;
    let whole = bench.bytes(&key).await;
    let lost = |cut: usize| -> Vec<ItemKind> {
        let behind = frames.iter().filter(|frame| frame.0.end > cut as u64);
        let mut items: Vec<_> = behind.flat_map(|frame| frame.1.clone()).collect();
        items.sort_unstable();
        items
    };
    let second = usize::try_from(frames[1].0.start).unwrap();
    for cut in [0, 5, second, second + 1, whole.len() - 9, whole.len() - 1] {
        bench.damage(&key, |bytes| bytes.truncate(cut)).await;
        let told = format!("{cut} bytes instead of {}", whole.len());
        assert!(has(&bench.fsck(CHECK).await, &[key.as_str(), &told]));
        assert_eq!(bench.fsck(READ).await.corrupt, lost(cut), "{cut}");
        bench.store.put(&key, whole.clone().into()).await.unwrap();
    }
    bench.damage(&key, |bytes| bytes.push(0)).await;
    assert!(has(&bench.fsck(CHECK).await, &["bytes instead of"]));
    assert_eq!(bench.fsck(READ).await.corrupt, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_refs_are_checked() {
    let bench = Bench::new();
    let (a, _) = (bench.image("a", 0..10).await, bench.image("b", 0..5).await);
    let (record, reference) = (a.record.key(), a.reference.key());
    let whole = bench.bytes(&record).await;
    let named = ["images/a", &a.record.to_string()];
    bench.damage(&record, flip(20)).await;
    assert!(has(&bench.fsck(CHECK).await, &named));
    bench.store.delete(&record).await.unwrap();
    let report = bench.fsck(CHECK).await;
    assert!(has(&report, &named));
    assert_eq!((report.refs, report.records), (2, 1));
    bench.store.put(&record, whole.into()).await.unwrap();
    assert_eq!(bench.fsck(CHECK).await.problems, Vec::<String>::new());

    let whole = bench.bytes(&reference).await;
    for at in [0, whole.len() / 2, whole.len() - 1] {
        bench.damage(&reference, flip(at as u64)).await;
        assert!(has(&bench.fsck(CHECK).await, &["ref images/a"]), "{at}");
        bench
            .store
            .put(&reference, whole.clone().into())
            .await
            .unwrap();
    }
    bench.damage(&reference, Vec::clear).await;
    let report = bench.fsck(CHECK).await;
    assert!(has(&report, &["ref images/a"]));
    assert!(
        report.garbage.contains(&record.to_string()),
        "nothing names it any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_images_are_checked() {
    let bench = Bench::new();
    let stored = bench.image("a", 0..3).await;
    let key = stored.metadata.key();
    let whole = bench.bytes(&key).await;
    bench.damage(&key, flip(whole.len() as u64 / 2)).await;
    assert_eq!(bench.fsck(CHECK).await.problems, Vec::<String>::new());
    assert!(has(&bench.fsck(READ).await, &[key.as_str(), "checksum"]));
    bench.store.delete(&key).await.unwrap();
    assert!(has(&bench.fsck(CHECK).await, &[key.as_str(), "not there"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_ref_needs_is_garbage_to_the_byte() {
    let bench = Bench::new();
    let (a, b) = (bench.image("a", 0..10).await, bench.image("b", 5..20).await);
    delete_ref(&*bench.store, &b.reference).await.unwrap();
    let report = bench.fsck(READ).await;
    assert_eq!(report.problems, Vec::<String>::new());
    let mut garbage = report.garbage.clone();
    garbage.sort();
    let keys = [b.data.key(), b.tree.key(), b.metadata.key(), b.record.key()];
    let mut expected = keys.clone().map(|key| key.to_string());
    expected.sort();
    assert_eq!(garbage, expected);
    let mut bytes = 0;
    for key in &keys {
        bytes += bench.bytes(key).await.len() as u64;
    }
    assert_eq!(report.bytes_garbage, bytes);
    delete_ref(&*bench.store, &a.reference).await.unwrap();
    let report = bench.fsck(CHECK).await;
    assert_eq!((report.refs, report.garbage.len()), (0, 8));

    // A pack whose copy was never written is what a crash leaves.
    bench.store.delete(&a.data.index_key()).await.unwrap();
    let report = Bench::over(Arc::clone(&bench.store)).fsck(READ).await;
    assert_eq!((report.problems, report.garbage.len()), (Vec::new(), 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_store_is_an_error_and_not_damage() {
    let bench = Bench::new();
    bench.image("a", 0..10).await;
    let faults = Arc::new(FaultStore::new(Arc::clone(&bench.store)));
    let run = async || {
        let other = Bench::over(Arc::clone(&faults) as Arc<dyn BlobStore>);
        let checked = fsck(Arc::clone(&other.store), Arc::clone(&other.index), READ).await;
        checked.map(|report| report.problems)
    };
    assert_eq!(run().await.unwrap(), Vec::<String>::new());
    for operation in [
        Operation::Get,
        Operation::GetRange,
        Operation::Size,
        Operation::List,
    ] {
        assert!(faults.count(operation).requests > 0);
        faults.inject(Fault::new(FaultKind::FailBefore).on(&[operation]));
        assert!(matches!(run().await, Err(error) if error.to_string().contains("injected")));
        faults.heal();
    }
}
