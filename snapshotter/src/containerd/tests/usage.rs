//! Space.

use super::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_of_the_snapshot_alone() {
    let scene = Scene::new().await;
    let megabytes = |count: usize| vec![7; count << 20];
    scene
        .layer("a", "", |root| {
            std::fs::write(root.join("big"), megabytes(8)).unwrap();
        })
        .await;
    let of_layer = scene.usage("a").await.unwrap();
    assert!(of_layer.size >= 8 << 20);
    assert_eq!(of_layer.inodes, 2, "the root, too");

    let mounts = scene.prepare("x", "a", &[]).await.unwrap();
    let before = scene.usage("x").await.unwrap();
    assert!(before.size < 1 << 20);
    scene.with(&mounts, |root| {
        std::fs::write(root.join("new"), megabytes(2)).unwrap();
    });
    let after = scene.usage("x").await.unwrap();
    assert!((2 << 20..3 << 20).contains(&(after.size - before.size)));
    assert_eq!(after.inodes, before.inodes + 1);
    scene.view("v", "a").await.unwrap();
    let of_view = scene.usage("v").await.unwrap();
    assert_eq!((of_view.size, of_view.inodes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_committed_it_is_stored() {
    let mut scene = Scene::new().await;
    scene
        .layer("a", "", |root| std::fs::write(root.join("f"), "x").unwrap())
        .await;
    let measured = scene.usage("a").await.unwrap();
    scene
        .restart(|root| {
            // Not looked at any more.
            std::fs::remove_dir_all(root.join("sn")).unwrap();
        })
        .await;
    assert_eq!(scene.usage("a").await.unwrap(), measured);
}
