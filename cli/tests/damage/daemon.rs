//! Daemons that are killed and replaced under readers, none of which may notice more than a wait.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nacre_blobstore::{Clock, SystemClock};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use super::scene::{Files, Scene, noise, sleep};

/// Daemons that are replaced in a normal run, and in a long one (`NACRE_TEST_LONG=1`).
const ROUNDS: u32 = 10;
const ROUNDS_LONG: u32 = 100;
/// Between two of them; a keeper starts at most one a second for long.
const ROUND: Duration = Duration::from_millis(1100);
const POLL: Duration = Duration::from_millis(10);
const POLLS_MAX: u32 = 3000;
/// Programs of this machine that the image holds and that are run from there.
const PROGRAMS: [&str; 2] = ["/bin/true", "/usr/bin/sha256sum"];

fn files() -> Files {
    let mut files: Files = (0..1500)
        .map(|i| {
            (
                format!("small/{}/{i}", i % 40),
                noise(&i.to_string(), 500 + i * 7),
            )
        })
        .collect();
    for i in 0..4 {
        files.insert(format!("large/{i}"), noise(&format!("large {i}"), 6 << 20));
    }
    for program in PROGRAMS {
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        files.insert(format!("bin/{name}"), std::fs::read(program).unwrap());
    }
    files
}

/// The daemon's process, as soon as one answers.
fn daemon(scene: &Scene) -> Pid {
    let socket = scene.path("root").join("nacre.sock");
    for _ in 0..POLLS_MAX {
        if let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) {
            return socket_peercred(stream.as_fd()).unwrap().pid;
        }
        sleep(POLL);
    }
    panic!("no daemon comes");
}

/// Readers of a mounted image, each in a thread of its own.
struct Load<'a> {
    scene: &'a Scene,
    files: &'a Files,
    at: PathBuf,
    mode: String,
    is_over: AtomicBool,
    /// What went wrong.
    wrong: Mutex<Vec<String>>,
    operations: AtomicU64,
    longest_us: AtomicU64,
    clock: SystemClock,
}

impl Load<'_> {
    /// Runs one reader until the load is over or something is wrong.
    fn repeat(&self, mut operation: impl FnMut(usize) -> Result<(), String>) {
        for round in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let start = self.clock.elapsed();
            if let Err(wrong) = operation(round) {
                self.wrong.lock().unwrap().push(wrong);
                return;
            }
            let took = self.clock.elapsed() - start;
            let took = u64::try_from(took.as_micros()).unwrap();
            self.longest_us.fetch_max(took, Ordering::Relaxed);
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Some file of the image.
    fn choose(&self, round: usize, folder: &str) -> (&str, &[u8]) {
        let chosen: Vec<_> = self
            .files
            .iter()
            .filter(|f| f.0.starts_with(folder))
            .collect();
        let (path, bytes) = chosen[(round * 7919) % chosen.len()];
        (path, bytes)
    }

    /// Opens and reads a file, past the page cache of what was read before.
    fn read(&self, at: &Path, round: usize, folder: &str) -> Result<(), String> {
        let (path, bytes) = self.choose(round, folder);
        let fail = |error: &dyn std::fmt::Display| format!("{path}: {error}");
        let read = std::fs::read(at.join(path)).map_err(|error| fail(&error))?;
        if read != bytes {
            return Err(fail(&"wrong bytes"));
        }
        let file = File::open(at.join(path)).map_err(|error| fail(&error))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|error| fail(&error))
    }

    /// Runs a program of the image on a file of the image.
    fn execute(&self, round: usize) -> Result<(), String> {
        let (path, bytes) = self.choose(round, "small");
        let output = Command::new(self.at.join("bin/sha256sum"))
            .arg(self.at.join(path))
            .output()
            .map_err(|error| format!("exec: {error}"))?;
        let expected: String = <sha2::Sha256 as sha2::Digest>::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && text.starts_with(&expected) {
            Ok(())
        } else {
            Err(format!("exec: {}: {text}", output.status))
        }
    }

    /// Lists folders, whose inodes stay what they are.
    fn list(&self, round: usize, inodes: &[u64]) -> Result<(), String> {
        let folder = self.at.join(format!("small/{}", round % 40));
        let listed = std::fs::read_dir(&folder).and_then(|entries| {
            entries
                .map(|entry| entry?.metadata())
                .collect::<Result<Vec<_>, _>>()
        });
        let count = listed.map_err(|error| format!("list: {error}"))?.len();
        let inode = std::fs::metadata(&folder).map_err(|error| format!("stat: {error}"))?;
        if inode.ino() == inodes[round % 40] && count == 1500 / 40 + usize::from(round % 40 < 20) {
            Ok(())
        } else {
            Err(format!("list {folder:?}: {count} entries"))
        }
    }

    /// Mounts the image once more with the command line, reads it there, and unmounts it.
    fn mount(&self, round: usize) -> Result<(), String> {
        let at = self.scene.path("again");
        let at_text = at.to_str().unwrap();
        let run = |arguments: &[&str]| {
            let (output, _) = self.scene.output("root", arguments);
            let errors = String::from_utf8_lossy(&output.stderr);
            let text = format!("{arguments:?}: {errors}");
            output.status.success().then_some(()).ok_or(text)
        };
        run(&["mount", "a", at_text, "--mode", &self.mode])?;
        self.read(&at, round, "large")?;
        // A program that another thread starts has this one's open files until it is loaded.
        let mut unmounted = run(&["umount", at_text]);
        for _ in 0..POLLS_MAX {
            if !unmounted
                .as_ref()
                .is_err_and(|error| error.contains("in use"))
            {
                break;
            }
            sleep(POLL);
            unmounted = run(&["umount", at_text]);
        }
        unmounted
    }
}

