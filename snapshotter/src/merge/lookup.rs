//! Finding files in a merged tree as a process would whose root it is.

use std::ops::Bound;
use std::sync::Arc;

use nacre_blobstore::{ContentId, Node};

use super::{Child, Directory, Inode, Leaf, MergedTree};

/// Symlinks that one look-up follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A file's content and its length.
pub(crate) type File = (ContentId, u64);

/// A directory of a merged tree and those that it is in, from the root down.
#[derive(Debug, Clone)]
pub(crate) struct Folder<'a> {
    above: Vec<&'a Directory>,
    at: &'a Directory,
}

impl MergedTree {
    /// Returns the root.
    pub(crate) fn folder(&self) -> Folder<'_> {
        Folder {
            above: Vec::new(),
            at: &self.root,
        }
    }

    /// Calls `visit` for each name of a file, in tree order, with the directory that it is in.
    pub(crate) fn each_file<'a>(&'a self, visit: &mut impl FnMut(&Folder<'a>, &'a [u8], File)) {
        fn each<'a>(folder: &Folder<'a>, visit: &mut impl FnMut(&Folder<'a>, &'a [u8], File)) {
            for (name, child) in &folder.at.children {
                match child {
                    Child::Directory(directory) => each(&folder.enter(directory), visit),
                    Child::Inode(inode) => {
                        if let Some(file) = file_of(inode) {
                            visit(folder, name, file);
                        }
                    }
                }
            }
        }
        each(&self.folder(), visit);
    }
}

impl MergedTree {
    /// Calls `visit` for each directory but the root with its name, in tree order.
    pub(crate) fn each_folder<'a>(&'a self, visit: &mut impl FnMut(&Folder<'a>, &'a [u8])) {
        fn each<'a>(folder: &Folder<'a>, visit: &mut impl FnMut(&Folder<'a>, &'a [u8])) {
            for (name, child) in &folder.at.children {
                if let Child::Directory(directory) = child {
                    let below = folder.enter(directory);
                    visit(&below, name);
                    each(&below, visit);
                }
            }
        }
        each(&self.folder(), visit);
    }
}

impl<'a> Folder<'a> {
    fn enter(&self, directory: &'a Directory) -> Self {
        let mut above = self.above.clone();
        above.push(self.at);
        Self {
            above,
            at: directory,
        }
    }

    /// Returns the directory that this one is in; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let mut above = self.above.clone();
        let at = above.pop()?;
        Some(Self { above, at })
    }

    /// Returns the directory called `name` in this one, which must not be a symlink.
    pub(crate) fn child(&self, name: &[u8]) -> Option<Self> {
        match self.at.children.get(name)? {
            Child::Directory(directory) => Some(self.enter(directory)),
            Child::Inode(_) => None,
        }
    }

    /// Returns the file called `name` in this directory, which must not be a symlink.
    pub(crate) fn file(&self, name: &[u8]) -> Option<File> {
        match self.at.children.get(name)? {
            Child::Directory(_) => None,
            Child::Inode(inode) => file_of(inode),
        }
    }

    /// Returns the names in this directory that begin with `prefix`, in order.
    pub(crate) fn names<'p>(
        &self,
        prefix: &'p [u8],
    ) -> impl Iterator<Item = &'a [u8]> + use<'a, 'p> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.at
            .children
            .range::<[u8], _>(from)
            .map(|(name, _)| &**name)
            .take_while(move |name| name.starts_with(prefix))
    }

    /// Returns in how many directories both are.
    pub(crate) fn shared_depth(&self, other: &Self) -> usize {
        let chain = |folder: &Self| folder.above.clone().into_iter().chain([folder.at]);
        chain(self)
            .zip(chain(other))
            .take_while(|(one, two)| std::ptr::eq(*one, *two))
            .count()
    }

    /// Follows a path from this directory, or from the root when it is absolute, through symlinks.
    pub(crate) fn file_at(&self, path: &[u8]) -> Option<File> {
        match self.follow(path)? {
            (_, Some(inode)) => file_of(inode),
            (_, None) => None,
        }
    }

    /// Follows a path to a directory as [`file_at`](Self::file_at) does to a file.
    pub(crate) fn folder_at(&self, path: &[u8]) -> Option<Self> {
        match self.follow(path)? {
            (folder, None) => Some(folder),
            (_, Some(_)) => None,
        }
    }

    /// Returns the directory at the end of a path, or the inode there and the directory it is in.
    fn follow(&self, path: &[u8]) -> Option<(Self, Option<&'a Arc<Inode>>)> {
        let mut at = self.clone();
        // What is left of the path, and of the targets of symlinks on it; the next name last.
        let mut rest: Vec<Vec<u8>> = Vec::new();
        at.begin(path, &mut rest);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = at.parent().unwrap_or(at);
                    continue;
                }
                _ => {}
            }
            match at.at.children.get(name.as_slice())? {
                Child::Directory(directory) => at = at.enter(directory),
                Child::Inode(inode) => match &inode.leaf {
                    Leaf::Other(Node::Symlink(target)) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return None;
                        }
                        at.begin(target, &mut rest);
                    }
                    _ if rest.is_empty() => return Some((at, Some(inode))),
                    _ => return None,
                },
            }
        }
        Some((at, None))
    }

    fn begin(&mut self, path: &[u8], rest: &mut Vec<Vec<u8>>) {
        if path.first() == Some(&b'/')
            && let Some(root) = self.above.first()
        {
            *self = Self {
                at: root,
                above: Vec::new(),
            };
        }
        rest.extend(path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
    }
}

fn file_of(inode: &Inode) -> Option<File> {
    match inode.leaf {
        Leaf::File {
            content,
            size_bytes,
        } => Some((content, size_bytes)),
        Leaf::Other(_) => None,
    }
}
