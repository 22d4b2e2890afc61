//! Trees that are shown inside of containers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use tonic::Code;

use super::scene::Scene;

const REF: &str = "containerd.io/snapshot.ref";
const LOW: &str = "sha256:4444444444444444444444444444444444444444444444444444444444444444";
const ONE: &str = "containerd.io/snapshot/nacre.mount.1";
const TWO: &str = "containerd.io/snapshot/nacre.mount.2";

/// A scene with a base layer, and a tree called `data` that holds `file`.
async fn scene(base: &Path, data: &Path) -> Scene {
    let scene = Scene::new().await;
    scene.stored.add(LOW, base);
    let attached = scene.prepare("k", "", &[(REF, LOW)]).await;
    assert_eq!(attached, Err(Code::AlreadyExists));
    fs::write(data.join("file"), "data").unwrap();
    let layer = scene.stored.add("data", data);
    let mut names = scene.stored.names.lock().unwrap();
    names.insert("data:v1".to_owned(), layer);
    drop(names);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_shown_at_its_path_and_takes_no_writes() {
    let (base, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(base.path().join("opt")).unwrap();
    fs::write(base.path().join("opt/own"), "own").unwrap();
    fs::set_permissions(base.path().join("opt"), fs::Permissions::from_mode(0o711)).unwrap();
    let mut scene = scene(base.path(), data.path()).await;
    let labels = [(ONE, "data:v1:/opt/a/b"), (TWO, "data:v1:/new")];
    let mounts = scene.prepare("c", LOW, &labels).await.unwrap();
    let targets: Vec<_> = mounts.iter().map(|mount| &*mount.target).collect();
    assert_eq!(targets, ["", "/opt/a/b", "/new"]);
    // containerd from 2.3 on takes the last of those that it knows for the root.
    assert!(mounts[1..].iter().all(|mount| mount.r#type == "none"));
    scene.with(&mounts, |root| {
        for path in ["opt/a/b/file", "new/file"] {
            assert_eq!(fs::read_to_string(root.join(path)).unwrap(), "data");
        }
        let refused = fs::write(root.join("new/other"), "x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read_to_string(root.join("opt/own")).unwrap(), "own");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(mode("opt") & 0o7777, 0o711, "it stays what it was below");
        assert_eq!(mode("opt/a") & 0o7777, 0o755);
        fs::write(root.join("opt/a/mine"), "mine").unwrap();
    });
    assert_eq!(scene.stored.held(), 3, "the base and each that is shown");

    // A name that stands for something else later changes nothing.
    scene.stored.names.lock().unwrap().clear();
    scene.restart(|_| ()).await;
    assert_eq!(scene.mounts("c").await.unwrap(), mounts);
    assert_eq!(scene.stored.held(), 3);
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("new/file")).unwrap(), "data");
        assert_eq!(fs::read_to_string(root.join("opt/a/mine")).unwrap(), "mine");
    });

    // An image that is made of the container has the places, and not what was shown there.
    scene.commit("image", "c").await.unwrap();
    assert_eq!(scene.stored.held(), 0);
    let over = scene.prepare("over", "image", &[]).await.unwrap();
    assert_eq!(over.len(), 1);
    scene.with(&over, |root| {
        assert_eq!(fs::read_dir(root.join("new")).unwrap().count(), 0);
        assert!(root.join("opt/a/mine").exists());
    });
    scene.remove("over").await.unwrap();
    scene.remove("image").await.unwrap();
    assert_eq!(scene.stored.held(), 0);
    scene.cleanup().await;
    assert_eq!(scene.directories(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_symlink_of_an_image_leads_out_of_the_root() {
    let (base, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("inside")).unwrap();
    symlink("/../../inside", base.path().join("up")).unwrap();
    symlink(outside.path(), base.path().join("out")).unwrap();
    fs::write(base.path().join("plain"), "").unwrap();
    let scene = scene(base.path(), data.path()).await;
    let up = [(ONE, "data:v1:/up/a")];
    let mounts = scene.prepare("up", LOW, &up).await.unwrap();
    scene.with(&mounts[..1], |root| assert!(root.join("inside/a").is_dir()));
    for path in ["/out/a", "/plain", "/plain/a"] {
        let label = format!("data:v1:{path}");
        let refused = scene.prepare("bad", LOW, &[(ONE, &label)]).await;
        assert_eq!(refused, Err(Code::FailedPrecondition), "{path}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!((scene.directories(), scene.stored.held()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_refused_and_leaves_nothing() {
    let (base, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scene = scene(base.path(), data.path()).await;
    for (labels, code) in [
        (&[(ONE, "none:v1:/data")][..], Code::FailedPrecondition),
        (&[(ONE, "data:v1:data")], Code::InvalidArgument),
        (
            &[(ONE, "data:v1:/a"), (TWO, "data:v1:/a/b")],
            Code::InvalidArgument,
        ),
    ] {
        let refused = scene.prepare("c", LOW, labels).await;
        assert_eq!(refused, Err(code), "{labels:?}");
    }
    // containerd 1.6 would mount it in the place of the root.
    scene.stored.is_old.store(true, Ordering::Relaxed);
    let refused = scene.prepare("c", LOW, &[(ONE, "data:v1:/data")]).await;
    assert_eq!(refused, Err(Code::FailedPrecondition));
    assert_eq!((scene.directories(), scene.stored.held()), (0, 0));
    assert!(scene.prepare("c", LOW, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_layers_the_places_are_made_in_the_directory_itself() {
    let (base, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scene = scene(base.path(), data.path()).await;
    let mounts = scene
        .prepare("c", "", &[(ONE, "data:v1:/a/b")])
        .await
        .unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("a/b/file")).unwrap(), "data");
    });
}
