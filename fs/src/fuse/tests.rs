//! Tests with a real mount. They need root and `/dev/fuse`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{Clock, Device, Digest, READ_WAIT_MAX, SystemClock, Timestamp, Xattr};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{ContentMount, ContentSession, SessionError};
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode, pseudo_random};
use crate::{Kind, NodeCache, View};

mod killed;
mod late;
mod takeover;

const CHUNK_BYTES: usize = 256 << 10;

/// A mounted view of a reader in memory.
struct Mounted {
    reader: Arc<MemoryReader>,
    session: ContentSession,
    view: Arc<View>,
    folder: TempDir,
    runtime: Runtime,
}

impl Mounted {
    fn new() -> Self {
        Self::waiting(READ_WAIT_MAX)
    }

    /// Mounts so that a request waits for so long.
    fn waiting(wait_max: Duration) -> Self {
        let reader = Arc::new(MemoryReader::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new());
        let cache = folder.path().join("cache");
        let contents = Arc::new(NodeCache::open(&cache, Arc::clone(&reader) as _, clock).unwrap());
        let view = Arc::new(View::new(contents));
        let mount_point = folder.path().join("mount");
        fs::create_dir(&mount_point).unwrap();
        let handle = runtime.handle().clone();
        let session =
            ContentMount::mount(&mount_point, Arc::clone(&view), handle, wait_max).unwrap();
        Self {
            reader,
            session,
            view,
            folder,
            runtime,
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.session.mount_point().join(path)
    }
}

#[test]
fn a_small_tree_is_listed_and_read() {
    let mut mounted = Mounted::new();
    let mut model = Model::default();
    let big = pseudo_random(3_000_001, 1);
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/dir", ModelNode::directory(0o750));
    model.insert("/dir/small", ModelNode::file(0o644, "hello"));
    model.insert("/dir/empty", ModelNode::file(0o644, ""));
    model.insert("/big", ModelNode::file(0o644, big.clone()));
    model.insert("/link", ModelNode::new(Kind::Symlink, 0o777, "dir/small"));
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    let content = model.content("/big").to_string();
    let gate = fs::File::open(mounted.path(format!("content/{}/{}", &content[..2], &content[2..])));
    let mut middle = [0; 1000];
    gate.unwrap().read_exact_at(&mut middle, 1_000_000).unwrap();
    assert_eq!(middle, big[1_000_000..1_001_000]);
    let root = mounted.path(format!("trees/{tree}"));
    assert_eq!(fs::read(root.join("link")).unwrap(), b"hello");
    assert_eq!(fs::read(root.join("dir/empty")).unwrap(), b"");
    assert_eq!(fs::read(root.join("big")).unwrap(), big);
    assert_eq!(fs::metadata(&root).unwrap().nlink(), 3);
    let names = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["big", "dir", "link"]);
    mounted.session.unmount().unwrap();
    assert_eq!(
        fs::read_dir(mounted.session.mount_point()).unwrap().count(),
        0
    );
}

fn xattrs(path: &Path) -> Vec<Xattr> {
    let (mut names, mut value) = (vec![0; 65_536], vec![0; 65_536]);
    let len = llistxattr(path, &mut names).unwrap();
    let read = |name: &[u8]| {
        let len = lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        Xattr {
            name: name.into(),
            value: value[..len].into(),
        }
    };
    names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(read)
        .collect()
}

