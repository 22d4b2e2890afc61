//! Requests that wait for longer than they may.

use rustix::io::Errno;

use super::*;

/// Longer than any test waits.
const STUCK: Duration = Duration::from_secs(3600);
/// Long enough for what a request does itself, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(2);

fn is_eio<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> bool {
    let error = outcome.unwrap_err();
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[test]
fn what_does_not_come_in_time_is_an_error_and_the_rest_goes_on() {
    let mounted = Mounted::waiting(WAIT_MAX);
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    let large = pseudo_random(3_000_001, 1);
    model.insert("/large", ModelNode::file(0o644, large));
    for name in ["a", "b"] {
        model.insert(&format!("/{name}"), ModelNode::directory(0o755));
        model.insert(&format!("/{name}/small"), ModelNode::file(0o644, name));
    }
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    let content = model.content("/a/small").to_string();
    let gate = format!("content/{}/{}", &content[..2], &content[2..]);
    let root = mounted.path(format!("trees/{tree}"));
    let opened = ["large", "a/small"].map(|name| fs::File::open(root.join(name)).unwrap());
    let known = mounted.view.inodes_known();
    mounted.reader.delay(STUCK);
    // Whole pages ahead, a page, a tree that is needed for a name, and what overlayfs asks.
    for file in &opened {
        assert!(is_eio(file.read_at(&mut [0; 100_000], 0)));
    }
    assert!(is_eio(fs::metadata(root.join("b/small"))));
    assert!(is_eio(fs::metadata(mounted.path(gate))));
    assert!(
        mounted.view.inodes_known() <= known + 2,
        "counted for nobody"
    );
    mounted.reader.delay(Duration::ZERO);
    let other = model.content("/b/small").to_string();
    let other = mounted.path(format!("content/{}/{}", &other[..2], &other[2..]));
    // It is placed where overlayfs looks next.
    let absent = fs::metadata(other).unwrap_err();
    assert_eq!(absent.kind(), std::io::ErrorKind::NotFound);
}