/// Puts load on an image mounted in a mode while `replace` replaces daemons. The cache is smaller
/// than the image, so that much of it is fetched again and again.
fn under_load(scene: &Scene, mode: &str, replace: impl FnOnce(u32)) {
    let files = files();
    super::scene::write_layout(&scene.path("layout"), &files, &["small", "large", "bin"]);
    let layout = format!("oci:{}", scene.path("layout").display());
    scene.ok("root", &["image", "add", &layout, "--name", "a"]);
    let (at, again) = (scene.path("mounted"), scene.path("again"));
    for folder in [&at, &again] {
        std::fs::create_dir(folder).unwrap();
    }
    let target = at.to_str().unwrap();
    let cache = ["--cache-size", "8M"];
    scene.ok(
        "root",
        &[&["mount", "a", target, "--mode", mode], &cache[..]].concat(),
    );
    let cleanup = Cleanup { scene };
    let folder = |i| {
        std::fs::metadata(at.join(format!("small/{i}")))
            .unwrap()
            .ino()
    };
    let inodes: Vec<u64> = (0..40).map(folder).collect();
    let load = Load {
        scene,
        files: &files,
        at: at.clone(),
        mode: mode.to_owned(),
        is_over: AtomicBool::new(false),
        wrong: Mutex::default(),
        operations: AtomicU64::new(0),
        longest_us: AtomicU64::new(0),
        clock: SystemClock::new(),
    };
    let rounds = match std::env::var_os("NACRE_TEST_LONG") {
        Some(_) => ROUNDS_LONG,
        None => ROUNDS,
    };
    std::thread::scope(|scope| {
        for start in [0, 1000] {
            let load = &load;
            scope.spawn(move || load.repeat(|round| load.read(&load.at, start + round, "small")));
        }
        scope.spawn(|| load.repeat(|round| load.read(&load.at, round, "large")));
        scope.spawn(|| load.repeat(|round| load.execute(round)));
        scope.spawn(|| load.repeat(|round| load.list(round, &inodes)));
        scope.spawn(|| load.repeat(|round| load.mount(round)));
        let over = Over(&load.is_over);
        replace(rounds);
        // All that was waiting when the last one went.
        sleep(ROUND);
        drop(over);
    });
    assert_eq!(*load.wrong.lock().unwrap(), Vec::<String>::new());
    println!(
        "{rounds} daemons under {} operations, the longest of which took {} ms",
        load.operations.load(Ordering::Relaxed),
        load.longest_us.load(Ordering::Relaxed) / 1000,
    );
    scene.ok("root", &["umount", at.to_str().unwrap()]);
    stop(scene);
    drop(cleanup);
}

/// Ends the load, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends the daemon, after which nothing is left.
fn stop(scene: &Scene) {
    kill_process(daemon(scene), Signal::TERM).unwrap();
    let content = scene.path("root").join("content");
    let left = || {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut left: Vec<String> = mounts
            .lines()
            .filter(|mount| mount.contains(content.to_str().unwrap()))
            .map(str::to_owned)
            .collect();
        for socket in ["keeper.sock", "nacre.sock"] {
            if scene.path("root").join(socket).exists() {
                left.push(socket.to_owned());
            }
        }
        left
    };
    for _ in 0..POLLS_MAX {
        if left().is_empty() {
            return;
        }
        sleep(POLL);
    }
    panic!("the daemon leaves behind: {:?}", left());
}

/// Takes the mounts away, with which keeper and daemon end, when a test failed.
struct Cleanup<'a> {
    scene: &'a Scene,
}

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let points = ["mounted", "again", "root/content"].map(|name| self.scene.path(name));
        drop(Command::new("umount").arg("-lq").args(points).output());
    }
}

