//! Labels and times.

use nacre_blobstore::{Clock as _, SystemClock};
use tonic::Code;

use super::super::proto::Info;
use super::scene::{Scene, map};

fn nanoseconds(time: Option<prost_types::Timestamp>) -> u64 {
    let time = time.unwrap();
    u64::try_from(time.seconds).unwrap() * 1_000_000_000 + u64::try_from(time.nanos).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_commit_replace_those_of_the_key() {
    let scene = Scene::new().await;
    let labels = [("containerd.io/snapshot/a", "1"), ("b", "2")];
    scene.prepare("k", "", &labels).await.unwrap();
    assert_eq!(scene.stat("k").await.unwrap().labels, map(&labels));
    let committed = [("c", "3")];
    scene.commit_as("c", "k", "", &committed).await.unwrap();
    assert_eq!(scene.stat("c").await.unwrap().labels, map(&committed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names() {
    let scene = Scene::new().await;
    scene.layer("p", "", |_| ()).await;
    let old = [("a", "1"), ("b", "2")];
    scene.prepare("k", "p", &old).await.unwrap();
    let before = scene.stat("k").await.unwrap();
    let wanted = |labels: &[(&str, &str)]| Info {
        name: "k".to_owned(),
        parent: "other".to_owned(),
        labels: map(labels),
        ..Info::default()
    };
    let new = [("a", "9"), ("c", "3")];
    let mask: &[&str] = &["labels.a", "labels.b"];
    let updated = scene.update(wanted(&new), Some(mask)).await.unwrap();
    assert_eq!(updated.labels, map(&[("a", "9")]));
    let expected = Info {
        labels: updated.labels.clone(),
        updated_at: updated.updated_at,
        ..before.clone()
    };
    assert_eq!(updated, expected, "all but labels and time is as it was");
    assert!(nanoseconds(updated.updated_at) > nanoseconds(before.updated_at));
    assert_eq!(scene.stat("k").await.unwrap(), updated);
    for mask in [None, Some(&[][..]), Some(&["labels"])] {
        let updated = scene.update(wanted(&new), mask).await.unwrap();
        assert_eq!(updated.labels, map(&new));
    }
    for bad in ["parent", "kind", "name", "created_at"] {
        let refused = scene.update(wanted(&new), Some(&[bad])).await;
        assert_eq!(refused, Err(Code::InvalidArgument), "{bad}");
    }
    let none = Info {
        name: "none".to_owned(),
        ..Info::default()
    };
    assert_eq!(scene.update(none, None).await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_have_a_limit() {
    let scene = Scene::new().await;
    let long = "v".repeat(4096);
    let refused = scene.prepare("k", "", &[("k", &long)]).await;
    assert_eq!(refused, Err(Code::InvalidArgument));
    let fits = &long[1..];
    scene.prepare("k", "", &[("k", fits)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_of_the_call_to_the_nanosecond() {
    let scene = Scene::new().await;
    let clock = SystemClock::new();
    let mut fractions = Vec::new();
    for n in 0..8 {
        let key = format!("k{n}");
        let began = clock.now_ns();
        scene.prepare(&key, "", &[]).await.unwrap();
        let ended = clock.now_ns();
        let info = scene.stat(&key).await.unwrap();
        let created = nanoseconds(info.created_at);
        assert!((began..=ended).contains(&created));
        assert_eq!(info.created_at, info.updated_at);
        fractions.push(created % 1_000_000);
    }
    assert!(fractions.iter().any(|fraction| *fraction != 0));
}