/// A model with every kind of inode and every attribute that is easily lost.
fn rich_model() -> Model {
    let mut model = Model::default();
    let xattr = |name: &str, value: &[u8]| Xattr {
        name: name.as_bytes().into(),
        value: value.into(),
    };
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/dir", ModelNode::directory(0o1777));
    model.insert("/dir/sub", ModelNode::directory(0o700));
    model.insert(
        "/dir/sub/deep",
        ModelNode::file(0o4755, pseudo_random(70_000, 2)),
    );
    model.insert("/dir/empty", ModelNode::file(0o600, ""));
    model.insert("/big", ModelNode::file(0o644, pseudo_random(3_000_001, 1)));
    model.insert(
        "/link",
        ModelNode::new(Kind::Symlink, 0o777, "dir/sub/deep"),
    );
    model.insert("/null", ModelNode::new(Kind::CharDevice, 0o666, ""));
    model.insert("/disk", ModelNode::new(Kind::BlockDevice, 0o660, ""));
    model.insert("/pipe", ModelNode::new(Kind::Fifo, 0o644, ""));
    model.insert("/socket", ModelNode::new(Kind::Socket, 0o755, ""));
    for i in 0..500 {
        model.insert(
            &format!("/dir/many-{i:03}"),
            ModelNode::file(0o644, format!("{i}")),
        );
    }
    for node in model.0.values_mut() {
        node.attributes.mtime = Timestamp {
            seconds: -86_400,
            nanoseconds: 999_999_999,
        };
        (node.attributes.uid, node.attributes.gid) = (1234, 567_890);
    }
    let mut set = |path: &str, xattrs: Vec<Xattr>| {
        model
            .0
            .get_mut(&Model::path(path))
            .unwrap()
            .attributes
            .xattrs = xattrs;
    };
    set(
        "/dir/sub/deep",
        vec![
            xattr("security.capability", capability),
            xattr("user.u", b""),
        ],
    );
    set(
        "/dir/sub",
        vec![
            xattr("trusted.overlay.opaque", b"y"),
            xattr("trusted.t", b"t"),
        ],
    );
    let device = |path: &str, major, minor, model: &mut Model| {
        model.0.get_mut(&Model::path(path)).unwrap().device = Device { major, minor };
    };
    device("/null", 1, 3, &mut model);
    device("/disk", 259, 70_000, &mut model);
    let big = model.0.get_mut(&Model::path("/big")).unwrap();
    big.group = Some(1);
    let linked = big.clone();
    model.insert("/dir/big-too", linked);
    model
}

#[test]
fn a_walk_of_the_mount_equals_the_model() {
    let mut mounted = Mounted::new();
    let model = rich_model();
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    for folder in ["trees", "lower"] {
        let root = mounted.path(format!("{folder}/{tree}"));
        for (path, node) in &model.0 {
            let mut file = root.clone();
            file.extend(path.iter().map(|name| OsStr::from_bytes(name)));
            compare(&file, node, model.nlink(path), folder == "lower");
            if node.kind == Kind::Directory {
                let names = fs::read_dir(&file).unwrap().map(|e| e.unwrap().file_name());
                let mut names: Vec<_> = names.map(|name| name.as_bytes().to_vec()).collect();
                names.sort_unstable();
                let expected = model.children(path).map(|(name, _)| name.to_vec());
                assert_eq!(names, expected.collect::<Vec<_>>(), "{file:?}");
            }
            if node.kind == Kind::File {
                assert_eq!(fs::read(&file).unwrap(), node.bytes, "{file:?}");
            }
        }
        let ino = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        assert_eq!(ino("big"), ino("dir/big-too"));
    }
    mounted.session.unmount().unwrap();
}

fn compare(file: &Path, node: &ModelNode, nlink: u32, escaped: bool) {
    let metadata = fs::symlink_metadata(file).unwrap();
    let attributes = &node.attributes;
    assert_eq!(
        metadata.mode() & 0o7777,
        u32::from(attributes.mode),
        "{file:?}"
    );
    assert_eq!(
        (metadata.uid(), metadata.gid()),
        (attributes.uid, attributes.gid)
    );
    assert_eq!(metadata.mtime(), attributes.mtime.seconds);
    assert_eq!(
        metadata.mtime_nsec(),
        i64::from(attributes.mtime.nanoseconds)
    );
    assert_eq!(metadata.nlink(), u64::from(nlink), "{file:?}");
    let kind = metadata.file_type();
    let expected = match node.kind {
        Kind::File => kind.is_file(),
        Kind::Directory => kind.is_dir(),
        Kind::Symlink => kind.is_symlink(),
        Kind::CharDevice => kind.is_char_device(),
        Kind::BlockDevice => kind.is_block_device(),
        Kind::Fifo => kind.is_fifo(),
        Kind::Socket => kind.is_socket(),
    };
    assert!(expected, "{file:?} is {kind:?}");
    if matches!(node.kind, Kind::CharDevice | Kind::BlockDevice) {
        let rdev = metadata.rdev();
        let device = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        assert_eq!(device, (node.device.major, node.device.minor));
    }
    if node.kind == Kind::Symlink {
        assert_eq!(
            fs::read_link(file).unwrap().as_os_str().as_bytes(),
            node.bytes
        );
    }
    let mut expected = attributes.xattrs.clone();
    for xattr in &mut expected {
        if let (true, Some(rest)) = (escaped, xattr.name.strip_prefix(b"trusted.overlay.")) {
            xattr.name = [b"trusted.overlay.overlay.", rest].concat().into();
        }
    }
    assert_eq!(xattrs(file), expected, "{file:?}");
}

