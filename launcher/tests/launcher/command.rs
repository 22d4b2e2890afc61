//! Exit codes, environment, user, working directory, streams, signals.

use nacre_launcher::{LaunchError, SandboxSpec};

use crate::scene::{Done, SIGNALS, Scene, file_holds, words};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_outputs_pass_through() {
    let scene = Scene::new();
    let done = scene
        .run(scene.shell("echo out; echo err >&2; exit 3"))
        .await
        .unwrap();
    assert_eq!(
        done,
        Done {
            code: 3,
            out: "out\n".to_owned(),
            err: "err\n".to_owned()
        }
    );
    assert_eq!(scene.run(scene.spec(&["true"])).await.unwrap().code, 0);
    assert!(scene.is_empty(), "--rm removes");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_command_have_dockers_codes_and_leave_nothing() {
    let scene = Scene::new();
    for (command, code) in [
        ("nosuch", 127),
        ("/etc/nosuch", 127),
        ("/etc/passwd", 126),
        ("/bin", 126),
    ] {
        let error = scene.run(scene.spec(&[command])).await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{command}: {error}");
        let error = scene
            .launcher
            .start(scene.spec(&[command]))
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), code, "detached {command}: {error}");
    }
    let missing_mount = SandboxSpec {
        mounts: vec![nacre_launcher::ExtraMount {
            source: "/nosuch".into(),
            target: "/x".into(),
            read_only: true,
        }],
        ..scene.spec(&["true"])
    };
    let error = scene.run(missing_mount).await.unwrap_err();
    assert!(
        matches!(error, LaunchError::Runtime { .. }) && error.exit_code() == 125,
        "{error}"
    );
    assert!(scene.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_wishes_win_over_the_image() {
    let scene = Scene::new();
    let mut spec = scene.shell("echo $A $B $HOME $HOSTNAME; id -u; id -G; pwd");
    spec.defaults.env = words(&["A=image", "B=image"]);
    spec.defaults.user = "web".to_owned();
    spec.defaults.cwd = "/srv/made".to_owned();
    spec.hostname = Some("box".to_owned());
    let image = scene.run(spec.clone()).await.unwrap().out;
    assert_eq!(image, "image image /srv box\n33\n34 4\n/srv/made\n");
    spec.overrides.env = words(&["B=caller"]);
    spec.overrides.user = Some("5:6".to_owned());
    spec.overrides.cwd = Some("/tmp".to_owned());
    let caller = scene.run(spec.clone()).await.unwrap().out;
    assert_eq!(caller, "image caller / box\n5\n6\n/tmp\n");
    spec.overrides.user = Some("nobody".to_owned());
    let unknown = scene.run(spec).await.unwrap_err();
    assert!(matches!(
        unknown,
        LaunchError::UnknownUser { kind: "user", .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_arrives_only_when_interactive() {
    let scene = Scene::new();
    let mut spec = scene.spec(&["cat"]);
    assert_eq!(
        scene
            .run_with_stdin(spec.clone(), b"typed")
            .await
            .unwrap()
            .out,
        ""
    );
    spec.interactive = true;
    assert_eq!(
        scene.run_with_stdin(spec, b"typed").await.unwrap().out,
        "typed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_to_the_caller_reach_the_process() {
    let _alone = SIGNALS.write().await;
    let scene = Scene::new();
    let script = "trap 'exit 143' TERM; trap 'echo usr >/tmp/usr' USR1; echo >/tmp/up; \
                  while :; do sleep 0.05; done";
    let spec = SandboxSpec {
        name: Some("sig".to_owned()),
        ..scene.shell(script)
    };
    let upper = scene.sandboxes().join("sig/upper/tmp");
    let sender = async {
        let own = rustix::process::getpid();
        file_holds(&upper.join("up"), "\n").await;
        rustix::process::kill_process(own, rustix::process::Signal::USR1).unwrap();
        file_holds(&upper.join("usr"), "usr").await;
        rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
    };
    let (done, ()) = tokio::join!(scene.run(spec), sender);
    assert_eq!(done.unwrap().code, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_ends_with_128_and_the_signal() {
    let scene = Scene::new();
    let spec = SandboxSpec {
        name: Some("killed".to_owned()),
        ..scene.shell("echo >/tmp/up; exec sleep 1000")
    };
    let killer = async {
        let up = scene.sandboxes().join("killed/upper/tmp/up");
        file_holds(
            &up, "
",
        )
        .await;
        scene
            .launcher
            .stop("killed", std::time::Duration::from_millis(10))
            .await
            .unwrap();
    };
    let (done, ()) = tokio::join!(scene.run(spec), killer);
    assert_eq!(done.unwrap().code, 137);
}
