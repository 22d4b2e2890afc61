//! Adding images to a store in memory: what is stored, in which order, and what a failure leaves.

mod scene;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use nacre_blobstore::testing::{Fault, FaultKind, FaultStore, HookStore, Operation, memory_store};
use nacre_blobstore::{Digest, delete_ref};

use super::*;
use scene::{Adder, Files, Layout, Packing, check, files, keys, noise, read, tar};

/// Long enough for several frames, and for a content of several chunks.
fn base() -> Files {
    files(&[
        ("bin/sh", 120_000),
        ("empty", 0),
        ("lib/large", 3_000_000),
        ("lib/small", 70),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packing_of_a_layer_stores_the_same() {
    let adder = Adder::new();
    let store = Arc::clone(&adder.ingest.store);
    let first = adder
        .add("plain", &Layout::new(&[(Packing::Plain, tar(&base()))]))
        .await;
    assert!(first.stats.chunks_new > 4 && !first.unchanged);
    assert_eq!(
        (first.payload.files, first.payload.bytes_plain),
        (4, 3_120_070)
    );
    for (name, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstd)] {
        let added = adder
            .add(name, &Layout::new(&[(packing, tar(&base()))]))
            .await;
        assert_eq!(
            (added.stats.chunks_new, added.stats.packs),
            (0, 0),
            "{name}"
        );
        assert_eq!(added.stats.chunks_known, first.stats.chunks_new);
        assert_eq!(added.tree, first.tree);
        assert_eq!(read(&store, name).await, base());
    }
    let report = check(&store).await;
    assert_eq!((report.refs, report.records, report.packs), (3, 3, 2));
    assert_eq!(report.garbage, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_again_stores_nothing() {
    let store = memory_store();
    let counts = Arc::new(FaultStore::new(Arc::clone(&store)));
    let adder = Adder::over(Arc::clone(&counts) as Arc<dyn BlobStore>);
    let layout = Layout::new(&[(Packing::Gzip, tar(&base()))]);
    let first = adder.add("a", &layout).await;
    counts.reset_counts();
    let again = adder.add("a", &layout).await;
    assert!(again.unchanged);
    assert_eq!((again.id, again.tree), (first.id, first.tree));
    let count = |operation| counts.count(operation).requests;
    assert_eq!(
        counts.requests(),
        count(Operation::Get) + count(Operation::List),
        "only name, record, chain, which packs are there, and which were repacked"
    );
    assert_eq!((count(Operation::Get), count(Operation::List)), (3, 5));

    // An image that lost a pack is not taken as there.
    let record = Record::read(&*store, first.id).await.unwrap();
    for pack in &record.packs {
        store.delete(&pack.key()).await.unwrap();
    }
    let healed = adder.add("a", &layout).await;
    assert_eq!((healed.tree, healed.stats.packs), (first.tree, 2));
    assert_eq!(check(&store).await.problems, Vec::<String>::new());

    let renamed = adder.add("b", &layout).await;
    assert_eq!(
        (
            renamed.id,
            renamed.stats.chunks_new,
            renamed.stats.bytes_stored
        ),
        (healed.id, 0, 0)
    );
    let elsewhere = Adder::over(Arc::clone(&store)).add("c", &layout).await;
    assert_eq!(
        (elsewhere.id, elsewhere.stats.chunks_new),
        (healed.id, 0),
        "a node that is new"
    );

    for name in ["a", "b", "c"] {
        delete_ref(&*store, &image_ref(name).unwrap())
            .await
            .unwrap();
    }
    let back = adder.add("a", &layout).await;
    assert_eq!(
        (back.id, back.stats.chunks_new, back.unchanged),
        (healed.id, 0, false)
    );
    check(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_image_stores_the_difference() {
    let adder = Adder::new();
    let store = Arc::clone(&adder.ingest.store);
    let first = adder
        .add("a", &Layout::new(&[(Packing::Plain, tar(&base()))]))
        .await;
    let upper = files(&[("lib/new", 200_000), ("lib/small", 70)]);
    let mut moved = base();
    let large = moved.remove("lib/large").unwrap();
    moved.insert("opt/other".to_owned(), large);
    let layers = [(Packing::Gzip, tar(&moved)), (Packing::Zstd, tar(&upper))];
    let second = adder.add("b", &Layout::new(&layers)).await;
    assert_eq!(
        (second.stats.chunks_new, second.stats.bytes_new_plain),
        (1, 200_000)
    );
    assert_eq!(second.payload.layers.len(), 2);
    let lower = &second.payload.layers[0];
    assert_eq!(lower.chain_id, lower.diff_id);
    assert_eq!(second.payload.layers[1].tree, second.tree.to_string());
    let chained = format!("{} {}", lower.diff_id, second.payload.layers[1].diff_id);
    assert_eq!(
        second.payload.layers[1].chain_id,
        OciDigest::of(chained.as_bytes())
    );
    moved.extend(upper);
    assert_eq!(read(&store, "b").await, moved);
    assert_eq!(read(&store, "a").await, base());
    assert_ne!(first.tree, second.tree);
    check(&store).await;

    let changed = adder.add("a", &Layout::new(&layers)).await;
    assert_eq!(changed.id, second.id, "the name moves on");
    let report = check(&store).await;
    assert!(report.garbage.contains(&first.id.key().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_directory_is_an_image() {
    let adder = Adder::new();
    let directory = tempfile::tempdir().unwrap();
    for (path, bytes) in base() {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let source = || AddSource::Directory(directory.path().into());
    let first = adder.try_add("d", source()).await.unwrap();
    assert_eq!(read(&adder.ingest.store, "d").await, base());
    let again = adder.try_add("d", source()).await.unwrap();
    assert!(again.unchanged && again.id == first.id);
    assert_eq!(again.stats.chunks_new, 0);
    std::fs::write(directory.path().join("bin/sh"), b"new").unwrap();
    let changed = adder.try_add("d", source()).await.unwrap();
    assert!(!changed.unchanged && changed.stats.chunks_new == 1);
    let empty = tempfile::tempdir().unwrap();
    adder
        .try_add("e", AddSource::Directory(empty.path().into()))
        .await
        .unwrap();
    assert_eq!(read(&adder.ingest.store, "e").await, Files::new());
    check(&adder.ingest.store).await;
}

/// Where an ingest writes, in this order.
const FOLDERS: [&str; 8] = [
    "leases/",
    "packs/",
    "index/packs/",
    "trees/",
    "index/trees/",
    "metadata/",
    "records/",
    "refs/",
];

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_ordered_and_a_lease_is_held() {
    let store = memory_store();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let unheld = Arc::new(AtomicU64::new(0));
    let hook = {
        let (store, notes, unheld) = (Arc::clone(&store), Arc::clone(&notes), Arc::clone(&unheld));
        move |operation, key: &str| {
            let writes = [
                Operation::Put,
                Operation::Create,
                Operation::Replace,
                Operation::Delete,
            ];
            if !writes.contains(&operation) {
                return async {}.boxed();
            }
            notes.lock().unwrap().push((operation, key.to_owned()));
            let needs_lease = !key.starts_with("leases/");
            let (store, unheld) = (Arc::clone(&store), Arc::clone(&unheld));
            async move {
                if needs_lease && keys(&store, "leases").await.len() != 1 {
                    unheld.fetch_add(1, Ordering::SeqCst);
                }
            }
            .boxed()
        }
    };
    let adder = Adder::over(Arc::new(HookStore::new(Arc::clone(&store), hook)));
    // Two data packs: one is closed at 32 MiB.
    let layers = [("one", 20 << 20), ("two", 15 << 20)]
        .map(|(name, len)| (Packing::Plain, tar(&files(&[(name, len)]))));
    let added = adder.add("a", &Layout::new(&layers)).await;
    assert_eq!(added.stats.packs, 3);
    assert_eq!(unheld.load(Ordering::SeqCst), 0);
    assert_eq!(keys(&store, "leases").await, Vec::<String>::new());

    let notes = notes.lock().unwrap();
    let stage = |key: &str| {
        FOLDERS
            .iter()
            .position(|folder| key.starts_with(folder))
            .unwrap()
    };
    let stages: Vec<_> = notes.iter().map(|(_, key)| stage(key)).collect();
    let (uploads, rest) = stages[1..].split_at(4);
    let mut uploads = uploads.to_vec();
    uploads.sort_unstable();
    assert_eq!(
        (stages[0], &uploads[..], rest),
        (0, &[1, 1, 2, 2][..], &[3, 4, 5, 6, 7, 7, 7, 0][..])
    );
    let name = &notes[notes.len() - 2].1;
    assert!(name.starts_with("refs/images/"), "{name} after its chains");
    for (at, (_, key)) in notes.iter().enumerate() {
        if let Some(pack) = key.strip_prefix("index/") {
            assert!(
                notes[..at].iter().any(|(_, before)| before == pack),
                "{key} before its pack"
            );
        }
    }
    assert_eq!(notes.first().unwrap().0, Operation::Create);
    assert_eq!(
        notes.last().unwrap(),
        &(Operation::Delete, notes[0].1.clone())
    );
}

/// Adds an image while the `passing`th next write fails. Returns whether it hit.
async fn add_with_failure(
    kind: FaultKind,
    passing: u64,
    layout: &Layout,
    expected: &Files,
) -> bool {
    let store = memory_store();
    let faults = Arc::new(FaultStore::new(Arc::clone(&store)));
    // Means nothing to writes, but uses up those that are to succeed.
    let passed = Fault::new(FaultKind::FlipBit(0))
        .on(&Operation::WRITES)
        .times(passing);
    faults.inject(passed);
    faults.inject(Fault::new(kind.clone()).on(&Operation::WRITES).times(1));
    let adder = Adder::over(Arc::clone(&faults) as Arc<dyn BlobStore>);
    let added = adder.try_add("a", layout.source()).await;
    if faults.hits() <= passing {
        added.unwrap();
        return false;
    }
    let error = added.unwrap_err();
    assert!(error.to_string().contains("injected fault"), "{error}");
    let name = image_ref("a").unwrap();
    let seen = read_ref(&*store, &name).await.unwrap();
    let ref_was_last = kind == FaultKind::FailAfter && !keys(&store, "records").await.is_empty();
    assert!(seen.is_none() || ref_was_last, "write {passing}");
    check(&store).await;
    faults.heal();
    let landed = !keys(&store, "index/packs").await.is_empty();
    let again = adder.add("a", layout).await;
    let reused = again.stats.chunks_known > 0 || again.unchanged;
    assert!(reused || !landed, "write {passing}: {:?}", again.stats);
    assert_eq!(read(&store, "a").await, *expected);
    check(&store).await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn any_write_may_fail_and_another_try_goes_on_from_there() {
    let expected = files(&[("one", 20 << 20), ("two", 14 << 20), ("small", 9)]);
    let layers = [&["one", "small"][..], &["two"][..]].map(|names| {
        let part = expected
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()));
        (
            Packing::Plain,
            tar(&part.map(|(n, b)| (n.clone(), b.clone())).collect()),
        )
    });
    let layout = Layout::new(&layers);
    for kind in [FaultKind::FailBefore, FaultKind::FailAfter] {
        let mut hits = 0;
        while add_with_failure(kind.clone(), hits, &layout, &expected).await {
            hits += 1;
        }
        // Lease, two packs, a tree pack and the copies of their indexes, metadata, record, the chains
        // of both layers, ref.
        assert_eq!(hits, 12, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_someone_else_changed_is_not_overwritten() {
    for replaced in [false, true] {
        let store = memory_store();
        let name = image_ref("a").unwrap();
        let to = |byte: u8| Ref {
            record: RecordId::new(Digest::of(&[byte])),
            changed_ms: 0,
        };
        if replaced {
            write_ref(&*store, &name, to(1), None).await.unwrap();
        }
        let hook = {
            let (store, name) = (Arc::clone(&store), name.clone());
            move |operation, key: &str| {
                let now = operation == Operation::Put && key.starts_with("records/");
                let (store, name) = (Arc::clone(&store), name.clone());
                async move {
                    if now {
                        let seen = read_ref(&*store, &name).await.unwrap().map(|seen| seen.1);
                        write_ref(&*store, &name, to(2), seen.as_ref())
                            .await
                            .unwrap();
                    }
                }
                .boxed()
            }
        };
        let adder = Adder::over(Arc::new(HookStore::new(Arc::clone(&store), hook)));
        let error = adder
            .refused_as("a", &Layout::new(&[(Packing::Plain, tar(&base()))]))
            .await;
        let told = if replaced {
            "was changed by someone else"
        } else {
            "exists already"
        };
        assert!(
            error.starts_with("ref images/a:latest: ") && error.contains(told),
            "{error}"
        );
        assert_eq!(read_ref(&*store, &name).await.unwrap().unwrap().0, to(2));
        assert_eq!(keys(&store, "leases").await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_layers_are_named_and_nothing_is_published() {
    let whole = tar(&base());
    let upper = tar(&files(&[("upper", 500_000)]));
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layers = [(packing, whole.clone()), (packing, upper.clone())];
        let swapped = [OciDigest::of(&whole), OciDigest::of(b"other")];
        let mut cases = vec![("diff id", 1, Layout::with_diff_ids(&layers, &swapped))];
        type Damage = fn(&mut Vec<u8>);
        let damages: [(&str, Damage); 7] = [
            ("flipped", |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
            ("flipped at the end", |bytes| {
                *bytes.last_mut().unwrap() ^= 1;
            }),
            ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
            ("cut by one", |bytes| bytes.truncate(bytes.len() - 1)),
            ("longer", |bytes| bytes.push(0)),
            ("empty", Vec::clear),
            ("another", |bytes| *bytes = noise("another", bytes.len())),
        ];
        for (what, damage) in damages {
            for layer in [0, 1] {
                let layout = Layout::new(&layers);
                layout.damage(layer, damage);
                cases.push((what, layer, layout));
            }
        }
        for (what, layer, layout) in cases {
            let adder = Adder::new();
            let error = adder.refused_as("refused", &layout).await;
            let digest = &layout.layers[layer];
            assert!(error.contains(digest.hex()), "{packing:?} {what}: {error}");
            let store = &adder.ingest.store;
            for folder in ["refs", "records", "leases"] {
                assert_eq!(keys(store, folder).await, Vec::<String>::new(), "{what}");
            }
            check(store).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_does_not_fit_is_named() {
    let lower = tar(&files(&[("file", 10)]));
    let upper = tar(&files(&[("file/below", 10)]));
    let layout = Layout::new(&[(Packing::Plain, lower), (Packing::Gzip, upper)]);
    let adder = Adder::new();
    let error = adder.refused_as("a", &layout).await;
    assert!(
        error.contains(layout.layers[1].hex()) && error.contains("not a directory"),
        "{error}"
    );
    assert_eq!(
        keys(&adder.ingest.store, "refs").await,
        Vec::<String>::new()
    );
    check(&adder.ingest.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ingests_at_once_share_what_they_store() {
    let shared = files(&[("one", 20 << 20), ("shared", 5 << 20)]);
    let image = |own: &str| {
        let mut all = shared.clone();
        all.insert(own.to_owned(), noise(own, 12 << 20));
        let layers = [
            (Packing::Plain, tar(&shared)),
            (Packing::Plain, tar(&files(&[(own, 12 << 20)]))),
        ];
        (Layout::new(&layers), all)
    };
    let ((left, left_files), (right, right_files)) = (image("left"), image("right"));
    for one_node in [true, false, true, false] {
        let a = Adder::new();
        let store = Arc::clone(&a.ingest.store);
        let other = Adder::over(Arc::clone(&store));
        let b = if one_node { &a } else { &other };
        let (l, r) = tokio::join!(a.add("left", &left), b.add("right", &right));
        assert!(l.id != r.id);
        assert_eq!(read(&store, "left").await, left_files);
        assert_eq!(read(&store, "right").await, right_files);
        let report = check(&store).await;
        assert_eq!((report.refs, keys(&store, "leases").await.len()), (2, 0));
        let third = Adder::over(Arc::clone(&store)).add("again", &left).await;
        assert_eq!(third.stats.chunks_new, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_want_one_name_at_least_one_gets_it() {
    let layout = Layout::new(&[(Packing::Zstd, tar(&base()))]);
    let store = memory_store();
    let (a, b) = (
        Adder::over(Arc::clone(&store)),
        Adder::over(Arc::clone(&store)),
    );
    let (left, right) = tokio::join!(
        a.try_add("x", layout.source()),
        b.try_add("x", layout.source())
    );
    let added: Vec<_> = [left, right].into_iter().filter_map(Result::ok).collect();
    assert!(!added.is_empty());
    let (target, _) = read_ref(&*store, &image_ref("x").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(added.iter().any(|image| image.id == target.record));
    assert_eq!(read(&store, "x").await, base());
    check(&store).await;
}