#[test]
fn binaries_run_and_random_reads_of_a_large_file_are_right() {
    let mounted = Mounted::new();
    let mut model = Model::default();
    let large = pseudo_random(20 << 20, 3);
    model.insert("/", ModelNode::directory(0o755));
    model.insert(
        "/true",
        ModelNode::file(0o755, fs::read("/bin/true").unwrap()),
    );
    model.insert(
        "/false",
        ModelNode::file(0o755, fs::read("/bin/false").unwrap()),
    );
    model.insert("/large", ModelNode::file(0o644, large.clone()));
    let root = mounted.path(format!(
        "trees/{}",
        model.store(&mounted.reader, CHUNK_BYTES)
    ));
    for _ in 0..2 {
        assert!(Command::new(root.join("true")).status().unwrap().success());
        assert_eq!(
            Command::new(root.join("false")).status().unwrap().code(),
            Some(1)
        );
    }
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let (root, large) = (root.clone(), large.clone());
            std::thread::spawn(move || {
                let file = fs::File::open(root.join("large")).unwrap();
                for place in pseudo_random(800, seed).chunks(8) {
                    let place = u64::from_le_bytes(place.try_into().unwrap());
                    let offset = usize::try_from(place % large.len() as u64).unwrap();
                    let len = (large.len() - offset).min(offset % 300_000);
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, offset as u64).unwrap();
                    assert!(bytes == large[offset..offset + len], "{offset}+{len}");
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(
        fs::metadata(root.join("large")).unwrap().len(),
        large.len() as u64
    );
}

#[test]
fn a_corrupt_chunk_is_eio_in_its_own_file_alone() {
    let mounted = Mounted::new();
    let mut model = Model::default();
    let large = pseudo_random(2 << 20, 3);
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/bad", ModelNode::file(0o644, "bad"));
    model.insert("/good", ModelNode::file(0o644, "good"));
    model.insert("/large", ModelNode::file(0o644, large.clone()));
    let root = mounted.path(format!(
        "trees/{}",
        model.store(&mounted.reader, CHUNK_BYTES)
    ));
    mounted.reader.corrupt(Digest::of(b"bad"));
    mounted
        .reader
        .corrupt(Digest::of(&large[4 * CHUNK_BYTES..5 * CHUNK_BYTES]));
    let eio = |path: &str| fs::read(root.join(path)).unwrap_err().raw_os_error();
    assert_eq!(eio("bad"), Some(libc::EIO));
    assert_eq!(eio("large"), Some(libc::EIO));
    assert_eq!(fs::read(root.join("good")).unwrap(), b"good");
    mounted.reader.heal(Digest::of(b"bad"));
    assert_eq!(fs::read(root.join("bad")).unwrap(), b"bad");
}

#[test]
fn readers_that_wait_hold_up_nobody_else_and_can_be_killed() {
    const WAITING: usize = 24;
    let delay = Duration::from_secs(4);
    let mounted = Mounted::new();
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/fast", ModelNode::file(0o644, "fast"));
    for i in 0..WAITING {
        model.insert(
            &format!("/slow-{i}"),
            ModelNode::file(0o644, format!("slow {i}")),
        );
    }
    let root = mounted.path(format!(
        "trees/{}",
        model.store(&mounted.reader, CHUNK_BYTES)
    ));
    fs::read(root.join("fast")).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), WAITING + 1);
    mounted.reader.delay(delay);
    let clock = SystemClock::new();
    let mut waiting: Vec<_> = (0..WAITING)
        .map(|i| {
            Command::new("cat")
                .arg(root.join(format!("slow-{i}")))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let in_time = |what| {
        assert!(
            clock.elapsed() < delay * 3 / 4,
            "{what} {:?}",
            clock.elapsed()
        );
    };
    assert_eq!(fs::symlink_metadata(root.join("slow-3")).unwrap().len(), 6);
    let fast = fs::File::open(root.join("fast")).unwrap();
    rustix::fs::fadvise(&fast, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(fs::read(root.join("fast")).unwrap(), b"fast");
    in_time("a local read took");
    waiting[0].kill().unwrap();
    waiting[0].wait().unwrap();
    in_time("a kill took");
    for reader in &mut waiting[1..] {
        assert!(reader.wait().unwrap().success());
    }
}

#[test]
fn a_subdirectory_can_be_bound_and_an_overlay_stacked_on_the_lower_view() {
    let mut mounted = Mounted::new();
    let tree = rich_model().store(&mounted.reader, CHUNK_BYTES);
    let bound = tempfile::tempdir().unwrap();
    mount_bind(mounted.path(format!("trees/{tree}/dir")), bound.path()).unwrap();
    assert_eq!(fs::read(bound.path().join("many-007")).unwrap(), b"7");
    let busy = fs::File::open(mounted.path("trees")).unwrap();
    assert!(matches!(
        mounted.session.unmount(),
        Err(SessionError::Busy(_))
    ));
    drop(busy);
    unmount(bound.path(), UnmountFlags::empty()).unwrap();

    let layers = tempfile::tempdir().unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| layers.path().join(name));
    for folder in [&upper, &work, &merged] {
        fs::create_dir(folder).unwrap();
    }
    let lower = mounted.path(format!("lower/{tree}"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .unwrap();
    assert_eq!(fs::read(merged.join("dir/many-499")).unwrap(), b"499");
    let opaque = xattrs(&merged.join("dir/sub"));
    assert_eq!(
        &*opaque[0].name, b"trusted.overlay.opaque",
        "data, unescaped by overlayfs"
    );
    fs::write(merged.join("dir/many-000"), b"changed").unwrap();
    fs::remove_file(merged.join("dir/many-001")).unwrap();
    rustix::fs::rename(merged.join("dir/many-002"), merged.join("new")).unwrap();
    assert_eq!(fs::read(merged.join("dir/many-000")).unwrap(), b"changed");
    assert!(!merged.join("dir/many-001").exists());
    assert_eq!(fs::read(merged.join("new")).unwrap(), b"2");
    assert_eq!(fs::read(lower.join("dir/many-000")).unwrap(), b"0");
    let deep = fs::metadata(merged.join("dir/sub/deep")).unwrap();
    assert_eq!((deep.mode() & 0o7777, deep.uid()), (0o4755, 1234));
    mounted.session.unmount().unwrap();
    assert_eq!(
        fs::read(merged.join("dir/many-400")).unwrap(),
        b"400",
        "served on"
    );
    unmount(&merged, UnmountFlags::empty()).unwrap();
    mounted.session.wait().unwrap();
}

#[test]
fn a_dead_mount_is_replaced() {
    let mounted = Mounted::new();
    let tree = rich_model().store(&mounted.reader, CHUNK_BYTES);
    let mount_point = mounted.session.mount_point().to_path_buf();
    let device = fs::metadata(&mount_point).unwrap().dev();
    // What the kernel does when the last descriptor of a killed daemon closes.
    let connection = format!("/sys/fs/fuse/connections/{}", rustix::fs::minor(device));
    if !Path::new(&connection).exists() {
        let connections = "/sys/fs/fuse/connections";
        mount("fusectl", connections, "fusectl", MountFlags::empty(), None).unwrap();
    }
    fs::write(format!("{connection}/abort"), "1").unwrap();
    let error = rustix::fs::statfs(&mount_point).unwrap_err();
    assert_eq!(error, rustix::io::Errno::NOTCONN);
    let handle = mounted.runtime.handle().clone();
    let mut second = ContentMount::mount(
        &mount_point,
        Arc::clone(&mounted.view),
        handle,
        READ_WAIT_MAX,
    )
    .unwrap();
    let root = mount_point.join(format!("trees/{tree}"));
    assert_eq!(fs::read(root.join("dir/many-123")).unwrap(), b"123");
    second.unmount().unwrap();
    drop(mounted.folder);
}