fn kill(mode: &str) {
    let scene = Scene::new();
    under_load(&scene, mode, |rounds| {
        for round in 0..rounds {
            let killed = daemon(&scene);
            kill_process(killed, Signal::KILL).unwrap();
            sleep(ROUND + Duration::from_millis(u64::from(round * 37 % 200)));
            assert_ne!(daemon(&scene), killed);
        }
    });
}

fn take_over(mode: &str) {
    let scene = Scene::new();
    under_load(&scene, mode, |rounds| {
        let mut before: Option<Child> = None;
        for _ in 0..rounds {
            let mut command = scene.command("root", &["daemon", "--takeover"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let next = command.spawn().unwrap();
            let next_pid = Pid::from_child(&next);
            for _ in 0..POLLS_MAX {
                if daemon(&scene) == next_pid {
                    break;
                }
                sleep(POLL);
            }
            assert_eq!(daemon(&scene), next_pid, "it does not take over");
            if let Some(mut before) = before.replace(next) {
                assert!(before.wait().unwrap().success(), "it leaves in good order");
            }
            sleep(ROUND / 4);
        }
    });
}

#[test]
fn readers_in_kernel_mode_do_not_notice_that_daemons_are_killed() {
    kill("kernel");
}

#[test]
fn readers_of_the_view_do_not_notice_that_daemons_are_killed() {
    kill("fuse");
}

#[test]
fn readers_in_kernel_mode_do_not_notice_that_daemons_take_over() {
    take_over("kernel");
}

#[test]
fn readers_of_the_view_do_not_notice_that_daemons_take_over() {
    take_over("fuse");
}

#[test]
fn a_daemon_that_is_stopped_leaves_what_is_in_use_to_the_next() {
    let scene = Scene::new();
    let files = Files::from([("bin/x".to_owned(), b"content".to_vec())]);
    super::scene::write_layout(&scene.path("layout"), &files, &["bin"]);
    let layout = format!("oci:{}", scene.path("layout").display());
    scene.ok("root", &["image", "add", &layout, "--name", "a"]);
    let at = scene.path("mounted");
    std::fs::create_dir(&at).unwrap();
    let cleanup = Cleanup { scene: &scene };
    scene.ok(
        "root",
        &["mount", "a", at.to_str().unwrap(), "--mode", "fuse"],
    );
    let socket = scene.path("root").join("keeper.sock");
    assert_eq!(
        socket.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let stopped = daemon(&scene);
    kill_process(stopped, Signal::TERM).unwrap();
    let gone = || !scene.path("root").join("nacre.sock").exists();
    assert!((0..POLLS_MAX).any(|_| {
        sleep(POLL);
        gone()
    }));
    sleep(ROUND);
    assert!(gone(), "nobody starts one before it is needed");
    // Not in a scope, which would wait for it for ever if there is no daemon.
    let file = at.join("bin/x");
    let reader = std::thread::spawn(|| std::fs::read(file));
    sleep(POLL * 20);
    assert!(!reader.is_finished());
    // Whatever needs a daemon.
    let again = scene.path("again");
    std::fs::create_dir(&again).unwrap();
    scene.ok(
        "root",
        &["mount", "a", again.to_str().unwrap(), "--mode", "fuse"],
    );
    assert_eq!(reader.join().unwrap().unwrap(), b"content");
    scene.ok("root", &["umount", again.to_str().unwrap()]);
    assert_ne!(daemon(&scene), stopped);
    scene.ok("root", &["umount", at.to_str().unwrap()]);
    stop(&scene);
    drop(cleanup);
}

/// The first process that a process starts.
fn first_child(of: &Child) -> Pid {
    let children = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", of.id())).unwrap();
        let lists = threads.map(|thread| thread.unwrap().path().join("children"));
        // A thread may be gone again.
        lists
            .filter_map(|list| std::fs::read_to_string(list).ok())
            .collect::<String>()
    };
    for _ in 0..POLLS_MAX {
        if let Some(child) = children().split_whitespace().next() {
            return Pid::from_raw(child.parse().unwrap()).unwrap();
        }
        sleep(Duration::from_millis(1));
    }
    panic!("it starts nothing");
}

#[test]
fn a_daemon_that_is_killed_before_it_answers_is_started_again() {
    let scene = Scene::new();
    let mut command = scene.command("root", &["cache", "prune", "--all"]);
    let mut command = command.stdout(Stdio::null()).spawn().unwrap();
    let killed = first_child(&command);
    kill_process(killed, Signal::KILL).unwrap();
    assert!(command.wait().unwrap().success());
    assert_ne!(daemon(&scene), killed);
    stop(&scene);
}
