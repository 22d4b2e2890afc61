//! A root file system, a launcher over it, and streams that can be read.

use std::fs;
use std::io::{PipeReader, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nacre_blobstore::SystemClock;
use nacre_launcher::{
    ExecSpec, ImageDefaults, LaunchError, Launcher, Network, ProcessOverrides, RunOutcome,
    RuntimeKind, SandboxSpec, Streams,
};

/// Held for reading by tests whose processes die of a signal, for writing by tests that send
/// signals to the test process: those reach every sandbox in it.
pub(crate) static SIGNALS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

pub(crate) struct Scene {
    dir: tempfile::TempDir,
    pub(crate) launcher: Launcher,
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        for name in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
            fs::create_dir_all(lower.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", lower.join("bin/busybox"))
            .expect("these tests need /bin/busybox (Debian package busybox-static)");
        for name in [
            "sh", "cat", "echo", "id", "sleep", "true", "stty", "ls", "ip", "readlink",
        ] {
            symlink("busybox", lower.join("bin").join(name)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n";
        fs::write(lower.join("etc/passwd"), passwd).unwrap();
        fs::write(
            lower.join("etc/group"),
            "root:x:0:\nlogs:x:4:web\nweb:x:34:\n",
        )
        .unwrap();
        let launcher =
            Launcher::open(&dir.path().join("root"), Arc::new(SystemClock::new())).unwrap();
        Self { dir, launcher }
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.dir.path().join("root/sandboxes")
    }

    pub(crate) fn spec(&self, command: &[&str]) -> SandboxSpec {
        SandboxSpec {
            name: None,
            image: "test".to_owned(),
            started_from: String::new(),
            lower: nacre_fs::mount::Lower::directory(self.lower()),
            defaults: ImageDefaults::default(),
            overrides: ProcessOverrides {
                command: words(command),
                ..Default::default()
            },
            terminal: false,
            interactive: false,
            mounts: Vec::new(),
            trees: Vec::new(),
            network: Network::None,
            memory_bytes: None,
            cpus: None,
            hostname: None,
            runtime: RuntimeKind::Runc,
            remove_on_exit: true,
        }
    }

    pub(crate) fn shell(&self, script: &str) -> SandboxSpec {
        self.spec(&["sh", "-c", script])
    }

    pub(crate) async fn run(&self, spec: SandboxSpec) -> Result<Done, LaunchError> {
        self.run_with_stdin(spec, b"").await
    }

    pub(crate) async fn run_with_stdin(
        &self,
        spec: SandboxSpec,
        input: &[u8],
    ) -> Result<Done, LaunchError> {
        let (streams, ends) = Ends::new(input);
        let RunOutcome { exit_code, .. } = self.launcher.run(spec, streams).await?;
        Ok(ends.done(exit_code))
    }

    pub(crate) async fn exec(&self, name: &str, spec: &ExecSpec) -> Result<Done, LaunchError> {
        let (streams, ends) = Ends::new(b"typed");
        let code = self.launcher.exec(name, spec, streams).await?;
        Ok(ends.done(code))
    }

    /// Starts a sandbox that waits, and returns its name.
    pub(crate) async fn waiting(&self) -> String {
        self.launcher
            .start(self.shell("trap 'exit 9' TERM; while :; do sleep 0.05; done"))
            .await
            .unwrap()
            .name
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(self.sandboxes()).unwrap().next().is_none()
    }
}

impl Drop for Scene {
    /// Leaves neither processes nor mounts behind when a test fails.
    fn drop(&mut self) {
        let launcher = &self.launcher;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                for info in launcher.list().unwrap() {
                    runtime.block_on(launcher.remove(&info.name, true)).unwrap();
                }
            });
        });
    }
}

/// The test's ends of the pipes given as [`Streams`]; small texts only.
struct Ends {
    out: PipeReader,
    err: PipeReader,
}

impl Ends {
    fn new(input: &[u8]) -> (Streams, Self) {
        use std::io::Write as _;
        let (stdin, mut typed) = std::io::pipe().unwrap();
        let (out, stdout) = std::io::pipe().unwrap();
        let (err, stderr) = std::io::pipe().unwrap();
        typed.write_all(input).unwrap();
        drop(typed);
        let ends = Self { out, err };
        let streams = Streams {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        (streams, ends)
    }

    fn done(mut self, code: u8) -> Done {
        let mut done = Done {
            code,
            out: String::new(),
            err: String::new(),
        };
        self.out.read_to_string(&mut done.out).unwrap();
        self.err.read_to_string(&mut done.err).unwrap();
        done
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits until a file holds `text`.
pub(crate) async fn file_holds(path: &Path, text: &str) {
    for _ in 0..400 {
        if fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{path:?} never held {text:?}");
}
