//! Images, snapshots and volumes that are shown inside of containers.

use nacre_fs::mount::mounts_below;

use super::release::Release;
use super::scene::Scene;
use crate::tar::Entry;

/// What `passwd` of an image says of its only user.
fn users(name: &str, uid: u32) -> [Entry; 2] {
    [
        Entry::directory("etc"),
        Entry::file("etc/passwd", format!("{name}:x:{uid}:{uid}::/:/bin/sh\n")),
    ]
}

fn label(number: u32, value: &str) -> String {
    format!("containerd.io/snapshot/nacre.mount.{number}={value}")
}

impl Scene {
    /// Returns the command that runs a container with mounts.
    fn run_with<'a>(&self, labels: &'a [String], rest: &[&'a str]) -> Vec<&'a str> {
        let mut run = vec!["run", "--snapshotter", "nacre"];
        for label in labels {
            run.extend(["--snapshotter-label", label]);
        }
        run.extend(rest);
        run
    }
}

#[test]
fn what_labels_name_is_shown_in_a_container_of_containerd_2() {
    let Some(latest) = Release::latest() else {
        return;
    };
    let scene = Scene::with(latest, "if-stored");
    let image = scene.pull_stored("app", &[&users("who", 7)]);
    let file = Entry::file("file", "one");
    let [etc, passwd] = users("who", 9);
    scene.push("data", &[&[file, etc, passwd]]);
    scene.add("data");
    scene.nacre_ok(&["volume", "create", "vol", "--from", "data:v1"]);
    let labels = [label(1, "data:v1:/srv/data"), label(2, "vol:/vol")];
    let script = "cat srv/data/file vol/file; id -u; echo x 2>/dev/null > vol/new || echo refused; \
        echo mine > srv/mine; cat srv/mine";
    // A user by name is looked for in the root, and not in what is shown.
    let command = ["--rm", "--user", "who", &image, "c", "/bin/sh", "-c"];
    let run = scene.run_with(&labels, &command);
    let shown = scene.ctr_output(&[&run[..], &["cat srv/data/file; id -u"]].concat());
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout),
        "one7\n",
        "{shown:?}"
    );

    let run = scene.run_with(&labels, &["-d", &image, "kept", "/bin/sh", "-c"]);
    scene.ctr(&[&run[..], &["sleep 100000"]].concat());
    let exec = |script| {
        scene.ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "e",
            "kept",
            "/bin/sh",
            "-c",
            script,
        ])
    };
    assert_eq!(exec(script), "oneone0\nrefused\nmine\n");
    // The name stands for something else now; the container starts again with what it had.
    scene.push("data", &[&[Entry::file("file", "two")]]);
    scene.nacre_ok(&["image", "rm", "data:v1"]);
    scene.add("data");
    scene.kill_daemon();
    scene.start_daemon();
    scene.ctr(&["tasks", "rm", "-f", "kept"]);
    scene.ctr(&["tasks", "start", "-d", "kept"]);
    assert_eq!(exec("cat srv/data/file vol/file srv/mine"), "oneonemine\n");
    let run = scene.run_with(&labels, &["--rm", &image, "new", "/bin/sh", "-c"]);
    assert_eq!(
        scene.ctr(&[&run[..], &["cat srv/data/file vol/file"]].concat()),
        "twoone"
    );

    // Nothing of it stays.
    scene.ctr(&["tasks", "rm", "-f", "kept"]);
    scene.ctr(&["containers", "rm", "kept"]);
    let state = scene.path("state").canonicalize().unwrap();
    let left: Vec<_> = mounts_below(&state).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn containerd_1_6_which_would_mount_it_over_the_root_is_refused() {
    let scene = Scene::new("if-stored");
    let image = scene.pull_stored("app", &[&users("who", 7)]);
    let labels = [label(1, "app:v1:/data")];
    let run = scene.run_with(&labels, &["--rm", &image, "c", "/bin/sh", "-c", "echo ran"]);
    let refused = scene.ctr_output(&run);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("mounts nothing below the root"), "{told}");
    let run = scene.run_with(&[], &["--rm", &image, "c", "/bin/sh", "-c", "echo ran"]);
    assert_eq!(scene.ctr(&run), "ran\n");
}
