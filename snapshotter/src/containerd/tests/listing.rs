//! Lists: filters and pages.

use tonic::Code;

use super::super::proto::ListSnapshotsRequest;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_list_stands_in_nobodys_way_and_shows_what_was_there() {
    let scene = Scene::new().await;
    for n in 0..101 {
        scene.view(&format!("k{n:03}"), "").await.unwrap();
    }
    let request = ListSnapshotsRequest::default();
    let mut pages = scene
        .client
        .clone()
        .list(request)
        .await
        .unwrap()
        .into_inner();
    // As containerd's Walk does, whose callers ask in the middle of it.
    let first = pages.message().await.unwrap().unwrap();
    assert_eq!(scene.stat("k000").await.unwrap(), first.info[0]);
    scene.remove("k100").await.unwrap();
    scene.view("k101", "").await.unwrap();
    let last = pages.message().await.unwrap().unwrap();
    assert_eq!(last.info.len(), 1);
    assert_eq!(last.info[0].name, "k100");
    assert!(pages.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_be_as_large_as_containerds() {
    let scene = Scene::new().await;
    scene.view("k", "").await.unwrap();
    // Twelve of the sixteen MiB; gRPC's own limit is four.
    let filter = format!("name=={}", "n".repeat(12 << 10));
    let mut filters = vec![&*filter; 1023];
    filters.push("name==k");
    assert_eq!(scene.names(&filters).await, ["k"]);
}
