//! Compares two directory trees in everything that an image says of a file.
//!
//! Names, types, contents, sizes, permission bits with set-uid, set-gid and sticky, owners, mtimes
//! with nanoseconds, values of all extended attributes, symlink targets, device numbers, link
//! counts, and which names are the same inode. Not compared is what an image does not hold:
//! sizes and link counts of directories, blocks, atime and ctime. No symlink is followed, and no
//! file is read whole into memory.

mod planted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, lgetxattr_query, llistxattr, llistxattr_query, major, minor};

/// Differences that are kept; all are counted.
const REPORTED_MAX: usize = 200;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// What is known to differ and why is for the caller to say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Exceptions {
    /// Prefixes of the names of attributes that are not compared.
    pub(crate) xattr_prefixes: Vec<&'static str>,
    /// Paths whose mtime is not compared.
    pub(crate) mtimes: Vec<&'static str>,
    /// How many names inodes have is not compared.
    pub(crate) link_counts: bool,
    /// Which names are the same inode is not compared.
    pub(crate) same_inodes: bool,
}

/// What two trees have and have not in common.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// One line each, at most [`REPORTED_MAX`].
    pub(crate) reported: Vec<String>,
    /// All of them.
    pub(crate) differences: u64,
    /// Names that both have.
    pub(crate) entries: u64,
    /// Bytes of files that both have.
    pub(crate) bytes: u64,
}

impl Comparison {
    /// Panics with the differences if there are any.
    pub(crate) fn assert_equal(&self, what: &str) {
        assert!(self.entries > 1, "{what}: nothing was compared");
        assert_eq!(self.differences, 0, "{what}:\n{}", self.reported.join("\n"));
    }
}

/// Compares all below `left` and `right`, and these two themselves.
///
/// # Errors
/// The first that says that one of the trees cannot be read.
pub(crate) fn compare(left: &Path, right: &Path, except: &Exceptions) -> io::Result<Comparison> {
    let mut walk = Walk {
        left,
        right,
        except,
        first_names: Default::default(),
        found: Comparison::default(),
        buffers: Box::new([[0; READ_BUFFER_BYTES]; 2]),
    };
    walk.pair(Path::new(""))?;
    Ok(walk.found)
}

type InodeKey = (u64, u64);

struct Walk<'a> {
    left: &'a Path,
    right: &'a Path,
    except: &'a Exceptions,
    /// By inode, the first name that the walk met, on either side.
    first_names: [HashMap<InodeKey, PathBuf>; 2],
    found: Comparison,
    buffers: Box<[[u8; READ_BUFFER_BYTES]; 2]>,
}

