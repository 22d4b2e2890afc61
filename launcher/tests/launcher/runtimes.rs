//! The same behaviour from each runtime.

use nacre_launcher::{ExecSpec, RuntimeKind, SandboxSpec};

use crate::scene::{SIGNALS, Scene, words};

async fn behaves(runtime: RuntimeKind) {
    let _no_signals = SIGNALS.read().await;
    let scene = Scene::new();
    let with = |spec: SandboxSpec| SandboxSpec { runtime, ..spec };
    let mut spec = with(scene.shell("cat; echo err >&2; exit 3"));
    spec.interactive = true;
    let done = scene.run_with_stdin(spec, b"typed").await.unwrap();
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (3, "typed", "err\n")
    );
    for (command, code) in [("nosuch", 127), ("/etc/nosuch", 127), ("/etc/passwd", 126)] {
        let error = scene.run(with(scene.spec(&[command]))).await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{command}: {error}");
    }
    assert!(scene.is_empty());
    let started = scene
        .launcher
        .start(with(scene.spec(&["sleep", "1000"])))
        .await
        .unwrap();
    let exec = ExecSpec {
        args: words(&["sh", "-c", "echo in; exit 5"]),
        ..Default::default()
    };
    let done = scene.exec(&started.name, &exec).await.unwrap();
    assert_eq!((done.code, done.out.as_str()), (5, "in\n"));
    scene
        .launcher
        .stop(&started.name, std::time::Duration::from_millis(100))
        .await
        .unwrap();
    let cgroup = scene.launcher.inspect(&started.name).unwrap().cgroup;
    scene.launcher.remove(&started.name, false).await.unwrap();
    assert!(scene.is_empty());
    let left = format!("/sys/fs/cgroup/memory{cgroup}");
    assert!(!std::path::Path::new(&left).exists(), "{left} stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn runc() {
    behaves(RuntimeKind::Runc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crun() {
    behaves(RuntimeKind::Crun).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runsc() {
    behaves(RuntimeKind::Runsc).await;
}
