//! Daemons that are killed and followed by others, as processes of their own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketType, bind, connect, listen, send, socket,
    sockopt,
};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::KeeperOptions;

/// Names the folder to whoever is to be a process of these tests.
const DAEMON: &str = "NACRE_TEST_DAEMON";
const DELAY_MS: &str = "NACRE_TEST_DELAY_MS";
const KEEPER: &str = "NACRE_TEST_KEEPER";
const POLL: Duration = Duration::from_millis(20);
const POLLS_MAX: u32 = 1000;

fn model() -> Model {
    let mut model = rich_model();
    for i in 0..50 {
        model.insert(&format!("/d{i}"), ModelNode::directory(0o755));
        let bytes = pseudo_random(40_000 + i, 100 + i as u64);
        model.insert(&format!("/d{i}/f"), ModelNode::file(0o644, bytes));
    }
    let shell = fs::read("/bin/true").unwrap();
    model.insert("/true", ModelNode::file(0o755, shell));
    model
}

/// The command line that runs one test of this file.
fn this(test: &str) -> Vec<OsString> {
    let name = format!("fuse::tests::takeover::{test}");
    let program = std::env::current_exe().unwrap();
    vec![
        program.into(),
        name.into(),
        "--exact".into(),
        "--nocapture".into(),
    ]
}

fn options(folder: &Path) -> KeeperOptions {
    let mut keeper: Vec<OsString> = vec!["/usr/bin/env".into()];
    let mut variable = OsString::from(format!("{KEEPER}="));
    variable.push(folder.join("keeper.sock"));
    keeper.push(variable);
    keeper.extend(this("runs_as_a_keeper"));
    KeeperOptions {
        socket: folder.join("keeper.sock"),
        inode_log: folder.join("inodes.log"),
        log: folder.join("log"),
        keeper,
        // The tests start daemons themselves.
        daemon: Vec::new(),
    }
}

/// A keeper's process, when it is started as one; else one that finds another in its place.
#[test]
fn runs_as_a_keeper() {
    let clock = SystemClock::new();
    if let Some(socket) = std::env::var_os(KEEPER) {
        crate::keep(Path::new(&socket), &clock).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let other = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&other, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&other, 1).unwrap();
    assert!(matches!(
        crate::keep(&path, &clock),
        Err(crate::KeeperError::Socket { .. })
    ));
    assert!(path.exists(), "it is the other's");
}

/// A daemon's process, when it is started as one.
#[test]
#[expect(clippy::exit, reason = "it is a process of its own")]
fn runs_as_a_daemon() {
    let Some(folder) = std::env::var_os(DAEMON) else {
        return;
    };
    let folder = Path::new(&folder);
    let reader = Arc::new(MemoryReader::default());
    model().store(&reader, CHUNK_BYTES);
    let delay = std::env::var_os(DELAY_MS).unwrap();
    reader.delay(Duration::from_millis(
        delay.to_str().unwrap().parse().unwrap(),
    ));
    let runtime = Runtime::new().unwrap();
    let clock = Arc::new(SystemClock::new());
    let cache = folder.join("cache");
    let contents = Arc::new(NodeCache::open(&cache, Arc::clone(&reader) as _, clock).unwrap());
    let view = Arc::new(View::new(contents));
    let (mount_point, handle) = (folder.join("mount"), runtime.handle().clone());
    let mut session =
        ContentMount::keep(&mount_point, view, handle, READ_WAIT_MAX, options(folder)).unwrap();
    println!("serving");
    let mut word = String::new();
    std::io::stdin().read_line(&mut word).unwrap();
    if word == "leave\n" {
        runtime.block_on(session.leave());
    } else {
        assert!(!session.is_in_use());
        session.unmount().unwrap();
        session.wait().unwrap();
    }
    // Threads that read requests are left as they are.
    std::process::exit(0);
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..POLLS_MAX {
        if let Some(found) = look() {
            return found;
        }
        std::thread::park_timeout(POLL);
    }
    panic!("it does not happen");
}

/// Sends a packet to whoever listens at `path`.
fn ask(path: &Path, message: &[u8]) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    send(&socket, message, SendFlags::NOSIGNAL)?;
    Ok(socket)
}

