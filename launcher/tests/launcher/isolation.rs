//! What a sandbox can reach, and what it cannot.

use std::fs;
use std::os::unix::fs::symlink;

use nacre_launcher::{ExtraMount, LaunchError, Network, SandboxSpec};

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn writes_land_in_the_upper_directory_only() {
    let scene = Scene::new();
    let script = "echo changed > /etc/passwd; echo new > /tmp/new; rm /etc/group";
    let spec = SandboxSpec {
        name: Some("w".to_owned()),
        remove_on_exit: false,
        ..scene.shell(script)
    };
    let before = fs::read(scene.lower().join("etc/passwd")).unwrap();
    scene.run(spec).await.unwrap();
    assert_eq!(fs::read(scene.lower().join("etc/passwd")).unwrap(), before);
    assert!(scene.lower().join("etc/group").exists());
    assert!(!scene.lower().join("tmp/new").exists());
    let upper = scene.launcher.inspect("w").unwrap().upper;
    assert_eq!(fs::read(upper.join("etc/passwd")).unwrap(), b"changed\n");
    assert_eq!(fs::read(upper.join("tmp/new")).unwrap(), b"new\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passwd_that_points_outside_is_read_inside() {
    let scene = Scene::new();
    let passwd = scene.lower().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    let outside = scene.lower().with_file_name("host");
    fs::write(&outside, "evil:x:0:0::/:\n").unwrap();
    symlink("/../../host", &passwd).unwrap();
    let mut spec = scene.spec(&["true"]);
    spec.overrides.user = Some("evil".to_owned());
    let error = scene.run(spec.clone()).await.unwrap_err();
    assert!(matches!(error, LaunchError::UnknownUser { .. }), "{error}");
    fs::write(scene.lower().join("host"), "evil:x:7:7::/:\n").unwrap();
    spec.overrides.command = crate::scene::words(&["id", "-u"]);
    assert_eq!(scene.run(spec).await.unwrap().out, "7\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_is_not_made_outside() {
    let scene = Scene::new();
    symlink("/../..", scene.lower().join("up")).unwrap();
    let mut spec = scene.spec(&["readlink", "-f", "."]);
    spec.overrides.cwd = Some("/up/made".to_owned());
    assert_eq!(scene.run(spec).await.unwrap().out, "/made\n");
    assert!(!scene.lower().with_file_name("made").exists());
    assert!(!std::path::Path::new("/made").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_network_is_loopback_only_and_host_is_the_hosts() {
    let scene = Scene::new();
    let mut spec = scene.shell("ls /sys/class/net; ip addr show lo; readlink /proc/self/ns/net");
    let done = scene.run(spec.clone()).await.unwrap();
    assert!(
        done.out.starts_with("lo\n") && done.out.contains("127.0.0.1"),
        "{done:?}"
    );
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!done.out.contains(host.to_str().unwrap()));
    spec.network = Network::Host;
    spec.overrides.command = crate::scene::words(&[
        "sh",
        "-c",
        "readlink /proc/self/ns/net; cat /etc/resolv.conf",
    ]);
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let expected = format!("{}\n{resolv}", host.display());
    assert_eq!(scene.run(spec).await.unwrap().out, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn extra_mounts_are_shown_and_read_only_ones_refuse_writes() {
    let scene = Scene::new();
    let shared = scene.lower().with_file_name("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("f"), "host").unwrap();
    let mount = |target: &str, read_only| ExtraMount {
        source: shared.clone(),
        target: target.into(),
        read_only,
    };
    let mut spec = scene.shell("cat /ro/f; echo x > /ro/g || echo refused; echo x > /rw/h");
    spec.mounts = vec![mount("/ro", true), mount("/rw", false)];
    assert_eq!(scene.run(spec).await.unwrap().out, "hostrefused\n");
    assert!(!shared.join("g").exists() && shared.join("h").exists());
    let mut bad = scene.spec(&["true"]);
    bad.mounts = vec![mount("/a/../..", false)];
    assert!(matches!(scene.run(bad).await, Err(LaunchError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel() {
    let scene = Scene::new();
    let spec = SandboxSpec {
        memory_bytes: Some(64 << 20),
        cpus: Some(0.5),
        ..scene.shell("sleep 1000")
    };
    let name = scene.launcher.start(spec).await.unwrap().name;
    let cgroup = scene.launcher.inspect(&name).unwrap().cgroup;
    let value = |v1: &str, v2: &str| {
        fs::read_to_string(format!("/sys/fs/cgroup/{v1}"))
            .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{v2}")))
            .unwrap()
    };
    let memory = value(
        &format!("memory{cgroup}/memory.limit_in_bytes"),
        &format!("{cgroup}/memory.max"),
    );
    assert_eq!(memory.trim(), (64 << 20).to_string());
    let cpu = value(
        &format!("cpu{cgroup}/cpu.cfs_quota_us"),
        &format!("{cgroup}/cpu.max"),
    );
    assert!(cpu.starts_with("50000"), "{cpu}");
    scene.launcher.remove(&name, true).await.unwrap();
    for hierarchy in ["", "memory", "cpu"] {
        let left = format!("/sys/fs/cgroup/{hierarchy}{cgroup}");
        assert!(!std::path::Path::new(&left).exists(), "{left} stays behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_beyond_its_memory_is_killed() {
    let scene = Scene::new();
    let spec = SandboxSpec {
        memory_bytes: Some(16 << 20),
        // A file in /dev/shm counts as memory.
        ..scene.shell("exec dd if=/dev/zero of=/dev/shm/f bs=1048576 count=60")
    };
    symlink("busybox", scene.lower().join("bin/dd")).unwrap();
    assert_eq!(scene.run(spec).await.unwrap().code, 137);
}
