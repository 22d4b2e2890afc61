//! Names, exec, list, stop, remove, crash leftovers.

use std::fs;
use std::time::Duration;

use nacre_launcher::{ExecSpec, LaunchError, SandboxSpec, Status};

use crate::scene::{SIGNALS, Scene, file_holds, words};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_once() {
    let scene = Scene::new();
    let spec = |name: &str| SandboxSpec {
        name: Some(name.to_owned()),
        ..scene.spec(&["sleep", "1000"])
    };
    scene.launcher.start(spec("one")).await.unwrap();
    let clash = scene.launcher.start(spec("one")).await.unwrap_err();
    assert!(matches!(clash, LaunchError::Busy(..)), "{clash}");
    assert_eq!(scene.launcher.list().unwrap().len(), 1);
    assert_eq!(
        scene.launcher.inspect("one").unwrap().status,
        Status::Running
    );
    for bad in ["", ".x", "a/b", "..", "-x", &"x".repeat(64)] {
        let error = scene.launcher.start(spec(bad)).await.unwrap_err();
        assert!(matches!(error, LaunchError::Invalid(_)), "{bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_sandbox_logs_stops_and_is_removed() {
    let scene = Scene::new();
    let script = "echo out; echo err >&2; trap 'echo bye; exit 9' TERM; while :; do sleep 0.05; \
                  done";
    let name = scene
        .launcher
        .start(scene.shell(script))
        .await
        .unwrap()
        .name;
    let dir = scene.sandboxes().join(&name);
    file_holds(&dir.join("stderr.log"), "err\n").await;
    let info = scene.launcher.inspect(&name).unwrap();
    assert!(
        info.status == Status::Running && info.pid.is_some(),
        "{info:?}"
    );
    let running = scene.launcher.remove(&name, false).await.unwrap_err();
    assert!(matches!(running, LaunchError::Busy(..)), "{running}");
    scene
        .launcher
        .stop(&name, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(fs::read(dir.join("stdout.log")).unwrap(), b"out\nbye\n");
    let info = scene.launcher.inspect(&name).unwrap();
    assert_eq!(
        (info.status, info.pid),
        (Status::Stopped { exit_code: None }, None)
    );
    scene
        .launcher
        .stop(&name, Duration::from_secs(1))
        .await
        .unwrap();
    scene.launcher.remove(&name, false).await.unwrap();
    let gone = scene.launcher.inspect(&name).unwrap_err();
    assert!(matches!(gone, LaunchError::NotFound(_)) && scene.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_kept_tells_its_exit_code() {
    let scene = Scene::new();
    let spec = SandboxSpec {
        name: Some("kept".to_owned()),
        remove_on_exit: false,
        ..scene.shell("exit 6")
    };
    scene.run(spec).await.unwrap();
    let status = scene.launcher.inspect("kept").unwrap().status;
    assert_eq!(status, Status::Stopped { exit_code: Some(6) });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_at_the_end_is_never_synced() {
    let scene = Scene::new();
    for remove_on_exit in [true, false] {
        let spec = SandboxSpec {
            remove_on_exit,
            ..scene.shell("echo 1 > /made; sync; grep ' / ' /proc/mounts")
        };
        let done = scene.run(spec).await.unwrap();
        assert_eq!(done.code, 0, "{}", done.err);
        let options = done.out.trim_end().rsplit(' ').nth(2).unwrap();
        let is_volatile = options
            .split(',')
            .any(|option| option.ends_with("volatile"));
        assert_eq!(is_volatile, remove_on_exit, "{}", done.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_beside_the_process() {
    let _no_signals = SIGNALS.read().await;
    let scene = Scene::new();
    let name = scene.waiting().await;
    let spec = |script: &str| ExecSpec {
        args: words(&["sh", "-c", script]),
        interactive: true,
        ..Default::default()
    };
    let done = scene
        .exec(&name, &spec("cat; echo err >&2; exit 7"))
        .await
        .unwrap();
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (7, "typed", "err\n")
    );
    let detailed = ExecSpec {
        env: words(&["A=b"]),
        cwd: Some("/tmp".to_owned()),
        user: Some("web".to_owned()),
        ..spec("echo $A $HOME; pwd; id -u; id -G")
    };
    assert_eq!(
        scene.exec(&name, &detailed).await.unwrap().out,
        "b /srv\n/tmp\n33\n34 4\n"
    );
    let killed = scene.exec(&name, &spec("kill -9 $$")).await.unwrap();
    assert_eq!(killed.code, 137);
    let missing = ExecSpec {
        args: words(&["nosuch"]),
        ..Default::default()
    };
    assert_eq!(
        scene.exec(&name, &missing).await.unwrap_err().exit_code(),
        127
    );
    let refused = ExecSpec {
        args: words(&["/etc/passwd"]),
        ..Default::default()
    };
    assert_eq!(
        scene.exec(&name, &refused).await.unwrap_err().exit_code(),
        126
    );
    let left: Vec<_> = fs::read_dir(scene.sandboxes().join(&name))
        .unwrap()
        .flatten()
        .collect();
    assert!(
        !left
            .iter()
            .any(|e| e.file_name().to_string_lossy().starts_with("exec-"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_does_not_wait_for_background_processes() {
    let _no_signals = SIGNALS.read().await;
    let scene = Scene::new();
    let name = scene.waiting().await;
    let spec = ExecSpec {
        args: words(&["sh", "-c", "sleep 5 & echo done"]),
        ..Default::default()
    };
    let (stdin, stdout, stderr) = (
        std::io::pipe().unwrap(),
        std::io::pipe().unwrap(),
        std::io::pipe().unwrap(),
    );
    let streams = nacre_launcher::Streams {
        stdin: stdin.0.into(),
        stdout: stdout.1.into(),
        stderr: stderr.1.into(),
    };
    let exec = scene.launcher.exec(&name, &spec, streams);
    let code = tokio::time::timeout(Duration::from_secs(4), exec)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (code, std::io::read_to_string(stdout.0).unwrap().as_str()),
        (0, "done\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_in_a_sandbox_that_does_not_run_is_refused() {
    let scene = Scene::new();
    let name = scene.waiting().await;
    scene
        .launcher
        .stop(&name, Duration::from_secs(10))
        .await
        .unwrap();
    let spec = ExecSpec {
        args: words(&["true"]),
        ..Default::default()
    };
    assert!(matches!(
        scene.exec(&name, &spec).await,
        Err(LaunchError::Busy(..))
    ));
    assert!(matches!(
        scene.exec("nosuch", &spec).await,
        Err(LaunchError::NotFound(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_dead_processes_are_swept_and_damage_is_contained() {
    let scene = Scene::new();
    let name = scene.waiting().await;
    for leftover in [".new-0123/upper", ".gone-4567/work/x", "damaged"] {
        fs::create_dir_all(scene.sandboxes().join(leftover)).unwrap();
    }
    fs::write(
        scene.sandboxes().join("damaged/sandbox.json"),
        "{\"version\":",
    )
    .unwrap();
    let root = scene.sandboxes().parent().unwrap().to_owned();
    let clock = std::sync::Arc::new(nacre_blobstore::SystemClock::new());
    let again = nacre_launcher::Launcher::open(&root, clock).unwrap();
    let names: Vec<String> = again
        .list()
        .unwrap()
        .into_iter()
        .map(|info| info.name)
        .collect();
    assert_eq!(names, [name.as_str()]);
    let mut left: Vec<_> = fs::read_dir(scene.sandboxes())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["damaged", name.as_str()]);
    let damaged = again.inspect("damaged").unwrap_err();
    assert!(matches!(damaged, LaunchError::Corrupt { .. }), "{damaged}");
}