struct Scene {
    folder: TempDir,
    root: PathBuf,
    model: Model,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mount")).unwrap();
        let model = model();
        let tree = model.store(&MemoryReader::default(), CHUNK_BYTES);
        let root = folder.path().join(format!("mount/trees/{tree}"));
        Self {
            folder,
            root,
            model,
        }
    }

    /// Starts a daemon whose reads take `delay`, and waits until it serves.
    fn daemon(&self, delay: Duration) -> Child {
        let line = this("runs_as_a_daemon");
        let mut daemon = Command::new(&line[0])
            .args(&line[1..])
            .env(DAEMON, self.folder.path())
            .env(DELAY_MS, delay.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(daemon.stdout.take().unwrap());
        let serves = output
            .lines()
            .any(|line| line.unwrap().ends_with("serving"));
        assert!(serves, "{}", self.log());
        // The kernel learns that closing a file needs no message; a process that is started while
        // nobody serves would else wait for that.
        if delay.is_zero() {
            drop(fs::File::open(self.root.join("dir/empty")).unwrap());
        }
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn keeper(&self) -> Option<Pid> {
        let socket = ask(&self.folder.path().join("keeper.sock"), b"?").ok()?;
        Some(sockopt::socket_peercred(socket.as_fd()).unwrap().pid)
    }

    fn check(&self, path: &str) {
        let node = &self.model.0[&Model::path(path)];
        assert!(
            fs::read(self.root.join(&path[1..])).unwrap() == node.bytes,
            "{path}"
        );
    }

    fn inode(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.root.join(path)).unwrap().ino()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let mount_point = self.folder.path().join("mount");
        // Nothing is mounted there after a test that succeeded.
        unmount(mount_point, UnmountFlags::DETACH).unwrap_or_default();
    }
}

fn kill(mut daemon: Child) {
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Tells a daemon to unmount, or to leave, and waits until it is gone.
fn stop(mut daemon: Child, word: &str) {
    use std::io::Write;
    let mut input = daemon.stdin.take().unwrap();
    input.write_all(word.as_bytes()).unwrap();
    drop(input);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn mounts_outlive_daemons_that_are_killed_or_leave() {
    let scene = Scene::new();
    let mut daemon = Some(scene.daemon(Duration::ZERO));
    let keeper = scene.keeper().unwrap();
    let mut opened = fs::File::open(scene.root.join("big")).unwrap();
    let mut start = vec![0; 1_000_000];
    opened.read_exact(&mut start).unwrap();
    let paths = [
        "big",
        "dir/big-too",
        "dir/sub/deep",
        "link",
        "null",
        "d7/f",
        "",
    ];
    let inodes = paths.map(|path| scene.inode(path));
    for generation in 0..4 {
        if generation % 2 == 0 {
            kill(daemon.take().unwrap());
        } else {
            stop(daemon.take().unwrap(), "leave\n");
        }
        let file = format!("/d{generation}/f");
        let (asked, answered) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            // It waits while there is no daemon.
            scope.spawn(|| {
                scene.check(&file);
                asked.send(()).unwrap();
            });
            std::thread::park_timeout(POLL * 5);
            assert!(answered.try_recv().is_err(), "nobody can have answered");
            daemon = Some(scene.daemon(Duration::ZERO));
        });
        assert_eq!(paths.map(|path| scene.inode(path)), inodes);
        scene.check("/dir/sub/deep");
        assert!(
            Command::new(scene.root.join("true"))
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(xattrs(&scene.root.join("dir/sub/deep")).len(), 2);
        let many = fs::read_dir(scene.root.join("dir")).unwrap();
        assert!(many.count() > 500);
    }
    let mut rest = Vec::new();
    opened.read_to_end(&mut rest).unwrap();
    start.extend(rest);
    assert!(start == scene.model.0[&Model::path("/big")].bytes);
    assert_eq!(scene.keeper(), Some(keeper), "one keeper for all");
    drop(opened);
    stop(daemon.unwrap(), "\n");
    until(|| scene.keeper().is_none().then_some(()));
    assert!(!crate::mount::is_mount_point(&scene.folder.path().join("mount")).unwrap());
}

#[test]
fn what_a_killed_daemon_was_answering_is_answered_by_the_next() {
    let scene = Scene::new();
    let quick = scene.daemon(Duration::ZERO);
    let names = fs::read_dir(&scene.root).unwrap().count();
    assert!(names > 50);
    let opened = fs::File::open(scene.root.join("big")).unwrap();
    kill(quick);
    // This one answers nothing that it must fetch.
    let stuck = scene.daemon(Duration::from_secs(600));
    let next = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..40)
            .map(|i| {
                let scene = &scene;
                scope.spawn(move || scene.check(&format!("/d{i}/f")))
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut bytes = vec![0; 500_000];
            opened.read_exact_at(&mut bytes, 1_000_000).unwrap();
            bytes
        });
        std::thread::park_timeout(Duration::from_millis(500));
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        kill(stuck);
        let next = scene.daemon(Duration::from_millis(5));
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        let big = &scene.model.0[&Model::path("/big")].bytes;
        assert!(reader.join().unwrap() == big[1_000_000..1_500_000]);
        next
    });
    drop(opened);
    stop(next, "\n");
}

