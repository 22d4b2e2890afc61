//! What a file system holds, as far as an overlay and its snapshots must agree on it: the model.
//!
//! Times are no part of it. The overlay of a sandbox has one rule of its own: what changes an inode
//! of the lower layer makes a copy of it, which has that one name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nacre_blobstore::{ContentId, Digest, HardLink, TreePath};

/// Longer than the largest chunk.
const LARGE_BYTES: usize = 2_500_000;
/// Contents that there are, see [`content`].
pub(super) const CONTENTS: u8 = 8;

pub(super) fn content(number: u8) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        1 => vec![0; LARGE_BYTES],
        2 => (0..LARGE_BYTES)
            .map(|i| (i / 997 % 251).to_le_bytes()[0])
            .collect(),
        // Two of the same length: only a time tells them apart.
        other => format!("content {other}").repeat(30).into_bytes(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(u8),
    Symlink(u8),
}

#[derive(Debug, Clone)]
struct Inode {
    kind: Kind,
    mode: u16,
    /// Whether it is one of the lower layer.
    lower: bool,
}

/// Names and the inodes that they stand for.
#[derive(Debug, Clone)]
pub(super) struct Files {
    names: BTreeMap<TreePath, usize>,
    inodes: Vec<Inode>,
}

/// What a name shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) mode: u16,
    pub(super) bytes: Bytes,
    pub(super) link: Option<HardLink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    Directory,
    File(ContentId, u64),
    Symlink(Digest),
}

pub(super) fn target(number: u8) -> String {
    format!("/nowhere/{number}")
}

/// A change of a file system. What is not possible fails in the model as it does in the kernel.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(TreePath, u8),
    Symlink(TreePath, u8),
    Directory(TreePath),
    Chmod(TreePath, u16),
    Remove(TreePath),
    Rename(TreePath, TreePath),
    Link(TreePath, TreePath),
}

impl Files {
    pub(super) fn empty() -> Self {
        let root = Inode {
            kind: Kind::Directory,
            mode: 0o755,
            lower: false,
        };
        Self {
            names: BTreeMap::from([(TreePath::root(), 0)]),
            inodes: vec![root],
        }
    }

    /// The same files as the lower layer of a new overlay.
    pub(super) fn started(&self) -> Self {
        let mut started = self.clone();
        started.inodes.iter_mut().for_each(|i| i.lower = true);
        started
    }

    pub(super) fn shown(&self) -> BTreeMap<TreePath, Shown> {
        let mut names: BTreeMap<usize, Vec<&TreePath>> = BTreeMap::new();
        for (path, inode) in &self.names {
            names.entry(*inode).or_default().push(path);
        }
        let shown = |(path, number): (&TreePath, &usize)| {
            let (inode, names) = (&self.inodes[*number], &names[number]);
            let count = u32::try_from(names.len()).unwrap();
            let link = (count > 1).then(|| HardLink::named(names[0], count));
            let bytes = match inode.kind {
                Kind::Directory => Bytes::Directory,
                Kind::File(number) => {
                    let bytes = content(number);
                    Bytes::File(ContentId::new(Digest::of(&bytes)), bytes.len() as u64)
                }
                Kind::Symlink(number) => Bytes::Symlink(Digest::of(target(number).as_bytes())),
            };
            let mode = inode.mode;
            (path.clone(), Shown { mode, bytes, link })
        };
        self.names.iter().map(shown).collect()
    }

    fn kind(&self, path: &TreePath) -> Option<Kind> {
        Some(self.inodes[*self.names.get(path)?].kind)
    }

    fn is_directory(&self, path: &TreePath) -> bool {
        self.kind(path) == Some(Kind::Directory)
    }

    fn has_room(&self, path: &TreePath) -> bool {
        path.parent()
            .is_some_and(|parent| self.is_directory(&parent))
    }

    fn add(&mut self, path: &TreePath, kind: Kind, mode: u16) {
        let lower = false;
        self.inodes.push(Inode { kind, mode, lower });
        self.names.insert(path.clone(), self.inodes.len() - 1);
    }

    /// Returns the inode of a name, to be changed.
    fn upper(&mut self, path: &TreePath) -> &mut Inode {
        let mut number = self.names[path];
        if self.inodes[number].lower {
            let mut copy = self.inodes[number].clone();
            copy.lower = false;
            self.inodes.push(copy);
            number = self.inodes.len() - 1;
            self.names.insert(path.clone(), number);
        }
        &mut self.inodes[number]
    }

