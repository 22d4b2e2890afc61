//! Labels of containers as options.

use std::fs;
use std::io::ErrorKind;

use nacre_fs::mount::{Umount, mounts_below, umount};
use tonic::Code;

use super::scene::Scene;
use crate::daemon::MountMode;

const LAYER: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";
const QUOTA: &str = "containerd.io/snapshot/nacre.quota";
const TRACE: &str = "containerd.io/snapshot/nacre.trace";

impl Scene {
    /// Returns how many file systems are mounted for snapshots.
    fn bounded(&self) -> usize {
        let folder = self.root.path().join("sn").canonicalize().unwrap();
        mounts_below(&folder).unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_writes_no_more_than_its_quota() {
    let mut scene = Scene::new().await;
    scene
        .layer("base", "", |root| {
            fs::write(root.join("low"), "low").unwrap();
        })
        .await;
    let labels = [(QUOTA, "32MiB")];
    let mounts = scene.prepare("c", "base", &labels).await.unwrap();
    assert_eq!(scene.bounded(), 1);
    let mebibyte = vec![1; 1 << 20];
    scene.with(&mounts, |root| {
        fs::write(root.join("small"), &mebibyte).unwrap();
        let full = fs::write(root.join("large"), vec![1; 64 << 20]);
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
        fs::remove_file(root.join("large")).unwrap();
        fs::write(root.join("again"), &mebibyte).unwrap();
        assert_eq!(fs::read(root.join("low")).unwrap(), b"low");
    });
    assert!(scene.usage("c").await.unwrap().size >= 2 << 20);
    assert_eq!(scene.stat("c").await.unwrap().labels[QUOTA], "32MiB");

    // After a reboot it is mounted again for whoever asks, for a container over it as well.
    scene
        .restart(|root| {
            let folder = root.join("sn").canonicalize().unwrap();
            for point in mounts_below(&folder).unwrap() {
                umount(&point, Umount::Detach).unwrap();
            }
        })
        .await;
    assert_eq!(scene.bounded(), 0);
    assert_eq!(scene.mounts("c").await.unwrap(), mounts);
    scene.with(&mounts, |root| {
        assert_eq!(fs::read(root.join("again")).unwrap(), mebibyte);
    });
    scene.commit("mine", "c").await.unwrap();
    let over = scene.prepare("over", "mine", &[]).await.unwrap();
    scene.with(&over, |root| {
        assert_eq!(fs::read(root.join("small")).unwrap(), mebibyte);
    });
    for name in ["over", "mine", "base"] {
        scene.remove(name).await.unwrap();
    }
    scene.cleanup().await;
    assert_eq!((scene.bounded(), scene.directories()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_are_none_are_refused() {
    let scene = Scene::new().await;
    for label in [
        (QUOTA, "much"),
        (QUOTA, "1"),
        (TRACE, "maybe"),
        ("containerd.io/snapshot/nacre.qouta", "1G"),
        ("containerd.io/snapshot/nacre.mount.0", "a:b"),
    ] {
        let refused = scene.prepare("c", "", &[label]).await;
        assert_eq!(refused, Err(Code::InvalidArgument), "{label:?}");
    }
    assert_eq!(scene.directories(), 0);
    // What others call theirs is no affair of this.
    let labels = [("containerd.io/snapshot/other.quota", "much")];
    assert!(scene.prepare("c", "", &labels).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_traced_is_served_by_fuse() {
    let scene = Scene::new().await;
    let tree = tempfile::tempdir().unwrap();
    scene.stored.add(LAYER, tree.path());
    let labels = [("containerd.io/snapshot.ref", LAYER)];
    assert_eq!(
        scene.prepare("k", "", &labels).await,
        Err(Code::AlreadyExists)
    );
    for (key, label, mode) in [
        ("plain", (TRACE, "false"), None),
        ("traced", (TRACE, "true"), Some(MountMode::Fuse)),
    ] {
        scene.prepare(key, LAYER, &[label]).await.unwrap();
        scene.mounts(key).await.unwrap();
        let modes = std::mem::take(&mut *scene.stored.modes.lock().unwrap());
        assert_eq!(modes, [mode, mode]);
    }
}
