//! What may become of which kind of snapshot, and how it is refused.

use tonic::Code;

use super::super::proto::Kind;
use super::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_code() {
    let scene = Scene::new().await;
    scene.prepare("a", "", &[]).await.unwrap();
    scene.view("v", "").await.unwrap();
    scene.layer("c", "", |_| ()).await;
    for taken in ["a", "v", "c"] {
        let prepared = scene.prepare(taken, "", &[]).await;
        assert_eq!(prepared, Err(Code::AlreadyExists), "{taken}");
        assert_eq!(scene.view(taken, "c").await, Err(Code::AlreadyExists));
        let committed = scene.commit(taken, "a").await;
        assert_eq!(committed, Err(Code::AlreadyExists), "{taken}");
    }
    let prepared = scene.prepare("n", "none", &[]).await;
    assert_eq!(prepared, Err(Code::NotFound));
    assert_eq!(scene.view("n", "none").await, Err(Code::NotFound));
    for parent in ["a", "v"] {
        let prepared = scene.prepare("n", parent, &[]).await;
        assert_eq!(prepared, Err(Code::InvalidArgument), "{parent}");
        assert_eq!(scene.view("n", parent).await, Err(Code::InvalidArgument));
    }
    assert_eq!(scene.prepare("", "", &[]).await, Err(Code::InvalidArgument));

    assert_eq!(scene.commit("n", "none").await, Err(Code::NotFound));
    for key in ["v", "c"] {
        let committed = scene.commit("n", key).await;
        assert_eq!(committed, Err(Code::FailedPrecondition), "{key}");
    }
    let moved = scene.commit_as("n", "a", "c", &[]).await;
    assert_eq!(moved, Err(Code::InvalidArgument));

    assert_eq!(scene.mounts("none").await, Err(Code::NotFound));
    assert_eq!(scene.mounts("c").await, Err(Code::FailedPrecondition));
    assert_eq!(scene.stat("none").await.err(), Some(Code::NotFound));
    assert_eq!(scene.usage("none").await.err(), Some(Code::NotFound));
    let gone = scene.remove("none").await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    scene.prepare("child", "c", &[]).await.unwrap();
    let refused = scene.remove("c").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove"));
    // Nothing that was refused left anything behind.
    scene.cleanup().await;
    assert_eq!(scene.names(&[]).await, ["a", "c", "child", "v"]);
    assert_eq!(scene.directories(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_the_key_away_and_a_removal_frees_it() {
    let scene = Scene::new().await;
    let key = "default/1/extract-224932031-ibbJ sha256:f304/../\u{e9}";
    scene.prepare(key, "", &[]).await.unwrap();
    assert_eq!(scene.stat(key).await.unwrap().kind, i32::from(Kind::Active));
    scene.commit("c", key).await.unwrap();
    assert_eq!(scene.stat(key).await.err(), Some(Code::NotFound));
    let committed = scene.stat("c").await.unwrap();
    assert_eq!(committed.kind, i32::from(Kind::Committed));
    assert_eq!(committed.created_at, committed.updated_at);
    for _ in 0..3 {
        scene.prepare(key, "c", &[]).await.unwrap();
        assert_eq!(scene.stat(key).await.unwrap().parent, "c");
        scene.remove(key).await.unwrap();
        scene.view(key, "").await.unwrap();
        assert_eq!(scene.stat(key).await.unwrap().kind, i32::from(Kind::View));
        scene.remove(key).await.unwrap();
    }
    scene.remove("c").await.unwrap();
    scene.prepare("x", "", &[]).await.unwrap();
    scene.commit("c", "x").await.unwrap();
    scene.cleanup().await;
    assert_eq!(scene.directories(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_prepares_one_wins_and_nothing_else_is_left() {
    let scene = Scene::new().await;
    let prepares = (0..16).map(|_| scene.prepare("k", "", &[]));
    let answers = futures::future::join_all(prepares).await;
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(won, 1);
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.clone().all(|code| *code == Code::AlreadyExists));
    let removals = futures::future::join_all((0..16).map(|_| scene.remove("k"))).await;
    let removed = removals.iter().filter(|removed| removed.is_ok()).count();
    assert_eq!(removed, 1);
    scene.cleanup().await;
    assert_eq!(scene.directories(), 0);
    assert!(scene.names(&[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_names_may_be_any_text_that_is_not_too_long() {
    let scene = Scene::new().await;
    let longest = "k".repeat(4096);
    let keys = [
        "default/1/extract-224932031-ibbJ sha256:f304",
        "..",
        "/",
        "a/../b",
        "\u{e9}\n\t\"'\\,==",
        &longest,
    ];
    for key in keys {
        scene.prepare(key, "", &[]).await.unwrap();
        scene.mounts(key).await.unwrap();
        let name = format!("{}!", &key[..key.len().min(4000)]);
        scene.commit(&name, key).await.unwrap();
        scene.view(key, &name).await.unwrap();
        assert_eq!(scene.stat(key).await.unwrap().parent, name);
    }
    assert_eq!(scene.names(&[]).await.len(), 2 * keys.len());
    // Each below its number, and nothing beside it.
    assert_eq!(scene.directories(), keys.len());
    for bad in ["", &format!("{longest}k")] {
        let refused = Err(Code::InvalidArgument);
        assert_eq!(scene.prepare(bad, "", &[]).await, refused);
        assert_eq!(scene.view(bad, "").await, refused);
        scene.prepare("x", "", &[]).await.unwrap();
        assert_eq!(scene.commit(bad, "x").await, Err(Code::InvalidArgument));
        scene.remove("x").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_may_say_its_parent_if_that_is_right() {
    let scene = Scene::new().await;
    scene.layer("p", "", |_| ()).await;
    scene.prepare("k", "p", &[]).await.unwrap();
    for wrong in ["none", "k"] {
        let refused = scene.commit_as("c", "k", wrong, &[]).await;
        assert_eq!(refused, Err(Code::InvalidArgument), "{wrong}");
    }
    scene.commit_as("c", "k", "p", &[]).await.unwrap();
    assert_eq!(scene.stat("c").await.unwrap().parent, "p");
    assert_eq!(scene.prepare("n", "c", &[]).await.map(|_| ()), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_takes_nothing_from_what_is_being_made() {
    let scene = Scene::new().await;
    scene.layer("p", "", |_| ()).await;
    let keys: Vec<_> = (0..64).map(|n| format!("k{n}")).collect();
    let prepares = keys.iter().map(|key| scene.prepare(key, "p", &[]));
    let cleanups = (0..16).map(|_| scene.cleanup());
    let (prepared, _) = futures::future::join(
        futures::future::join_all(prepares),
        futures::future::join_all(cleanups),
    )
    .await;
    assert!(prepared.iter().all(Result::is_ok));
    scene.cleanup().await;
    assert_eq!(scene.directories(), keys.len() + 1);
}
