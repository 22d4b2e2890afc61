use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nacre_blobstore::testing::{TokioClock, memory_store};
use nacre_blobstore::{Clock, CrashHook, Digest, RecordKind};

use super::*;

struct Scene {
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    leased: Leased,
}

/// Makes the record of a version that shows a tree which need not be there.
fn record(payload: &SnapshotPayload, tree: &str) -> Record {
    Record {
        kind: RecordKind::Snapshot,
        trees: vec![TreeId::new(Digest::of(tree.as_bytes()))],
        packs: BTreeSet::new(),
        metadata_images: BTreeMap::new(),
        payload: payload.encode(),
    }
}

impl Scene {
    async fn new() -> Self {
        let (store, clock) = (memory_store(), Arc::new(TokioClock::new()) as _);
        let leased = Leased::acquire(&store, &clock, "test", CrashHook::default()).await;
        Self {
            leased: leased.unwrap(),
            store,
            clock,
        }
    }

    async fn create(&self, name: &str) -> Result<Volume, SnapshotError> {
        let from = (String::new(), String::new(), "{}".to_owned());
        let payload = first(from, self.clock.now_ms())?;
        self.leased.create(name, record(&payload, "first")).await
    }

    /// Makes the record of a version after `head`, committed from a mount.
    async fn next(&self, head: &Volume, mount: &str) -> (RecordId, Record) {
        let mut payload = head.next(self.clock.now_ms()).unwrap();
        payload.volume.as_mut().unwrap().mount = Some(mount.to_owned());
        let record = record(&payload, mount);
        (self.leased.put(&record).await.unwrap(), record)
    }

    async fn advance(&self, name: &str, mount: &str) -> Volume {
        let (head, seen) = Volume::find_to_change(&*self.store, name).await.unwrap();
        let (id, record) = self.next(&head, mount).await;
        let moved = self.leased.advance((&head, &seen), (id, &record)).await;
        assert!(moved.unwrap());
        Volume::find(&*self.store, name).await.unwrap()
    }

    async fn log(&self, name: &str) -> Vec<(u64, Option<String>)> {
        let log = Volume::log(&*self.store, name).await.unwrap();
        for pair in log.windows(2) {
            assert_eq!(pair[0].payload.parent, pair[1].record_id.to_string());
        }
        let version = |volume: Volume| (volume.version.number, volume.version.mount);
        log.into_iter().map(version).collect()
    }

    async fn refs(&self) -> usize {
        list_refs(&*self.store, None).await.unwrap().len()
    }
}

#[tokio::test]
async fn of_two_who_saw_one_head_one_moves_it_and_the_log_has_both_in_turn() {
    let scene = Scene::new().await;
    scene.create("v").await.unwrap();
    let (head, seen) = Volume::find_to_change(&*scene.store, "v").await.unwrap();
    let (a, b) = (scene.next(&head, "a").await, scene.next(&head, "b").await);
    let advance = async |(id, record): &(RecordId, Record)| {
        scene.leased.advance((&head, &seen), (*id, record)).await
    };
    assert!(advance(&a).await.unwrap());
    assert!(!advance(&b).await.unwrap());
    assert!(!advance(&a).await.unwrap(), "once is enough");
    scene.advance("v", "b").await;
    let mounts = [Some("b".to_owned()), Some("a".to_owned()), None];
    let expected: Vec<_> = [3, 2, 1].into_iter().zip(mounts).collect();
    assert_eq!(scene.log("v").await, expected);
}

#[tokio::test]
async fn a_head_that_has_a_ref_as_a_version_is_listed_once() {
    let scene = Scene::new().await;
    let head = scene.create("v").await.unwrap();
    // Someone died before moving the head on.
    let target = Ref {
        record: head.record_id,
        changed_ms: 0,
    };
    let reference = version_ref(&head.version).unwrap();
    write_ref(&*scene.store, &reference, target, None)
        .await
        .unwrap();
    assert_eq!(scene.log("v").await.len(), 1);
    scene.advance("v", "a").await;
    assert_eq!(scene.log("v").await.len(), 2);
}

