//! Snapshots that are answered before they are in the store, on nodes with real mounts: to be run
//! as root.

#![cfg(test)]

mod bench;

use std::sync::Arc;

use futures::TryStreamExt;
use nacre_blobstore::BlobStore;
use nacre_blobstore::testing::{Fault, FaultKind, Operation};
use nacre_snapshotter::{CreateSnapshot, Image, Rung, Snapshot, has_pending};

use bench::{Bench, Region, collect, durable, told};

#[tokio::test(flavor = "multi_thread")]
async fn a_local_snapshot_needs_no_store_and_becomes_durable_when_that_comes_back() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    // Known from now on.
    node.open_image("image", None).await.unwrap();
    bench.write("new", "written");
    bench.local(&node, "warm").await;
    durable(&node, "warm").await;
    bench.die();
    bench.write("newer", "written later");
    let created = bench.local(&node, "cold").await;
    let opened = node.open_image("cold", None).await.unwrap();
    assert_eq!(opened.tree, created.tree);
    assert_eq!(
        node.open_image(&created.snapshot, None).await.unwrap().tree,
        created.tree
    );
    let path = opened.view.join("newer");
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    assert_eq!(read.await.unwrap().unwrap(), "written later");
    let stands = told(&node).await;
    assert_eq!(
        (stands.name.as_deref(), stands.failed),
        (Some("cold"), false)
    );
    assert!(stands.bytes > 0);
    node.stop().await.unwrap();
    drop(node);

    // From the disk alone; and another node does not know it.
    let node = bench.node("a");
    assert_eq!(
        node.open_image("cold", None).await.unwrap().tree,
        created.tree
    );
    bench.store.heal();
    let other = bench.node("b");
    durable(&node, "cold").await;
    assert_eq!(bench.names().await, ["cold", "warm"]);
    assert_eq!(
        other.open_image("cold", None).await.unwrap().tree,
        created.tree
    );
    bench.swept("a").await;
    assert!(!has_pending(&bench.path("a")));
    bench.fsck().await;
    for node in [node, other] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_does_not_see_what_is_not_durable() {
    let bench = Bench::new().await;
    let (node, other) = (bench.node("a"), bench.node("b"));
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Put]);
    bench.store.inject(fault);
    let created = bench.local(&node, "n").await;
    told(&node).await;
    for name in ["n", &created.snapshot] {
        let error = other.open_image(name, None).await.unwrap_err();
        assert!(error.to_string().contains("is called"), "{error}");
    }
    assert!(bench.names().await.is_empty());
    bench.store.heal();
    durable(&node, "n").await;
    assert_eq!(
        other.open_image("n", None).await.unwrap().tree,
        created.tree
    );
    for node in [node, other] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_snapshot_takes_with_it_what_it_needs_of_a_pending_one() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    // No lease, no upload.
    bench.store.inject(fault.below("leases/pending"));
    bench.local(&node, "local").await;
    bench.write("newer", "written later");
    let created = node
        .create_snapshot(bench.request(Rung::Durable))
        .await
        .unwrap();
    assert_eq!(created.durability, Rung::Durable);
    assert_eq!(bench.names().await, std::slice::from_ref(&created.snapshot));
    bench.fsck().await;
    assert_eq!(node.pending_snapshots().len(), 1);
    bench.store.heal();
    durable(&node, "local").await;
    bench.fsck().await;
    bench.swept("a").await;
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_that_of_the_first_creation_on_its_way_and_after_it() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    bench.store.inject(fault.clone().below("leases/pending"));
    let keyed = |wait| CreateSnapshot {
        key: Some("k".to_owned()),
        ..bench.request(wait)
    };
    let (one, two) = tokio::join!(
        node.create_snapshot(keyed(Rung::Local)),
        node.create_snapshot(keyed(Rung::Local))
    );
    let first = one.unwrap().snapshot;
    assert_eq!(two.unwrap().snapshot, first);
    bench.write("newer", "written later");
    let again = node.create_snapshot(keyed(Rung::Local)).await.unwrap();
    assert_eq!(
        (again.snapshot, again.durability),
        (first.clone(), Rung::Local)
    );
    assert_eq!(node.pending_snapshots().len(), 1);
    bench.store.heal();
    let again = node.create_snapshot(keyed(Rung::Durable)).await.unwrap();
    assert_eq!(
        (again.snapshot, again.durability),
        (first.clone(), Rung::Durable)
    );
    let again = node.create_snapshot(keyed(Rung::Local)).await.unwrap();
    assert_eq!(
        (again.snapshot, again.durability),
        (first.clone(), Rung::Durable)
    );
    assert_eq!(bench.names().await, [first.as_str()]);

    // A retry elsewhere while it was on its way: the first that is durable has the key.
    Snapshot::remove(&*bench.store, &first).await.unwrap();
    bench.store.inject(fault.below("leases/pending"));
    let local = node.create_snapshot(keyed(Rung::Local)).await.unwrap();
    let other = bench.node("b");
    std::fs::remove_file(bench.path("state")).unwrap();
    let durably = other.create_snapshot(keyed(Rung::Durable)).await.unwrap();
    assert_ne!(local.snapshot, durably.snapshot);
    bench.store.heal();
    durable(&node, &local.snapshot).await;
    let again = node.create_snapshot(keyed(Rung::Local)).await.unwrap();
    assert_eq!(again.snapshot, durably.snapshot);
    // Both can be used, and the loser's end does not take the key away.
    assert_eq!(bench.names().await.len(), 2);
    Snapshot::remove(&*bench.store, &local.snapshot)
        .await
        .unwrap();
    let again = other.create_snapshot(keyed(Rung::Durable)).await.unwrap();
    assert_eq!(again.snapshot, durably.snapshot);
    for node in [node, other] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_that_of_the_snapshot_that_was_made_last() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    bench.store.inject(fault.clone().below("leases/pending"));
    let mut made = Vec::new();
    for round in 0..3 {
        bench.write("new", &round.to_string());
        made.push(bench.local(&node, "n").await.snapshot);
    }
    let opened = node.open_image("n", None).await.unwrap();
    assert_eq!(opened.image, made[2]);
    bench.store.heal();
    durable(&node, "n").await;
    for id in &made {
        durable(&node, id).await;
    }
    let found = Snapshot::find(&*bench.store, "n").await.unwrap();
    assert_eq!(found.id.to_string(), made[2]);

    // One that was made before another node gave the name away does not take it back.
    bench.store.inject(fault.below("leases/pending"));
    bench.write("new", "3");
    let early = bench.local(&node, "n").await.snapshot;
    let other = bench.node("b");
    bench.write("new", "4");
    let mut late = bench.request(Rung::Durable);
    late.name = Some("n".to_owned());
    let late = other.create_snapshot(late).await.unwrap().snapshot;
    bench.store.heal();
    durable(&node, &early).await;
    let found = Snapshot::find(&*bench.store, "n").await.unwrap();
    assert_eq!(found.id.to_string(), late);
    let mut names = bench.names().await;
    names.sort();
    let mut expected = [early, "n".to_owned()];
    expected.sort();
    assert_eq!(names, expected);
    for node in [node, other] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_never_reaches_the_store_and_nothing_later_relies_on_it() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    bench.store.inject(fault.below("leases/pending"));
    let created = bench.local(&node, "n").await;
    assert_eq!(node.cancel_snapshot("n").await.unwrap(), 1);
    assert_eq!(node.cancel_snapshot("n").await.unwrap(), 0);
    bench.store.heal();
    assert!(node.pending_snapshots().is_empty());
    assert!(bench.names().await.is_empty());
    // A fork of it can be read on.
    let opened = node.open_image(&created.snapshot, None).await;
    assert!(opened.is_ok(), "{opened:?}");
    // Its packs are still here: a later one takes them along.
    let again = node
        .create_snapshot(bench.request(Rung::Durable))
        .await
        .unwrap();
    assert_eq!(again.tree, created.tree);
    bench.fsck().await;
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn creations_wait_while_too_much_is_pending() {
    let mut bench = Bench::new().await;
    bench.bytes_max = 1;
    let bench = bench;
    let node = bench.node("a");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    bench.store.inject(fault.below("leases/pending"));
    bench.write("new", "written");
    bench.local(&node, "one").await;
    bench.write("newer", "written later");
    let second = bench.local(&node, "two");
    tokio::pin!(second);
    // For as long as two more attempts take.
    let hits = bench.store.hits();
    while bench.store.hits() < hits + 2 {
        assert!(futures::poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(node.pending_snapshots().len(), 1);
    bench.store.heal();
    second.await;
    durable(&node, "two").await;
    assert_eq!(bench.names().await, ["one", "two"]);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_elsewhere_keeps_what_an_upload_relies_on() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    bench.write("new", "written");
    // The upload goes as far as its record.
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Put]);
    bench.store.inject(fault.below("records"));
    bench.local(&node, "n").await;
    told(&node).await;
    Image::remove(&*bench.store, "image").await.unwrap();
    collect(&bench).await;
    bench.store.heal();
    durable(&node, "n").await;
    bench.fsck().await;
    collect(&bench).await;
    bench.fsck().await;
    assert_eq!(bench.names().await, ["n"]);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_relies_on_what_was_collected_is_told_and_stays_usable_here() {
    let bench = Bench::new().await;
    let node = bench.node("a");
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Create]);
    bench.store.inject(fault.below("leases/pending"));
    let created = bench.local(&node, "n").await;
    node.open_image("n", None).await.unwrap();
    Image::remove(&*bench.store, "image").await.unwrap();
    collect(&bench).await;
    bench.store.heal();
    let stands = loop {
        let stands = node.wait_snapshot("n", Rung::Durable).await.unwrap();
        if stands.failed {
            break stands;
        }
    };
    assert!(stands.error.unwrap().contains("was collected"));
    assert!(bench.names().await.is_empty());
    assert_eq!(node.open_image("n", None).await.unwrap().tree, created.tree);
    let mut keyed = bench.request(Rung::Durable);
    keyed.key = Some("other".to_owned());
    node.create_snapshot(keyed).await.unwrap_err();
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_region_has_it_before_the_store() {
    let mut bench = Bench::new().await;
    let region = Arc::new(Region::default());
    bench.region = Some(Arc::clone(&region));
    let node = bench.node("a");
    bench.write("new", "written");
    let fault = Fault::new(FaultKind::FailBefore).on(&[Operation::Put]);
    bench.store.inject(fault);
    let created = bench.local(&node, "n").await;
    let stands = node.wait_snapshot("n", Rung::Region).await.unwrap();
    assert_eq!(stands.durability, Rung::Region);
    let given = region.objects.lock().unwrap().clone();
    // Two packs, the copies of their indexes, the record.
    assert!(given.len() >= 5, "{given:?}");
    assert_eq!(
        given[4].to_string(),
        format!("records/{}", created.snapshot)
    );
    bench.store.heal();
    durable(&node, "n").await;
    let objects: Vec<_> = bench.store.list("packs").try_collect().await.unwrap();
    assert_eq!(objects.len(), 2);
    node.stop().await.unwrap();
}