impl Walk<'_> {
    fn report(&mut self, path: &Path, what: &str) {
        self.found.differences += 1;
        if self.found.reported.len() < REPORTED_MAX {
            self.found
                .reported
                .push(format!("/{}: {what}", path.display()));
        }
    }

    fn differ<T: PartialEq + std::fmt::Display>(
        &mut self,
        path: &Path,
        what: &str,
        (a, b): (T, T),
    ) {
        if a != b {
            self.report(path, &format!("{what} {a} | {b}"));
        }
    }

    /// Compares one name that both trees have, and all below it.
    fn pair(&mut self, path: &Path) -> io::Result<()> {
        let (left, right) = (self.left.join(path), self.right.join(path));
        let (a, b) = (
            std::fs::symlink_metadata(&left)?,
            std::fs::symlink_metadata(&right)?,
        );
        self.found.entries += 1;
        if kind(&a) != kind(&b) {
            self.report(path, &format!("type {} | {}", kind(&a), kind(&b)));
            return Ok(());
        }
        self.attributes(path, &a, &b);
        self.xattrs(path, &xattrs(&left)?, &xattrs(&right)?);
        if a.is_dir() {
            return self.children(path);
        }
        self.links(path, &a, &b);
        if a.is_symlink() {
            let target = |link| -> io::Result<String> {
                let target = std::fs::read_link(link)?;
                Ok(target.as_os_str().as_bytes().escape_ascii().to_string())
            };
            self.differ(path, "target", (target(&left)?, target(&right)?));
        } else if a.is_file() && a.len() == b.len() {
            self.contents(path, &left, &right)?;
        }
        Ok(())
    }

    fn attributes(&mut self, path: &Path, a: &Metadata, b: &Metadata) {
        let mode = |of: &Metadata| format!("{:04o}", of.mode() & 0o7777);
        let mtime = |of: &Metadata| format!("{}+{:09}ns", of.mtime(), of.mtime_nsec());
        let device = |of: &Metadata| format!("{}:{}", major(of.rdev()), minor(of.rdev()));
        self.differ(path, "mode", (mode(a), mode(b)));
        self.differ(path, "uid", (a.uid(), b.uid()));
        self.differ(path, "gid", (a.gid(), b.gid()));
        if !self
            .except
            .mtimes
            .iter()
            .any(|except| Path::new(except) == path)
        {
            self.differ(path, "mtime", (mtime(a), mtime(b)));
        }
        if a.is_file() || a.is_symlink() {
            self.differ(path, "size", (a.len(), b.len()));
        }
        if a.file_type().is_char_device() || a.file_type().is_block_device() {
            self.differ(path, "device", (device(a), device(b)));
        }
    }

    fn xattrs(&mut self, path: &Path, a: &Xattrs, b: &Xattrs) {
        let names: BTreeSet<&OsString> = a.keys().chain(b.keys()).collect();
        for name in names {
            let text = name.to_string_lossy();
            let (a, b) = (a.get(name), b.get(name));
            let excepted = self
                .except
                .xattr_prefixes
                .iter()
                .any(|prefix| text.starts_with(prefix));
            if a != b && !excepted {
                let show = |value: Option<&Vec<u8>>| {
                    value.map_or_else(
                        || "none".to_owned(),
                        |v| format!("{:?}", v.escape_ascii().to_string()),
                    )
                };
                self.report(path, &format!("xattr {text} {} | {}", show(a), show(b)));
            }
        }
    }

    /// Two walks in one order meet each inode by the same name first, or it is not the same set
    /// of names.
    fn links(&mut self, path: &Path, a: &Metadata, b: &Metadata) {
        if !self.except.link_counts {
            self.differ(path, "links", (a.nlink(), b.nlink()));
        }
        if self.except.same_inodes {
            return;
        }
        let mut first = |side: usize, of: &Metadata| {
            let names = &mut self.first_names[side];
            names
                .entry((of.dev(), of.ino()))
                .or_insert_with(|| path.to_owned())
                .clone()
        };
        let (a, b) = (first(0, a), first(1, b));
        let show = |name: PathBuf| format!("/{}", name.display());
        self.differ(path, "same inode as", (show(a), show(b)));
    }

    fn children(&mut self, path: &Path) -> io::Result<()> {
        let (a, b) = (
            names(&self.left.join(path))?,
            names(&self.right.join(path))?,
        );
        for name in a.union(&b) {
            let child = path.join(name);
            match (a.contains(name), b.contains(name)) {
                (true, true) => self.pair(&child)?,
                (true, false) => self.report(&child, "only on the left"),
                _ => self.report(&child, "only on the right"),
            }
        }
        Ok(())
    }

    fn contents(&mut self, path: &Path, left: &Path, right: &Path) -> io::Result<()> {
        let (mut a, mut b) = (open(left)?, open(right)?);
        let mut at: u64 = 0;
        loop {
            let [into_a, into_b] = &mut *self.buffers;
            let (from_a, from_b) = (fill(&mut a, into_a)?, fill(&mut b, into_b)?);
            let same = from_a
                .iter()
                .zip(from_b)
                .take_while(|(a, b)| a == b)
                .count();
            if same < from_a.len() || same < from_b.len() {
                let at = at + same as u64;
                self.report(path, &format!("content differs at byte {at}"));
                return Ok(());
            }
            if same == 0 {
                self.found.bytes += at;
                return Ok(());
            }
            at += same as u64;
        }
    }
}

pub(crate) fn kind(of: &Metadata) -> &'static str {
    let kind = of.file_type();
    if kind.is_file() {
        "file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_block_device() {
        "block device"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "socket"
    }
}

pub(crate) type Xattrs = BTreeMap<OsString, Vec<u8>>;

pub(crate) fn xattrs(path: &Path) -> io::Result<Xattrs> {
    let mut list = vec![0; llistxattr_query(path)?];
    let length = llistxattr(path, &mut list[..])?;
    list.truncate(length);
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = OsStr::from_bytes(name);
            let mut value = vec![0; lgetxattr_query(path, name)?];
            let length = lgetxattr(path, name, &mut value[..])?;
            value.truncate(length);
            Ok((OsString::from_vec(name.as_bytes().to_vec()), value))
        })
        .collect()
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
}

/// Reads until the buffer is full or the file ends.
fn fill<'b>(file: &mut File, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(&buffer[..filled])
}
