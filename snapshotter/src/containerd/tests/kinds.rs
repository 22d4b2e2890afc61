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
