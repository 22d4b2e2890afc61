//! Containers of gVisor, whose files are read by its own kernel and not by the node's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::release::Release;
use super::scene::Scene;
use crate::tar::Entry;

/// The shim for runc takes any runtime with runc's command line, and passes no flags of its own.
const PROGRAM: &str = "#!/bin/sh\nexec runsc --platform=ptrace --network=none \"$@\"\n";

impl Scene {
    fn run_gvisor(&self, image: &str, container: &str, script: &str) -> String {
        let program = self.path("gvisor");
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let program = program.display().to_string();
        // The shims of all containerds have gVisor keep its containers in one folder.
        let scene = self.node.path("");
        let unique = scene.file_name().unwrap().display();
        let container = &format!("{unique}-{container}");
        let run = ["run", "--rm", "--snapshotter", "nacre"];
        let what = ["--runc-binary", &program, image, container];
        self.ctr(&[&run[..], &what, &["/bin/sh", "-c", script]].concat())
    }
}

fn starts_from_the_store(release: Release) {
    let scene = Scene::with(release, "if-stored");
    let below = [Entry::file("file", "content"), Entry::file("gone", "x")];
    let image = scene.pull_stored("app", &[&below, &[Entry::file("above", "layer")]]);
    let fetched = scene.layers_fetched("app");
    let script =
        "cat file above; rm gone; echo more > file; cat file; test -e gone || echo removed";
    let shown = scene.run_gvisor(&image, "one", script);
    assert_eq!(shown, "contentlayermore\nremoved\n");
    // What one wrote is not there for the next.
    let version = scene.run_gvisor(&image, "two", "cat file gone; cat /proc/version");
    assert!(
        version.starts_with("contentxLinux version 4.4.0"),
        "{version}"
    );
    assert_eq!(scene.layers_fetched("app"), fetched);
}

#[test]
fn gvisor_runs_what_the_store_has_by_debians_containerd() {
    starts_from_the_store(Release::Debian);
}

#[test]
fn gvisor_runs_what_the_store_has_by_containerd_2() {
    if let Some(latest) = Release::latest() {
        starts_from_the_store(latest);
    }
}
