//! Processes that are killed while they wait.

use super::*;

/// Longer than any test waits.
const STUCK: Duration = Duration::from_secs(300);
/// How long a killed process may take to go, on a machine that is busy.
const GONE: Duration = Duration::from_secs(20);

#[test]
fn a_process_that_is_killed_while_it_waits_goes_at_once() {
    let mounted = Mounted::new();
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    for name in ["a", "b", "c"] {
        model.insert(&format!("/{name}"), ModelNode::directory(0o755));
        model.insert(&format!("/{name}/deep"), ModelNode::directory(0o755));
        model.insert(&format!("/{name}/deep/file"), ModelNode::file(0o644, name));
    }
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    let root = mounted.path(format!("trees/{tree}"));
    let known = fs::read_dir(&root).unwrap().count();
    assert_eq!(known, 3);
    let opened = fs::File::open(root.join("a/deep/file")).unwrap();
    let inodes = mounted.view.inodes_known();
    mounted.reader.delay(STUCK);
    // A lookup, a directory, a read, and a file that is mapped.
    let waiting = [
        ["stat", "b/deep/file"],
        ["ls", "c/deep"],
        ["cat", "a/deep/file"],
        ["sh", "a/deep/file"],
    ];
    let mut waiting = waiting.map(|[program, path]| {
        let mut command = Command::new(program);
        command.arg(root.join(path)).stdout(Stdio::null());
        command.spawn().unwrap()
    });
    let clock = SystemClock::new();
    std::thread::park_timeout(Duration::from_millis(500));
    for child in &mut waiting {
        assert!(child.try_wait().unwrap().is_none(), "it does not wait");
        child.kill().unwrap();
    }
    for child in &mut waiting {
        let killed = child.wait().unwrap();
        assert!(!killed.success());
    }
    assert!(clock.elapsed() < GONE, "{:?}", clock.elapsed());
    drop(opened);
    assert!(
        mounted.view.inodes_known() <= inodes + 2,
        "counted for nobody"
    );
}

#[test]
fn a_process_that_is_not_killed_goes_on_waiting() {
    let mounted = Mounted::new();
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/a", ModelNode::directory(0o755));
    model.insert("/a/file", ModelNode::file(0o644, "late"));
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    mounted.reader.delay(Duration::from_millis(400));
    let file = mounted.path(format!("trees/{tree}/a/file"));
    // A signal that is not meant to end it, and one look at its status.
    let cat = Command::new("sh")
        .args(["-c", "trap : TERM; cat \"$1\"", "sh"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::park_timeout(Duration::from_millis(200));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&cat),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"late");
}