#[tokio::test]
async fn a_volume_that_was_removed_leaves_nothing_and_comes_back_empty() {
    let scene = Scene::new().await;
    scene.create("v").await.unwrap();
    let taken = scene.create("v").await;
    assert!(matches!(taken, Err(SnapshotError::Taken(_))));
    let head = scene.advance("v", "a").await;
    let (head, seen) = {
        let found = Volume::find_to_change(&*scene.store, "v").await.unwrap();
        assert_eq!(found.0.record_id, head.record_id);
        found
    };
    Volume::remove(&*scene.store, "v").await.unwrap();
    assert_eq!(scene.refs().await, 0);
    // Someone who saw it before commits to nothing, and keeps nothing alive.
    let (id, record) = scene.next(&head, "late").await;
    let late = scene.leased.advance((&head, &seen), (id, &record)).await;
    assert!(matches!(late, Err(SnapshotError::NoVolume(_))));
    assert_eq!(scene.refs().await, 0);
    scene.create("v").await.unwrap();
    let late = scene.leased.advance((&head, &seen), (id, &record)).await;
    assert!(!late.unwrap());
    assert_eq!(scene.refs().await, 1);
    assert_eq!(scene.log("v").await, [(1, None)]);
}

#[tokio::test]
async fn the_last_commit_of_a_mount_is_found_behind_those_of_others() {
    let scene = Scene::new().await;
    scene.create("v").await.unwrap();
    for mount in ["a", "b", "a", "c", "b"] {
        scene.advance("v", mount).await;
    }
    let head = Volume::find(&*scene.store, "v").await.unwrap();
    let last = async |mount, since| {
        let found = head.last_of(&*scene.store, mount, since).await.unwrap();
        found.map(|version| version.version.number)
    };
    assert_eq!(last("a", 1).await, Some(4));
    assert_eq!(last("a", 4).await, None, "known already");
    assert_eq!(last("b", 2).await, Some(6));
    assert_eq!(last("none", 0).await, None);
}

#[tokio::test]
async fn restored_and_forked_versions_show_the_same_and_are_new() {
    let scene = Scene::new().await;
    let first = scene.create("v").await.unwrap();
    scene.advance("v", "a").await;
    let (store, clock) = (&scene.store, &scene.clock);
    let restored = Volume::restore(store, clock, "v", 1).await.unwrap();
    assert_eq!(
        (restored.version.number, restored.tree()),
        (3, first.tree())
    );
    let none = Volume::restore(store, clock, "v", 9).await;
    assert!(matches!(
        none,
        Err(SnapshotError::NoVersion { number: 9, .. })
    ));
    let forked = Volume::fork(store, clock, "v", "w").await.unwrap();
    assert_eq!(forked.version.number, 1);
    assert_ne!(forked.version.id, first.version.id);
    scene.advance("w", "x").await;
    assert_eq!(scene.log("v").await.len(), 3);
    Volume::snapshot(store, clock, "v", Some("s"))
        .await
        .unwrap();
    Volume::remove(&**store, "v").await.unwrap();
    let kept = Snapshot::find(&**store, "s").await.unwrap();
    assert_eq!(kept.id, restored.record_id);
    assert_eq!(scene.log("w").await.len(), 2);
    let taken = Volume::fork(store, clock, "w", "s").await;
    assert!(matches!(taken, Err(SnapshotError::Taken(_))));
}

#[tokio::test]
async fn names_that_would_be_taken_for_something_else_are_refused() {
    let scene = Scene::new().await;
    let id = Digest::of(b"x").to_string();
    for bad in ["", "a b", "..", "/a", "a:/b", &*id, &*"x".repeat(201)] {
        let refused = scene.create(bad).await;
        let refused = matches!(
            refused,
            Err(SnapshotError::Invalid(_) | SnapshotError::Name(_))
        );
        assert!(refused, "{bad:?}");
    }
    scene.create("team/data:v1").await.unwrap();
    assert_eq!(scene.log("team/data:v1").await.len(), 1);
}
