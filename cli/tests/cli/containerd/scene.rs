//! A containerd of its own, a node that is its snapshotter, and a registry.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nacre_fs::mount::{Umount, mounts_below, umount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::cri::Cri;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::registry::Registry;
use crate::tar::{Entry, archive};

/// For what starts or ends.
const POLLS_MAX: u32 = 600;
/// Statically linked, so that it runs in an image that has nothing else.
const BUSYBOX: &str = "/bin/busybox";

/// A node, containerd and a registry, which end with the test.
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) registry: Registry,
    containerd: Option<Child>,
    daemons: Vec<Child>,
    policy: &'static str,
}

impl Scene {
    /// Starts all of it; `policy` is the daemon's `--lazy`.
    pub(super) fn new(policy: &'static str) -> Self {
        let node = Node::new();
        let registry = Registry::start(&node);
        let mut scene = Self {
            node,
            registry,
            containerd: None,
            daemons: Vec::new(),
            policy,
        };
        scene.start_daemon();
        scene.push("pause", &[&[Entry::directory("empty")]]);
        scene.write_config();
        scene.start_containerd();
        scene
    }

    fn write_config(&self) {
        fs::create_dir_all(self.path("")).unwrap();
        let path = |name: &str| self.path(name).display().to_string();
        let config = format!(
            r#"version = 2
root = "{}"
state = "{}"
[grpc]
address = "{}"
[plugins."io.containerd.internal.v1.opt"]
path = "{}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            path("root"),
            path("state"),
            path("c.sock"),
            path("opt"),
            self.image("pause"),
        );
        fs::write(self.path("config.toml"), config).unwrap();
        let file = path("config.toml");
        self.node.ok(&["containerd", "setup", "--write", &file]);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.node.path("containerd").join(name)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.node.path("root")
    }

    pub(super) fn start_containerd(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("-c").arg(self.path("config.toml"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let started = command.spawn().expect("containerd is installed");
        self.containerd = Some(started);
        let socket = self.path("c.sock");
        until("containerd answers", || {
            let version = Command::new("ctr")
                .arg("-a")
                .arg(&socket)
                .arg("version")
                .output();
            version.unwrap().status.success()
        });
    }

    pub(super) fn stop_containerd(&mut self) {
        if let Some(containerd) = self.containerd.take() {
            end(containerd);
        }
    }

    /// Starts a daemon, unless the keeper of the last one has.
    pub(super) fn start_daemon(&mut self) {
        let mut command = self.node.command(&["daemon", "--lazy", self.policy]);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.node.path("daemon.log"))
            .unwrap();
        command.stdout(Stdio::null()).stderr(log);
        self.daemons.push(command.spawn().unwrap());
        let socket = self.root().join("snapshotter.sock");
        until("the daemon answers", || {
            self.node.daemon().is_some() && UnixStream::connect(&socket).is_ok()
        });
    }

    /// Kills the daemon, as `kill -9` does, and waits until it is gone.
    pub(super) fn kill_daemon(&mut self) {
        let pid = self.node.daemon().unwrap();
        kill(pid);
        for daemon in &mut self.daemons {
            // Those that have ended.
            drop(daemon.try_wait());
        }
        until("the daemon is gone", || {
            for daemon in &mut self.daemons {
                drop(daemon.try_wait());
            }
            !has_program(pid)
        });
    }

    /// Kills the process that keeps the mounts, and would start another daemon.
    pub(super) fn kill_keeper(&self) {
        let root = self.root().display().to_string();
        for entry in fs::read_dir("/proc").unwrap() {
            let name = entry.unwrap().file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            if words.contains(&&b"keeper"[..]) && words.contains(&root.as_bytes()) {
                kill(pid);
                until("the keeper is gone", || !has_program(pid));
            }
        }
    }

    /// Pushes an image of these layers, with busybox in the first, to the registry.
    pub(super) fn push(&self, name: &str, layers: &[&[Entry]]) {
        let busybox = fs::read(BUSYBOX).expect("busybox-static is installed");
        let mut first = vec![
            Entry::directory("bin"),
            Entry::file("bin/sh", busybox).mode(0o755),
        ];
        let mut packed = Vec::new();
        for entries in layers {
            first.extend(entries.iter().cloned());
            packed.push(Layer::new(&archive(&first), Packing::Gzip));
            first.clear();
        }
        let folder = self.node.path(&format!("layout-{name}"));
        let command = json!({"Entrypoint": ["/bin/sh", "-c", "sleep 100000"]});
        layout::write(&folder, &packed, &command);
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:v1", folder.display()))
            .arg(format!("docker://{}", self.image(name)))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{output:?}");
    }

    /// Returns the reference of an image in the registry.
    pub(super) fn image(&self, name: &str) -> String {
        format!("{}/{name}:v1", self.registry.address)
    }

    /// Adds an image of the registry to the store.
    pub(super) fn add(&self, name: &str) {
        let source = format!("docker://{}", self.image(name));
        self.node.ok(&["image", "add", &source]);
    }

    /// Returns how many blobs that are layers of an image were asked of the registry so far.
    pub(super) fn layers_fetched(&self, name: &str) -> usize {
        let folder = self.node.path(&format!("layout-{name}"));
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let index = read(folder.join("index.json"));
        let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
        let manifest = read(layout::blob_path(&folder, &digest(&index["manifests"][0])));
        let log = self.registry.log();
        let asked = |layer| {
            let request = format!("GET /v2/{name}/blobs/{}", digest(layer));
            log.matches(&request).count()
        };
        manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(asked)
            .sum()
    }

    pub(super) fn ctr_output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.path("c.sock")).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `ctr`, which succeeds, and returns what it prints.
    pub(super) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.ctr_output(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn cri(&self) -> Cri {
        Cri::connect(&self.path("c.sock"))
    }

    /// Returns what a container of a pod has written so far.
    pub(super) fn output(&self, container: &str) -> String {
        let log = fs::read_to_string(self.logs().join(container)).unwrap_or_default();
        // Each line has a time, a stream and a tag before it.
        let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.node.path("logs")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for namespace in ["default", "k8s.io"] {
            let tasks = self.ctr_output(&["-n", namespace, "tasks", "ls", "-q"]);
            for task in String::from_utf8_lossy(&tasks.stdout).lines() {
                drop(self.ctr_output(&["-n", namespace, "tasks", "rm", "-f", task]));
            }
        }
        self.stop_containerd();
        for folder in [self.path(""), self.path("state")] {
            detach_all(&folder);
        }
        // The node ends its daemon itself.
    }
}

/// Takes away all mounts below a folder.
pub(super) fn detach_all(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else {
        return;
    };
    for point in mounts_below(&folder).unwrap() {
        umount(&point, Umount::Detach).unwrap();
    }
}

fn kill(pid: i32) {
    // An error says that it has ended already.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap_or(());
}

/// Tells whether a process runs; one that was not waited for does not.
fn has_program(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn end(mut process: Child) {
    // An error says that it has ended already.
    process.kill().unwrap_or(());
    process.wait().unwrap();
}

/// Waits until something is so.
pub(super) fn until(what: &str, is_so: impl FnMut() -> bool) {
    let mut is_so = is_so;
    let came = (0..POLLS_MAX).any(|_| {
        let so = is_so();
        if !so {
            pause();
        }
        so
    });
    assert!(came, "{what}");
}
