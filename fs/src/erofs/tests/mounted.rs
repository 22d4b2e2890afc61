//! Mounts that end with their test, and their comparison with the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::Kind;
use crate::erofs::SMALL_FILE_BYTES_MAX;
use crate::testing::model::{Model, ModelNode, ModelPath};

/// Room for the largest value or list of extended attributes.
const XATTR_BYTES: usize = 1 << 16;

/// A read-only mount in a folder of its own.
pub(super) struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Mounts an image from a file.
    pub(super) fn erofs(image: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        fs::write(&file, image).unwrap();
        Self::at(folder, &file, "erofs", "")
    }

    /// Mounts an overlay of the given layers, topmost first, over a data-only layer.
    pub(super) fn overlay(layers: &[&Self], contents: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = layers.iter().map(|layer| layer.path());
        let paths: Vec<_> = paths.map(|p| p.to_str().unwrap().to_owned()).collect();
        let (paths, contents) = (paths.join(":"), contents.to_str().unwrap());
        let options = format!("lowerdir={paths}::{contents},metacopy=on");
        Self::at(folder, Path::new("overlay"), "overlay", &options)
    }

    fn at(folder: tempfile::TempDir, source: &Path, kind: &str, options: &str) -> Self {
        let mounted = Self { folder };
        fs::create_dir(mounted.path()).unwrap();
        let options = CString::new(options).unwrap();
        let flags = MountFlags::RDONLY;
        mount(source, mounted.path(), kind, flags, options.as_c_str()).unwrap();
        mounted
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that fails shall not fail once more here.
        unmount(self.path(), UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Writes the files of a model by content, as a data-only layer has them.
pub(super) fn write_contents(folder: &Path, model: &Model) {
    for node in model.0.values().filter(|node| node.kind == Kind::File) {
        let content = blake3::hash(&node.bytes).to_hex();
        let shard = folder.join(&content[..2]);
        fs::create_dir_all(&shard).unwrap();
        fs::write(shard.join(&content[2..]), &node.bytes).unwrap();
    }
}

/// Lets the tool of the format's authors check an image.
pub(super) fn assert_fsck_accepts(image: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), image).unwrap();
    let checked = Command::new("fsck.erofs")
        .args(["--extract", "-d2"])
        .arg(file.path())
        .output()
        .expect("scripts/install-deps.sh installs erofs-utils");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// Returns the extended attributes of a file as the kernel shows them.
pub(super) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; XATTR_BYTES];
    let len = llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..len].split_inclusive(|byte| *byte == 0);
    let read = |name: &[u8]| {
        let name = &name[..name.len() - 1];
        let mut value = vec![0; XATTR_BYTES];
        let len = lgetxattr(path, name, value.as_mut_slice()).unwrap();
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(read).collect()
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stack {
    /// One image: files read as zeros, and all extended attributes are as stored.
    Image,
    /// One image that was made with the bytes of small files, which read as such.
    ImageWithSmall,
    /// An overlay of images and contents. It has its own numbers of inodes, and of subdirectories
    /// none.
    Overlay,
}

impl Stack {
    /// Tells whether a file's bytes are not in the stack.
    fn lacks(self, node: &ModelNode) -> bool {
        let is_small = node.bytes.len() <= SMALL_FILE_BYTES_MAX;
        node.kind == Kind::File
            && !node.bytes.is_empty()
            && (self == Self::Image || self == Self::ImageWithSmall && !is_small)
    }
}

/// Checks that what is mounted at `root` shows a model.
pub(super) fn assert_shows(root: &Path, model: &Model, stack: Stack) {
    let mut inodes = HashMap::new();
    for (path, node) in &model.0 {
        let at = place(root, path);
        let found = compare_inode(&at, node);
        compare_xattrs(&at, node, stack);
        if stack != Stack::Overlay || node.kind != Kind::Directory {
            assert_eq!(found.nlink(), nlink(model, path, node), "{at:?}");
        }
        if stack != Stack::Overlay {
            // Names of one group share a number, all others have their own; 0 is none.
            let owner = node.group.map_or_else(|| Err(path), Ok);
            assert_eq!(inodes.entry(found.ino()).or_insert(owner), &owner);
            assert_ne!(found.ino(), 0);
        }
        match node.kind {
            Kind::Symlink => {
                let target = fs::read_link(&at).unwrap().into_os_string().into_vec();
                assert_eq!(target, node.bytes, "{at:?}");
            }
            Kind::File => {
                let bytes = fs::read(&at).unwrap();
                if stack.lacks(node) {
                    assert_eq!(bytes, vec![0; node.bytes.len()], "{at:?}");
                } else {
                    assert_eq!(bytes, node.bytes, "{at:?}");
                }
            }
            Kind::Directory => {
                let missing = fs::symlink_metadata(at.join("no-such-name")).unwrap_err();
                assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
            }
            _ => {}
        }
    }
    compare_listings(root, model);
}

fn compare_listings(root: &Path, model: &Model) {
    let mut children: BTreeMap<&[Vec<u8>], BTreeSet<_>> = BTreeMap::new();
    for (path, node) in &model.0 {
        if node.kind == Kind::Directory {
            children.entry(path).or_default();
        }
        if let Some((name, parent)) = path.split_last() {
            children
                .entry(parent)
                .or_default()
                .insert((name.clone(), number(node.kind)));
        }
    }
    for (path, expected) in children {
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(place(root, path)).unwrap() {
            let entry = entry.unwrap();
            let kind = kind_of(entry.file_type().unwrap());
            assert!(listed.insert((entry.file_name().into_vec(), number(kind))));
        }
        assert_eq!(listed, expected, "{path:?}");
    }
}

fn place(root: &Path, path: &[Vec<u8>]) -> PathBuf {
    let names = path.iter().map(|name| OsStr::from_bytes(name));
    names.fold(root.to_owned(), |at, name| at.join(name))
}

fn compare_inode(at: &Path, node: &ModelNode) -> fs::Metadata {
    let found = fs::symlink_metadata(at).unwrap();
    let wanted = &node.attributes;
    assert_eq!(kind_of(found.file_type()), node.kind, "{at:?}");
    assert_eq!(found.mode() & 0o7777, u32::from(wanted.mode), "{at:?}");
    assert_eq!(
        (found.uid(), found.gid()),
        (wanted.uid, wanted.gid),
        "{at:?}"
    );
    let mtime = (found.mtime(), found.mtime_nsec());
    let nanoseconds = i64::from(wanted.mtime.nanoseconds);
    assert_eq!(mtime, (wanted.mtime.seconds, nanoseconds), "{at:?}");
    if node.kind != Kind::Directory {
        assert_eq!(found.size(), node.bytes.len() as u64, "{at:?}");
    }
    let rdev = match node.kind {
        Kind::CharDevice | Kind::BlockDevice => (node.device.major, node.device.minor),
        _ => (0, 0),
    };
    let found_rdev = (libc::major(found.rdev()), libc::minor(found.rdev()));
    assert_eq!(found_rdev, rdev, "{at:?}");
    found
}

fn nlink(model: &Model, path: &ModelPath, node: &ModelNode) -> u64 {
    match (node.kind, node.group) {
        // Of a single name without a search.
        (Kind::Directory, _) | (_, Some(_)) => u64::from(model.nlink(path)),
        (_, None) => 1,
    }
}

fn compare_xattrs(at: &Path, node: &ModelNode, stack: Stack) {
    let mut expected = BTreeMap::new();
    for xattr in &node.attributes.xattrs {
        let name = match xattr.name.strip_prefix(b"trusted.overlay.") {
            Some(rest) if stack != Stack::Overlay => [b"trusted.overlay.overlay.", rest].concat(),
            _ => xattr.name.to_vec(),
        };
        expected.insert(name, xattr.value.to_vec());
    }
    if stack.lacks(node) {
        let content = blake3::hash(&node.bytes).to_hex();
        let redirect = format!("/{}/{}", &content[..2], &content[2..]);
        expected.insert(b"trusted.overlay.metacopy".to_vec(), Vec::new());
        expected.insert(b"trusted.overlay.redirect".to_vec(), redirect.into_bytes());
    }
    assert_eq!(xattrs(at), expected, "{at:?}");
}

fn kind_of(kind: fs::FileType) -> Kind {
    let kinds = [
        (kind.is_file(), Kind::File),
        (kind.is_dir(), Kind::Directory),
        (kind.is_symlink(), Kind::Symlink),
        (kind.is_char_device(), Kind::CharDevice),
        (kind.is_block_device(), Kind::BlockDevice),
        (kind.is_fifo(), Kind::Fifo),
        (kind.is_socket(), Kind::Socket),
    ];
    kinds.into_iter().find(|(is, _)| *is).unwrap().1
}

const fn number(kind: Kind) -> u8 {
    kind as u8
}
