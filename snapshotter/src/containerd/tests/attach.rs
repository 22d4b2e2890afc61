//! Layers that are in the store.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Barrier;
use tonic::Code;

use super::super::proto::{Kind, ViewSnapshotRequest};
use super::scene::{Scene, map};

const REF: &str = "containerd.io/snapshot.ref";
const MODE: &str = "containerd.io/snapshot/nacre.mode";
const LOW: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const HIGH: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn tree(name: &str) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join(name), name).unwrap();
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_layer_is_committed_and_answered_with_already_exists() {
    let scene = Scene::new().await;
    let low = tree("low");
    scene.stored.add(LOW, low.path());
    let labels = [(REF, LOW), ("containerd.io/snapshot/cri.image-ref", "i")];
    let key = format!("default/1/extract-1 {LOW}");
    let answer = scene.prepare(&key, "", &labels).await;
    assert_eq!(answer, Err(Code::AlreadyExists));
    assert_eq!(scene.stat(&key).await.err(), Some(Code::NotFound));
    // What containerd does next.
    let filter = format!("labels.\"{REF}\"=={LOW},parent==\"\"");
    assert_eq!(scene.names(&[&filter]).await, [LOW]);
    let info = scene.stat(LOW).await.unwrap();
    assert_eq!(info.kind, i32::from(Kind::Committed));
    for (label, value) in labels {
        assert_eq!(info.labels[label], value);
    }
    assert_eq!(info.labels[MODE], "fuse");
    let usage = scene.usage(LOW).await.unwrap();
    assert_eq!((usage.size, usage.inodes), (0, 0));
    assert_eq!(scene.counters.stats().layers_attached, 1);
    assert_eq!(scene.directories(), 0);

    let mounts = scene.prepare("container", LOW, &[]).await.unwrap();
    assert_eq!(scene.stored.held(), 1);
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("low")).unwrap(), "low");
        fs::write(root.join("new"), "").unwrap();
    });
    assert_eq!(fs::read_dir(low.path()).unwrap().count(), 1);
    // A layer over it, and a container over that.
    scene.commit("mine", "container").await.unwrap();
    assert_eq!(scene.stored.held(), 0);
    let mounts = scene.prepare("container", "mine", &[]).await.unwrap();
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 2);
    });
    let viewed = scene.view("view", LOW).await.unwrap();
    assert_eq!(scene.stored.held(), 2);
    scene.with(&viewed, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 1);
        assert!(fs::write(root.join("new"), "").is_err());
    });
    for key in ["container", "view", "mine", LOW] {
        scene.remove(key).await.unwrap();
    }
    assert_eq!(scene.stored.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_ready_when_its_topmost_layer_is_pulled() {
    const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
    let scene = Scene::new().await;
    let (low, high) = (tree("low"), tree("high"));
    scene.stored.add(LOW, low.path());
    let topmost = scene.stored.add(HIGH, high.path());
    let pull = async |key, parent, layer, layers: Option<&str>| {
        let labels = layers.map(|layers| (LAYERS, layers));
        let labels: Vec<_> = [(REF, layer)].into_iter().chain(labels).collect();
        let answer = scene.prepare(key, parent, &labels).await;
        assert_eq!(answer, Err(Code::AlreadyExists));
        scene.stored.ahead.lock().unwrap().clone()
    };
    assert_eq!(pull("1", "", LOW, Some("sha256:1,sha256:2")).await, []);
    assert_eq!(pull("2", LOW, HIGH, None).await, [], "nobody says");
    assert_eq!(pull("3", LOW, HIGH, Some("")).await, []);
    assert_eq!(pull("4", LOW, HIGH, Some("sha256:2")).await, [topmost]);
    let unknown = scene.prepare("5", "", &[(REF, "sha256:3"), (LAYERS, "sha256:3")]);
    unknown.await.unwrap();
    assert_eq!(
        scene.stored.ahead.lock().unwrap().len(),
        1,
        "not in the store"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_equal_prepares_leave_one_layer_and_nothing_else() {
    let scene = Scene::new().await;
    let low = tree("low");
    scene.stored.add(LOW, low.path());
    *scene.stored.meet.lock().unwrap() = Some(Arc::new(Barrier::new(16)));
    let keys: Vec<_> = (0..16)
        .map(|n| format!("default/{n}/extract {LOW}"))
        .collect();
    let labels = [(REF, LOW)];
    let prepares = keys.iter().map(|key| scene.prepare(key, "", &labels));
    for answer in futures::future::join_all(prepares).await {
        assert_eq!(answer, Err(Code::AlreadyExists));
    }
    assert_eq!(scene.names(&[]).await, [LOW]);
    assert_eq!(scene.directories(), 0);
    assert_eq!(scene.stored.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_of_layers_has_the_parents_that_containerd_asks_for() {
    let scene = Scene::new().await;
    let (low, high) = (tree("low"), tree("high"));
    scene.stored.add(LOW, low.path());
    scene.stored.add(HIGH, high.path());
    let attach = async |chain: &str, parent: &str| {
        let answer = scene.prepare("k", parent, &[(REF, chain)]).await;
        assert_eq!(answer, Err(Code::AlreadyExists));
        let filter = format!("labels.\"{REF}\"=={chain},parent==\"{parent}\"");
        let names = scene.names(&[&filter]).await;
        assert_eq!(names.len(), 1, "{filter}");
        names[0].clone()
    };
    assert_eq!(attach(LOW, "").await, LOW);
    assert_eq!(attach(HIGH, LOW).await, HIGH);
    // The same layers below it, once unpacked by containerd.
    scene.layer("default/9/low", "", |_| ()).await;
    let other = attach(HIGH, "default/9/low").await;
    assert_ne!(other, HIGH);
    assert_eq!(attach(HIGH, "default/9/low").await, other);
    for parent in [HIGH, &other] {
        let key = format!("over {parent}");
        let mounts = scene.prepare(&key, parent, &[]).await.unwrap();
        scene.with(&mounts, |root| {
            assert_eq!(fs::read_to_string(root.join("high")).unwrap(), "high");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_is_for_containerd_to_unpack_and_says_so() {
    let scene = Scene::new().await;
    scene.prepare("k", "", &[(REF, LOW)]).await.unwrap();
    assert_eq!(scene.stat("k").await.unwrap().labels[MODE], "ordinary");
    assert_eq!(scene.counters.stats().layers_ordinary_unknown, 1);
    scene.stored.down.store(true, Ordering::Relaxed);
    scene.prepare("l", "", &[(REF, LOW)]).await.unwrap();
    assert_eq!(scene.stat("l").await.unwrap().labels[MODE], "ordinary");
    assert_eq!(scene.counters.stats().layers_ordinary_failed, 1);
    // Nothing is said of what nobody asked for.
    scene.prepare("m", "", &[]).await.unwrap();
    assert!(scene.stat("m").await.unwrap().labels.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_and_views_are_never_told_that_they_exist() {
    let scene = Scene::new().await;
    let low = tree("low");
    scene.stored.add(LOW, low.path());
    scene.prepare("container", "", &[]).await.unwrap();
    let refused = scene.prepare("container", "", &[(REF, LOW)]).await;
    assert_eq!(refused, Err(Code::AlreadyExists));
    assert_eq!(scene.names(&[]).await, ["container"], "taken, not attached");
    let refused = scene.prepare("k", "none", &[(REF, LOW)]).await;
    assert_eq!(refused, Err(Code::NotFound));
    let refused = scene.prepare("k", "container", &[(REF, LOW)]).await;
    assert_eq!(refused, Err(Code::InvalidArgument));
    assert_eq!(scene.names(&[]).await, ["container"]);
    let request = ViewSnapshotRequest {
        key: "view".to_owned(),
        labels: map(&[(REF, LOW)]),
        ..Default::default()
    };
    let viewed = scene.client.clone().view(request).await.unwrap();
    assert_eq!(viewed.into_inner().mounts.len(), 1);
    assert_eq!(scene.names(&[]).await, ["container", "view"]);
}
