//! What is there after the daemon ended, however it did.

use std::fs;
use std::sync::Arc;

use futures::future::{FutureExt as _, LocalBoxFuture, TryFutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Barrier;
use tonic::Code;

use super::super::index::{Change, SnapshotIndex};
use super::scene::{Scene, map};

const REF: &str = "containerd.io/snapshot.ref";
/// For what is done behind the answers.
const ASKED_MAX: u32 = 10_000;
const LOW: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart() {
    let mut scene = Scene::new().await;
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("low"), "").unwrap();
    scene.stored.add(LOW, tree.path());
    let attached = scene.prepare("k", "", &[(REF, LOW)]).await;
    assert_eq!(attached, Err(Code::AlreadyExists));
    scene
        .layer("a", LOW, |root| fs::write(root.join("f"), "x").unwrap())
        .await;
    let mounts = scene.prepare("x", "a", &[("l", "v")]).await.unwrap();
    scene.with(&mounts, |root| fs::write(root.join("g"), "y").unwrap());
    scene.view("v", "a").await.unwrap();
    scene.prepare("gone", "", &[]).await.unwrap();
    scene.remove("gone").await.unwrap();
    let before = scene.pages(&[]).await.unwrap();

    scene.restart(|_| ()).await;
    assert_eq!(scene.pages(&[]).await.unwrap(), before);
    assert_eq!(scene.stored.held(), 2, "the container's and the view's");
    assert_eq!(scene.stat("x").await.unwrap().labels, map(&[("l", "v")]));
    assert_eq!(scene.mounts("x").await.unwrap(), mounts);
    scene.with(&mounts, |root| {
        for name in ["low", "f", "g"] {
            assert!(root.join(name).exists(), "{name}");
        }
    });
    // No directory is given out twice.
    let other = scene.prepare("new", "", &[]).await.unwrap();
    scene.with(&other, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_its_record_is_on_the_disk() {
    let scene = Scene::new().await;
    let tree = tempfile::tempdir().unwrap();
    scene.stored.add(LOW, tree.path());
    for key in ["c", "r", "u"] {
        scene.prepare(key, "", &[]).await.unwrap();
    }
    let labels = map(&[("l", "v")]);
    let mut updated = scene.stat("u").await.unwrap();
    updated.labels.clone_from(&labels);

    let held = scene.hold_records();
    let mut answers: FuturesUnordered<LocalBoxFuture<'_, Result<(), Code>>> = [
        scene.prepare("p", "", &[]).map_ok(drop).boxed_local(),
        scene.view("v", "").map_ok(drop).boxed_local(),
        scene
            .prepare("k", "", &[(REF, LOW)])
            .map_ok(drop)
            .boxed_local(),
        scene.commit("d", "c").boxed_local(),
        scene
            .remove("r")
            .map_err(|status| status.code())
            .boxed_local(),
        scene.update(updated, None).map_ok(drop).boxed_local(),
    ]
    .into_iter()
    .collect();
    // All are seen by whoever asks, and still are when answers would have come.
    let is_there = async || {
        let names = scene.names(&[]).await;
        names == ["d", "p", LOW, "u", "v"] && scene.stat("u").await.unwrap().labels == labels
    };
    let seen = async {
        while !is_there().await {}
        for _ in 0..100 {
            assert!(is_there().await);
        }
    };
    tokio::select! {
        answer = answers.next() => panic!("{answer:?} before the record"),
        () = seen => {}
    }
    drop(held);
    let mut all: Vec<_> = answers.collect().await;
    all.sort_by_key(Result::is_ok);
    assert_eq!(all.remove(0), Err(Code::AlreadyExists));
    assert_eq!(all, [Ok(()); 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_removed_by_a_cleanup_and_nothing_else() {
    let mut scene = Scene::new().await;
    scene
        .layer("a", "", |root| fs::write(root.join("f"), "x").unwrap())
        .await;
    scene.prepare("x", "a", &[]).await.unwrap();
    scene
        .restart(|root| {
            fs::create_dir_all(root.join("sn/900/fs/d")).unwrap();
            fs::create_dir_all(root.join("sn/not a number")).unwrap();
        })
        .await;
    scene.prepare("y", "a", &[]).await.unwrap();
    assert_eq!(scene.directories(), 5);
    scene.cleanup().await;
    assert_eq!(scene.directories(), 4);
    assert!(!scene.root.path().join("sn/900").exists());
    let mounts = scene.prepare("z", "a", &[]).await.unwrap();
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "x");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_record_hurts_nothing_else() {
    let mut scene = Scene::new().await;
    scene.layer("a", "", |_| ()).await;
    scene.prepare("x", "a", &[]).await.unwrap();
    scene.prepare("y", "a", &[]).await.unwrap();
    scene
        .restart(|root| {
            let index = SnapshotIndex::open(&root.join("index")).unwrap();
            let damage = Change::Put("x".to_owned(), b"NSN1 nonsense".to_vec());
            let written = index.hand_over(vec![damage]).unwrap();
            tokio::task::block_in_place(|| written.blocking_recv().unwrap().unwrap());
        })
        .await;
    assert_eq!(scene.names(&[]).await, ["a", "y"]);
    assert_eq!(scene.stat("x").await.err(), Some(Code::DataLoss));
    assert_eq!(scene.mounts("x").await, Err(Code::DataLoss));
    assert_eq!(scene.prepare("x", "", &[]).await, Err(Code::AlreadyExists));
    // Its directory is one that no record names, and stays.
    scene.cleanup().await;
    assert_eq!(scene.directories(), 3);
    scene.remove("x").await.unwrap();
    scene.cleanup().await;
    assert_eq!(scene.directories(), 2);
    scene.prepare("x", "a", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_abandoned_is_done_to_its_end() {
    let scene = Scene::new().await;
    for n in 0..32 {
        let key = format!("k{n}");
        let mut prepare = Box::pin(scene.prepare(&key, "", &[]));
        // Sent, and no more: each is dropped at another moment.
        for _ in 0..n {
            if futures::poll!(&mut prepare).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    for n in 0..32 {
        let key = format!("k{n}");
        // Whichever came to be, it can be made or removed now.
        if scene.prepare(&key, "", &[]).await.is_err() {
            scene.mounts(&key).await.unwrap();
        }
        scene.remove(&key).await.unwrap();
    }
    scene.cleanup().await;
    assert_eq!(scene.directories(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_given_up_is_done_to_its_end() {
    let scene = Scene::new().await;
    let tree = tempfile::tempdir().unwrap();
    scene.stored.add(LOW, tree.path());
    let meet = Arc::new(Barrier::new(2));
    *scene.stored.meet.lock().unwrap() = Some(Arc::clone(&meet));
    tokio::select! {
        answer = scene.prepare("k", "", &[(REF, LOW)]) => panic!("{answer:?}"),
        () = scene.stored.asked.notified() => {}
    }
    // Whoever answers this has heard that the other is not waited for.
    assert_eq!(scene.stat("k").await.err(), Some(Code::NotFound));
    meet.wait().await;
    let mut names = Vec::new();
    for _ in 0..ASKED_MAX {
        names = scene.names(&[]).await;
        if !names.is_empty() {
            break;
        }
    }
    assert_eq!(names, [LOW]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_layer_without_a_directory_is_not_given_to_another() {
    let mut scene = Scene::new().await;
    let tree = tempfile::tempdir().unwrap();
    scene.stored.add(LOW, tree.path());
    let attached = scene.prepare("k", "", &[(REF, LOW)]).await;
    assert_eq!(attached, Err(Code::AlreadyExists));
    scene.restart(|_| ()).await;
    let mounts = scene.prepare("x", "", &[]).await.unwrap();
    scene.with(&mounts, |root| fs::write(root.join("f"), "").unwrap());
    scene.remove(LOW).await.unwrap();
    scene.cleanup().await;
    scene.with(&mounts, |root| assert!(root.join("f").exists()));
}
