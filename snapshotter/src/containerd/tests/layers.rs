//! What mounts show: layers over layers, as a flat directory would have it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, makedev, mknodat};

use super::scene::Scene;

/// All that a directory shows: for each path a line with its attributes and content.
fn listing(root: &Path) -> BTreeMap<String, String> {
    fn visit(root: &Path, path: &Path, found: &mut BTreeMap<String, String>) {
        let metadata = fs::symlink_metadata(path).unwrap();
        let content = if metadata.is_file() {
            format!("{:?}", String::from_utf8_lossy(&fs::read(path).unwrap()))
        } else if metadata.is_symlink() {
            format!("-> {}", fs::read_link(path).unwrap().display())
        } else {
            String::new()
        };
        let line = format!(
            "{:o} {}:{} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid()
        );
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, line);
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                visit(root, &entry.unwrap().path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(root, root, &mut found);
    found
}

/// The umask is that of all tests in this process: nobody compares modes while one changes it.
static UMASK: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

type Step = fn(&Path);

/// Does each step in a layer of its own and in a flat directory, and compares after each.
async fn compare(steps: &[Step]) {
    let _unchanged = UMASK.read().await;
    let scene = Scene::new().await;
    let flat = tempfile::tempdir().unwrap();
    fs::set_permissions(flat.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut parent = String::new();
    for (number, step) in steps.iter().enumerate() {
        step(flat.path());
        let name = format!("layer {number}");
        scene.layer(&name, &parent, step).await;
        parent = name;
        let key = format!("view {number}");
        let mounts = scene.view(&key, &parent).await.unwrap();
        let shown = scene.with(&mounts, listing);
        assert_eq!(shown, listing(flat.path()), "after step {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_renames_and_owners_are_those_of_a_flat_directory() {
    compare(&[
        |root| {
            fs::create_dir_all(root.join("d/e")).unwrap();
            fs::write(root.join("d/e/f"), "1").unwrap();
            fs::write(root.join("gone"), "2").unwrap();
            fs::write(root.join("over"), "3").unwrap();
            fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2751)).unwrap();
            std::os::unix::fs::chown(root.join("d"), Some(7), Some(8)).unwrap();
        },
        |root| {
            fs::remove_file(root.join("gone")).unwrap();
            // An opaque directory.
            fs::remove_dir_all(root.join("d/e")).unwrap();
            fs::create_dir(root.join("d/e")).unwrap();
            fs::write(root.join("d/e/g"), "4").unwrap();
        },
        |_| {},
        |root| {
            fs::write(root.join("from"), "5").unwrap();
            #[expect(clippy::disallowed_methods, reason = "what programs do in containers")]
            fs::rename(root.join("from"), root.join("over")).unwrap();
            #[expect(clippy::disallowed_methods, reason = "what programs do in containers")]
            fs::rename(root.join("d/e/g"), root.join("moved")).unwrap();
            fs::hard_link(root.join("moved"), root.join("linked")).unwrap();
            std::os::unix::fs::chown(root.join("moved"), Some(9), Some(10)).unwrap();
        },
        |root| {
            fs::write(root.join("over"), "6").unwrap();
            symlink("over", root.join("link")).unwrap();
            fs::remove_dir_all(root.join("d")).unwrap();
        },
        |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(root, Some(11), Some(12)).unwrap();
        },
        |root| fs::write(root.join("after"), "7").unwrap(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_may_have_128_layers() {
    let scene = Scene::new().await;
    let mut parent = String::new();
    for number in 0..128 {
        let name = format!("sha256:{number:064x}");
        scene
            .layer(&name, &parent, |root| {
                fs::write(root.join(number.to_string()), number.to_string()).unwrap();
                fs::write(root.join("last"), number.to_string()).unwrap();
            })
            .await;
        parent = name;
    }
    let mounts = scene.prepare("x", &parent, &[]).await.unwrap();
    scene.with(&mounts, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 129);
        assert_eq!(fs::read_to_string(root.join("last")).unwrap(), "127");
        assert_eq!(fs::read_to_string(root.join("0")).unwrap(), "0");
    });
}

/// With a capability: `cap_net_raw=ep`, revision 2.
const XATTRS: [(&str, &[u8]); 3] = [
    ("user.a", b"b\0c"),
    ("trusted.a", b"d"),
    (
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_files_and_attributes_survive_a_commit() {
    let scene = Scene::new().await;
    scene
        .layer("a", "", |root| {
            fs::write(root.join("plain"), "x").unwrap();
            for (name, value) in XATTRS {
                lsetxattr(root.join("plain"), name, value, XattrFlags::empty()).unwrap();
            }
            let mode = Mode::from_raw_mode(0o640);
            let node = |name, kind, device| {
                mknodat(CWD, root.join(name), kind, mode, device).unwrap();
            };
            node("character", FileType::CharacterDevice, makedev(1, 3));
            node("block", FileType::BlockDevice, makedev(7, 200));
            node("fifo", FileType::Fifo, 0);
            let hole = fs::File::create(root.join("hole")).unwrap();
            hole.set_len(1 << 30).unwrap();
            fs::set_permissions(root.join("plain"), fs::Permissions::from_mode(0o6755)).unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(5, 6);
            let plain = fs::File::options().write(true).open(root.join("plain"));
            plain.unwrap().set_modified(old).unwrap();
        })
        .await;
    let mounts = scene.prepare("x", "a", &[]).await.unwrap();
    scene.with(&mounts, |root| {
        let of = |name| fs::symlink_metadata(root.join(name)).unwrap();
        assert_eq!(of("plain").mode() & 0o7777, 0o6755);
        assert_eq!((of("plain").mtime(), of("plain").mtime_nsec()), (5, 6));
        for (name, wanted) in XATTRS {
            let mut value = [0; 32];
            let length = lgetxattr(root.join("plain"), name, &mut value).unwrap();
            assert_eq!(&value[..length], wanted, "{name}");
        }
        assert!(of("character").file_type().is_char_device());
        assert_eq!(of("character").rdev(), makedev(1, 3));
        assert!(of("block").file_type().is_block_device());
        assert!(of("fifo").file_type().is_fifo());
        assert_eq!(of("hole").len(), 1 << 30);
        assert!(of("hole").blocks() < 64);
    });
    assert!(scene.usage("a").await.unwrap().size < 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_takes_no_writes_and_one_without_a_parent_is_empty() {
    let scene = Scene::new().await;
    let empty = scene.view("empty", "").await.unwrap();
    scene
        .layer("a", "", |root| fs::write(root.join("f"), "").unwrap())
        .await;
    scene
        .layer("b", "a", |root| fs::write(root.join("g"), "").unwrap())
        .await;
    let one = scene.view("one", "a").await.unwrap();
    let two = scene.view("two", "b").await.unwrap();
    for (mounts, entries) in [(empty, 0), (one, 1), (two, 2)] {
        scene.with(&mounts, |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), entries);
            let refused = fs::write(root.join("new"), "").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_answered_again_as_they_were() {
    let scene = Scene::new().await;
    scene.layer("a", "", |_| ()).await;
    for parent in ["", "a"] {
        let prepared = scene.prepare(&format!("x{parent}"), parent, &[]).await;
        let again = scene.mounts(&format!("x{parent}")).await;
        assert_eq!(prepared, again);
        let viewed = scene.view(&format!("v{parent}"), parent).await;
        assert_eq!(viewed, scene.mounts(&format!("v{parent}")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_of_a_fresh_snapshot_has_mode_0755_whatever_the_umask() {
    let _alone = UMASK.write().await;
    let scene = Scene::new().await;
    for umask in [0o000, 0o077] {
        let before = rustix::process::umask(Mode::from_raw_mode(umask));
        let mounts = scene.prepare(&format!("k{umask}"), "", &[]).await.unwrap();
        rustix::process::umask(before);
        scene.with(&mounts, |root| {
            assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o755);
        });
    }
}