    fn below(&self, path: &TreePath) -> BTreeSet<TreePath> {
        let below = self.names.keys().filter(|name| path.is_above(name));
        below.cloned().collect()
    }

    fn remove(&mut self, path: &TreePath) {
        self.names
            .retain(|name, _| name != path && !path.is_above(name));
    }

    /// Applies a change; tells whether it is possible.
    pub(super) fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Write(path, number) => match self.kind(path) {
                Some(Kind::File(_)) => self.upper(path).kind = Kind::File(*number),
                None if self.has_room(path) => self.add(path, Kind::File(*number), 0o644),
                _ => return false,
            },
            Change::Symlink(path, number) => match self.kind(path) {
                None if self.has_room(path) => self.add(path, Kind::Symlink(*number), 0o777),
                _ => return false,
            },
            Change::Directory(path) => match self.kind(path) {
                None if self.has_room(path) => self.add(path, Kind::Directory, 0o755),
                _ => return false,
            },
            Change::Chmod(path, mode) => match self.kind(path) {
                Some(Kind::File(_) | Kind::Directory) => self.upper(path).mode = *mode,
                _ => return false,
            },
            Change::Remove(path) => match self.kind(path) {
                Some(_) if !path.is_root() => self.remove(path),
                _ => return false,
            },
            Change::Rename(from, to) => return self.rename(from, to),
            Change::Link(from, to) => {
                let possible = self.kind(from).is_some_and(|kind| kind != Kind::Directory);
                if !possible || self.kind(to).is_some() || !self.has_room(to) {
                    return false;
                }
                self.upper(from);
                self.names.insert(to.clone(), self.names[from]);
            }
        }
        true
    }

    fn rename(&mut self, from: &TreePath, to: &TreePath) -> bool {
        let Some(kind) = self.kind(from).filter(|_| !from.is_root()) else {
            return false;
        };
        if !self.has_room(to) || from.is_above(to) {
            return false;
        }
        let possible = match self.kind(to) {
            None => true,
            Some(Kind::Directory) => {
                kind == Kind::Directory && (from == to || self.below(to).is_empty())
            }
            Some(_) => kind != Kind::Directory,
        };
        // Two names of one inode of the upper layer both stay (rename(2)).
        let same =
            self.names.get(to) == self.names.get(from) && !self.inodes[self.names[from]].lower;
        if !possible || same || from == to {
            return possible;
        }
        if kind != Kind::Directory {
            self.upper(from);
        }
        self.remove(to);
        let moved = self.below(from).into_iter().chain([from.clone()]);
        for name in moved.collect::<Vec<_>>() {
            let inode = self.names.remove(&name).unwrap();
            let rest = &name.as_bytes()[from.as_bytes().len()..];
            let name = [to.as_bytes(), rest].concat();
            self.names.insert(TreePath::parse(&name).unwrap(), inode);
        }
        true
    }
}

impl Change {
    /// Applies the change below a directory.
    pub(super) fn apply(&self, root: &Path) -> io::Result<()> {
        let at = |path: &TreePath| root.join(std::str::from_utf8(path.as_bytes()).unwrap());
        match self {
            Self::Write(path, number) => {
                let path = at(path);
                let is_new = path.symlink_metadata().is_err();
                fs::write(&path, content(*number))?;
                if is_new {
                    fs::set_permissions(&path, Permissions::from_mode(0o644))?;
                }
                Ok(())
            }
            Self::Symlink(path, number) => symlink(target(*number), at(path)),
            Self::Directory(path) => {
                fs::create_dir(at(path))?;
                fs::set_permissions(at(path), Permissions::from_mode(0o755))
            }
            Self::Chmod(path, mode) => {
                fs::set_permissions(at(path), Permissions::from_mode((*mode).into()))
            }
            Self::Remove(path) if path.is_root() => Err(io::ErrorKind::InvalidInput.into()),
            Self::Remove(path) if at(path).symlink_metadata()?.is_dir() => {
                fs::remove_dir_all(at(path))
            }
            Self::Remove(path) => fs::remove_file(at(path)),
            Self::Rename(from, to) => Ok(rustix::fs::rename(at(from), at(to))?),
            Self::Link(from, to) => fs::hard_link(at(from), at(to)),
        }
    }
}
