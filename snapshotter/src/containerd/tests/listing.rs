//! Lists: filters and pages.

use tonic::Code;

use super::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_what_containerd_looks_for() {
    let scene = Scene::new().await;
    let reference = "containerd.io/snapshot.ref";
    scene.layer("base", "", |_| ()).await;
    scene.prepare("k", "base", &[]).await.unwrap();
    let labels = [(reference, "sha256:ab"), ("plain", "v")];
    scene.commit_as("c", "k", "", &labels).await.unwrap();
    scene.prepare("x", "c", &[("plain", "w")]).await.unwrap();
    scene.view("v", "c").await.unwrap();
    for (filters, names) in [
        (&[][..], &["base", "c", "v", "x"][..]),
        (&["labels.plain"], &["c", "x"]),
        (&["labels.plain==v"], &["c"]),
        (
            &["labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"base\""],
            &["c"],
        ),
        (
            &["labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==other"],
            &[],
        ),
        (&["kind==committed"], &["base", "c"]),
        (&["kind==active", "kind==view"], &["v", "x"]),
        (&["parent==\"\""], &["base"]),
        (&["parent!=\"\""], &["c", "v", "x"]),
        (&["name~=^[cv]$"], &["c", "v"]),
    ] {
        assert_eq!(scene.names(filters).await, names, "{filters:?}");
    }
    for bad in ["labels.", "name=x", "name~=("] {
        let refused = scene.pages(&[bad]).await;
        assert_eq!(refused.err(), Some(Code::InvalidArgument), "{bad}");
    }
    for info in scene.pages(&[]).await.unwrap().into_iter().flatten() {
        assert_eq!(scene.stat(&info.name).await.unwrap(), info);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_at_most_a_hundred() {
    let scene = Scene::new().await;
    assert!(scene.pages(&[]).await.unwrap().is_empty());
    let keys: Vec<_> = (0..201).map(|n| format!("k{n:03}")).collect();
    let prepares = keys.iter().map(|key| scene.view(key, ""));
    for prepared in futures::future::join_all(prepares).await {
        prepared.unwrap();
    }
    let pages = scene.pages(&[]).await.unwrap();
    let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lengths, [100, 100, 1]);
    assert_eq!(scene.names(&[]).await, keys);
}