#[test]
fn a_keeper_that_dies_is_replaced() {
    let scene = Scene::new();
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    for _ in 0..2 {
        let keeper = scene.keeper().unwrap();
        kill_process(keeper, Signal::KILL).unwrap();
        until(|| scene.keeper().filter(|next| *next != keeper));
        // It has the session only once the daemon handed it over.
        until(|| scene.log().contains("test").then_some(()));
    }
    std::thread::park_timeout(POLL * 10);
    kill(daemon);
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    scene.check("/d2/f");
    stop(daemon, "\n");
}

#[test]
fn when_both_are_gone_the_next_daemon_mounts_anew() {
    let scene = Scene::new();
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    let keeper = scene.keeper().unwrap();
    let mut daemon = daemon;
    kill_process(keeper, Signal::KILL).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // One that asks while the connection ends is told that it was aborted.
    until(|| {
        let code = fs::read(scene.root.join("d3/f")).err()?.raw_os_error();
        let is_gone = code == Some(libc::ENOTCONN);
        assert!(is_gone || code == Some(libc::ECONNABORTED), "{code:?}");
        is_gone.then_some(())
    });
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d3/f");
    assert_ne!(scene.keeper(), Some(keeper));
    stop(daemon, "\n");
}

#[test]
fn nonsense_does_not_bother_the_keeper() {
    let scene = Scene::new();
    let daemon = scene.daemon(Duration::ZERO);
    let socket = scene.folder.path().join("keeper.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let keeper = scene.keeper().unwrap();
    // A session without a descriptor among others.
    let mut put = vec![1, 1];
    put.extend([0; 38]);
    for message in [
        &b"x"[..],
        &put,
        &[1, 3],
        &[1, 4],
        &[1, 99],
        &[0; 70_000],
        &[1, 2, 255, 255],
    ] {
        for _ in 0..20 {
            // It may have hung up by then.
            drop(ask(&socket, message));
        }
    }
    let silent: Vec<_> = (0..30).filter_map(|_| ask(&socket, b"").ok()).collect();
    assert_eq!(scene.keeper(), Some(keeper));
    kill(daemon);
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    drop(silent);
    assert_eq!(scene.keeper(), Some(keeper));
    stop(daemon, "\n");
}

#[test]
fn a_log_that_is_lost_costs_the_mounts_and_no_more() {
    let scene = Scene::new();
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    let opened = fs::File::open(scene.root.join("d2/f")).unwrap();
    kill(daemon);
    fs::write(scene.folder.path().join("inodes.log"), b"garbage").unwrap();
    let daemon = scene.daemon(Duration::ZERO);
    scene.check("/d1/f");
    let mut byte = [0];
    let error = opened.read_exact_at(&mut byte, 0).unwrap_err();
    assert!(
        matches!(
            error.raw_os_error(),
            Some(libc::ENOTCONN | libc::ECONNABORTED)
        ),
        "{error}"
    );
    stop(daemon, "\n");
}
