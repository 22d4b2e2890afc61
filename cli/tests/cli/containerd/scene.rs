//! A containerd of its own, a node that is its snapshotter, and a registry.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use nacre_fs::mount::{Umount, mounts_below, umount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::cri::{Cri, snapshot_names};
use super::release::Release;
use crate::files::busybox;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::proxy::Proxy;
use crate::registry::Registry;
use crate::tar::{Entry, archive};

/// For what starts or ends.
const POLLS_MAX: u32 = 600;

/// A node, containerd and a registry, which end with the test.
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) registry: Registry,
    release: Release,
    containerd: Option<Child>,
    daemons: Mutex<Vec<Child>>,
    policy: &'static str,
    environment: Environment,
}

/// Variables for all commands of a node.
pub(super) type Environment = Vec<(&'static str, String)>;

impl Scene {
    /// Starts all of it, with Debian's containerd; `policy` is the daemon's `--lazy`.
    pub(super) fn new(policy: &'static str) -> Self {
        Self::with(Release::Debian, policy)
    }

    pub(super) fn with(release: Release, policy: &'static str) -> Self {
        Self::on(Node::new(), release, policy, Vec::new())
    }

    pub(super) fn on(
        node: Node,
        release: Release,
        policy: &'static str,
        environment: Environment,
    ) -> Self {
        let registry = Registry::start(&node);
        let mut scene = Self {
            node,
            registry,
            release,
            containerd: None,
            daemons: Mutex::default(),
            policy,
            environment,
        };
        scene.start_daemon();
        scene.push("pause", &[&[Entry::directory("empty")]]);
        scene.write_config();
        scene.start_containerd();
        scene
    }

    fn write_config(&self) {
        fs::create_dir_all(self.path("")).unwrap();
        let file = self.path("config.toml");
        let config = self.release.config(&self.path(""), &self.image("pause"));
        fs::write(&file, config).unwrap();
        let file = file.display().to_string();
        let mut setup = self.nacre(&["containerd", "setup", "--write", &file]);
        let output = setup.env("PATH", self.release.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.node.path("containerd").join(name)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.node.path("root")
    }

    pub(super) fn start_containerd(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = self.release.command("containerd");
        command.arg("-c").arg(self.path("config.toml"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let started = command.spawn().expect("containerd is installed");
        self.containerd = Some(started);
        let socket = self.path("c.sock");
        until("containerd answers", || {
            let mut version = self.release.command("ctr");
            version.arg("-a").arg(&socket).arg("version");
            version.output().unwrap().status.success()
        });
    }

    pub(super) fn stop_containerd(&mut self) {
        if let Some(containerd) = self.containerd.take() {
            end(containerd);
        }
    }

    /// Starts a daemon, unless the keeper of the last one has.
    pub(super) fn start_daemon(&self) {
        let containerd = self.path("c.sock").display().to_string();
        let address = ["--containerd-address", &containerd];
        let daemon = [&["daemon", "--lazy", self.policy][..], &address].concat();
        let mut command = self.nacre(&daemon);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.node.path("daemon.log"))
            .unwrap();
        command.stdout(Stdio::null()).stderr(log);
        let started = command.spawn().unwrap();
        self.daemons.lock().unwrap().push(started);
        let socket = self.root().join("snapshotter.sock");
        until("the daemon answers", || {
            self.node.daemon().is_some() && UnixStream::connect(&socket).is_ok()
        });
    }

    /// Kills the daemon, as `kill -9` does, and waits until it is gone.
    pub(super) fn kill_daemon(&self) {
        let pid = self.node.daemon().unwrap();
        kill(pid);
        until("the daemon is gone", || {
            // Those that have ended are waited for.
            let is_running = |daemon: &mut Child| matches!(daemon.try_wait(), Ok(None));
            self.daemons.lock().unwrap().retain_mut(is_running);
            !has_program(pid)
        });
    }

    /// Returns the processes that keep the mounts, and would start another daemon.
    pub(super) fn keepers(&self) -> Vec<i32> {
        let root = self.root().display().to_string();
        let is_keeper = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"keeper"[..]) && words.contains(&root.as_bytes())
        };
        let names = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok());
        pids.filter(is_keeper).collect()
    }

    pub(super) fn kill_keeper(&self) {
        for pid in self.keepers() {
            kill(pid);
            until("the keeper is gone", || !has_program(pid));
        }
    }

    /// Writes an image of these layers, with busybox in the first, as a layout.
    pub(super) fn write_layout(&self, name: &str, layers: &[&[Entry]]) {
        let mut first = vec![
            Entry::directory("bin"),
            Entry::file("bin/sh", busybox()).mode(0o755),
        ];
        let mut packed = Vec::new();
        for entries in layers {
            first.extend(entries.iter().cloned());
            packed.push(Layer::new(&archive(&first), Packing::Gzip));
            first.clear();
        }
        let command = json!({"Entrypoint": ["/bin/sh", "-c", "sleep 100000"]});
        layout::write(&self.layout(name), &packed, &command);
    }

    /// Returns where the layout of an image is.
    fn layout(&self, name: &str) -> PathBuf {
        self.node.path(&format!("layout-{name}"))
    }

    /// Pushes an image of these layers, with busybox in the first, to the registry.
    pub(super) fn push(&self, name: &str, layers: &[&[Entry]]) {
        self.write_layout(name, layers);
        let layout = format!("oci:{}:v1", self.layout(name).display());
        self.copy(&layout, &format!("docker://{}", self.image(name)));
    }

    /// Pushes an image of a layout, by the name `name`.
    pub(super) fn push_from(&self, layout: &str, name: &str) {
        let own = format!("oci:{}:v1", self.layout(name).display());
        self.copy(layout, &own);
        self.copy(&own, &format!("docker://{}", self.image(name)));
    }

    fn copy(&self, from: &str, to: &str) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        let output = skopeo.args([from, to]).output();
        let output = output.expect("skopeo is installed");
        assert!(output.status.success(), "{output:?}");
    }

    /// Returns the reference of an image in the registry.
    pub(super) fn image(&self, name: &str) -> String {
        format!("{}/{name}:v1", self.registry.address)
    }

    /// Adds an image of the registry to the store.
    pub(super) fn add(&self, name: &str) {
        let source = format!("docker://{}", self.image(name));
        self.nacre_ok(&["image", "add", &source]);
    }

    /// Adds an image to the store and has containerd pull it with `ctr`.
    pub(super) fn pull_stored(&self, name: &str, layers: &[&[Entry]]) -> String {
        self.push(name, layers);
        self.add(name);
        let image = self.image(name);
        let pull = ["image", "pull", "--plain-http", "--snapshotter", "nacre"];
        self.ctr(&[&pull[..], &[&image]].concat());
        image
    }

    pub(super) fn nacre(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.command(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command of the node, which succeeds, and returns what it prints.
    pub(super) fn nacre_ok(&self, arguments: &[&str]) -> String {
        let output = self.nacre(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns what the node counts of containerd's layers.
    pub(super) fn stats(&self) -> Value {
        serde_json::from_str(&self.nacre_ok(&["--json", "containerd", "stats"])).unwrap()
    }

    /// Returns how many blobs that are layers of an image were asked of the registry so far.
    pub(super) fn layers_fetched(&self, name: &str) -> usize {
        let folder = self.layout(name);
        let read =
            |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let index = read(folder.join("index.json"));
        let digest = |value: &Value| value["digest"].as_str().unwrap().to_owned();
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

    pub(super) fn ctr_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.release.command("ctr");
        command.arg("-a").arg(self.path("c.sock")).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn ctr_output(&self, arguments: &[&str]) -> Output {
        self.ctr_command(arguments).output().unwrap()
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

    /// Has containerd collect garbage now.
    pub(super) fn collect(&self) {
        self.ctr(&["leases", "create", "--id", "now"]);
        self.ctr(&["leases", "rm", "--sync", "now"]);
    }

    /// Returns what is left of snapshots: their names, as the node itself has them, their
    /// directories, and what is mounted for them.
    pub(super) fn left(&self) -> Vec<String> {
        let mut left = snapshot_names(&self.root().join("snapshotter.sock"));
        let text = |path: PathBuf| path.display().to_string();
        let directories = fs::read_dir(self.root().join("sn"));
        let directories = directories.into_iter().flatten();
        left.extend(directories.map(|entry| text(entry.unwrap().path())));
        for folder in [self.root(), self.path("")] {
            let mounted = mounts_below(&folder.canonicalize().unwrap()).unwrap();
            let is_of_snapshot = |point: &PathBuf| {
                // What the root may be, and what the daemon always has.
                *point != folder.canonicalize().unwrap() && !point.ends_with("content")
            };
            left.extend(mounted.into_iter().filter(is_of_snapshot).map(text));
        }
        left
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
        // Before the node unmounts what its root may be.
        for pid in self.keepers().into_iter().chain(self.node.daemon()) {
            kill(pid);
        }
    }
}

/// Has a node keep its store on the S3 server of the tests, over a connection that can be cut. `None`
/// where there is no such server.
pub(super) fn behind_a_proxy(node: &Node) -> Option<(Proxy, Environment)> {
    let Some(endpoint) = std::env::var_os("NACRE_TEST_S3_ENDPOINT") else {
        println!("SKIPPED: NACRE_TEST_S3_ENDPOINT is not set");
        return None;
    };
    let bucket = std::env::var_os("NACRE_TEST_S3_BUCKET").unwrap_or_else(|| "nacre".into());
    let endpoint = endpoint.to_str().unwrap();
    let proxy = Proxy::to(endpoint.strip_prefix("http://").unwrap());
    let unique = node.path("").file_name().unwrap().to_owned();
    let store = format!("s3://{}/{}", bucket.display(), unique.display());
    let environment = vec![
        ("NACRE_STORE", store),
        ("AWS_ENDPOINT_URL", format!("http://{}", proxy.address)),
        ("NACRE_STORE_TIMEOUT", "2".to_owned()),
    ];
    Some((proxy, environment))
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
