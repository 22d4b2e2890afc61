//! A root directory with a store, the binary, and an image to add.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The regular files of an image, by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

const POLL: Duration = Duration::from_millis(20);
const POLLS_MAX: u32 = 500;

#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process"
)]
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Incompressible bytes that depend on `seed` alone.
pub(crate) fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn tar(files: &Files, prefix: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files.iter().filter(|file| file.0.starts_with(prefix)) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        let is_program = path.starts_with("bin/");
        header.set_mode(if is_program { 0o755 } else { 0o644 });
        builder.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Writes an OCI layout with an image of `files`, one layer for each of `prefixes`.
pub(crate) fn write_layout(directory: &Path, files: &Files, prefixes: &[&str]) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let of = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let layers: Vec<Value> = prefixes
        .iter()
        .map(|prefix| blob(&of("layer.v1.tar"), &tar(files, prefix)))
        .collect();
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": of("manifest.v1+json"),
        "config": blob(&of("config.v1+json"), config.to_string().as_bytes()), "layers": layers,
    });
    let manifest = blob(&of("manifest.v1+json"), manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
}

/// A store, and nodes that use it.
pub(crate) struct Scene {
    directory: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("nacre-damage-")
                .tempdir()
                .unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Builds a command for the node whose root is called `root`.
    pub(crate) fn command(&self, root: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        for name in [
            "NACRE_REGION_CACHE",
            "NACRE_CONFIG",
            "NACRE_CRASH_AT",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        let store = format!("file://{}", self.path("store").display());
        command.args(["--json", "--progress", "none", "--store", &store, "--root"]);
        command
            .arg(self.path(root))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, root: &str, arguments: &[&str]) -> (Output, Value) {
        let output = self.command(root, arguments).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output, value)
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, root: &str, arguments: &[&str]) -> Value {
        let (output, value) = self.output(root, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {errors}",
            output.status
        );
        value
    }

    /// Checks the store, which must be consistent.
    pub(crate) fn fsck(&self, root: &str) -> Value {
        let report = self.ok(root, &["store", "fsck", "--read-data"]);
        assert_eq!(report["problems"], json!([]));
        assert_eq!(report["corrupt"], json!([]));
        report
    }

    /// Lists the objects in a folder of the store.
    pub(crate) fn objects(&self, folder: &str) -> Vec<String> {
        let listed = std::fs::read_dir(self.path("store").join(folder));
        let names = listed
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name().into_string());
        let mut names: Vec<_> = names
            .map(Result::unwrap)
            .filter(|n| !n.starts_with('#'))
            .collect();
        names.sort();
        names
    }

    /// Mounts an image from a node that has nothing yet; `None` when that is refused.
    pub(crate) fn mount(&self, root: &str, mode: &str, name: &str) -> Option<Mounted> {
        let mut daemon = self
            .command(root, &["daemon"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = self.path(root).join("nacre.sock");
        for _ in 0..POLLS_MAX {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
            sleep(POLL);
        }
        let at = self.path(&format!("{root}-mount"));
        std::fs::create_dir(&at).unwrap();
        let root_path = self.path(root);
        let mounted = Mounted {
            at,
            root: root_path,
            daemon,
        };
        let (output, _) = self.output(
            root,
            &["mount", "--mode", mode, name, mounted.at.to_str().unwrap()],
        );
        output.status.success().then_some(mounted)
    }
}

/// A mounted image; unmounted, and its daemon ended, when dropped.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    root: PathBuf,
    daemon: Child,
}

impl Mounted {
    /// Takes away what a daemon that was killed left mounted.
    fn detach_all(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(&self.root)) {
            drop(Command::new("umount").args(["-lq", point]).output());
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-lq").arg(&self.at).output());
        let pid = Pid::from_child(&self.daemon);
        for signal in [Signal::TERM, Signal::KILL] {
            // An error says that it is gone already.
            kill_process(pid, signal).unwrap_or(());
            for _ in 0..POLLS_MAX / 5 {
                if matches!(self.daemon.try_wait(), Ok(Some(_))) {
                    return self.detach_all();
                }
                sleep(POLL);
            }
        }
    }
}
