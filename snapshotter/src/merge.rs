//! Merging layers into one file system, and that into trees.
//!
//! [`MergedTree`] holds the names and attributes of the whole file system in memory, some 200
//! bytes an entry, and applies one layer after the other as containerd and umoci do: first what
//! the layer hides, then its entries in order. Data never passes through here.

mod encode;
mod lookup;

use std::collections::BTreeMap;
use std::sync::Arc;

use nacre_blobstore::{Attributes, ContentId, Node};

use crate::layer::LayerPath;

pub(crate) use lookup::{File, Folder};

/// Permission bits of directories that no layer describes.
const IMPLIED_DIRECTORY_MODE: u16 = 0o755;

/// One entry of a decoded layer whose data is stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredEntry {
    pub(crate) path: LayerPath,
    pub(crate) what: StoredKind,
}

/// What a [`StoredEntry`] puts at its path.
#[derive(Debug, Clone)]
pub(crate) enum StoredKind {
    /// A directory: new, or new attributes for the one that is there.
    Directory(Attributes),
    /// Anything else with an inode of its own.
    Inode(Attributes, Leaf),
    /// Another name for the inode at this path.
    HardLink(LayerPath),
}

/// The kinds of inode that have no entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leaf {
    File { content: ContentId, size_bytes: u64 },
    Other(Node),
}

/// A decoded layer: what it hides in those below, and what it holds.
#[derive(Debug, Default)]
pub(crate) struct LayerDiff {
    pub(crate) whiteouts: Vec<LayerPath>,
    pub(crate) opaques: Vec<LayerPath>,
    pub(crate) entries: Vec<StoredEntry>,
}

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A parent of an entry is no directory. A symlink is not followed: what it points to is not
    /// what the layer's maker saw when another layer replaces it.
    #[error("parent {parent:?} of entry {entry:?} is {what}")]
    Parent {
        /// The entry.
        entry: String,
        /// Its parent.
        parent: String,
        /// What stands there.
        what: &'static str,
    },
    /// A hard link's target is not there or a directory.
    #[error("hard link {entry:?} names {target:?}, which is {what}")]
    LinkTarget {
        /// The entry.
        entry: String,
        /// What it links to.
        target: String,
        /// What is wrong with that.
        what: &'static str,
    },
    /// A rule of the tree format is broken.
    #[error(transparent)]
    Tree(#[from] nacre_blobstore::TreeError),
}

/// A whole file system without its data.
#[derive(Debug)]
pub(crate) struct MergedTree {
    root: Directory,
}

#[derive(Debug)]
struct Directory {
    attributes: Attributes,
    children: BTreeMap<Box<[u8]>, Child>,
    /// The id of the tree with these entries, if none of them changed since it was encoded.
    encoded: Option<nacre_blobstore::TreeId>,
}

#[derive(Debug)]
enum Child {
    Directory(Box<Directory>),
    /// Shared by all names of the inode.
    Inode(Arc<Inode>),
}

#[derive(Debug)]
struct Inode {
    attributes: Attributes,
    leaf: Leaf,
}

impl Directory {
    fn implied() -> Self {
        let attributes = Attributes {
            mode: IMPLIED_DIRECTORY_MODE,
            ..Attributes::default()
        };
        Self {
            attributes,
            children: BTreeMap::new(),
            encoded: None,
        }
    }
}

impl MergedTree {
    /// Starts with an empty root.
    pub(crate) fn new() -> Self {
        Self {
            root: Directory::implied(),
        }
    }

    /// Applies a layer on top of what is there.
    ///
    /// # Errors
    /// [`MergeError`] for an entry below a file or symlink, or a hard link to nothing. The tree is
    /// then half changed and to be dropped.
    pub(crate) fn apply(&mut self, layer: LayerDiff) -> Result<(), MergeError> {
        for path in &layer.opaques {
            if let Some(directory) = self.find_directory(path) {
                directory.children.clear();
            }
        }
        for path in &layer.whiteouts {
            if let Some((parent, name)) = path.split()
                && let Some(directory) = self.find_directory(&parent)
            {
                directory.children.remove(name);
            }
        }
        layer
            .entries
            .into_iter()
            .try_for_each(|entry| self.add(entry))
    }

    fn add(&mut self, entry: StoredEntry) -> Result<(), MergeError> {
        let StoredEntry { path, what } = entry;
        let Some((_, name)) = path.split() else {
            if let StoredKind::Directory(attributes) = what {
                self.root.attributes = attributes;
            }
            return Ok(());
        };
        let child = match what {
            StoredKind::Directory(attributes) => {
                let parent = self.parent_of(&path)?;
                if let Some(Child::Directory(directory)) = parent.children.get_mut(name) {
                    directory.attributes = attributes;
                    return Ok(());
                }
                Child::Directory(Box::new(Directory {
                    attributes,
                    ..Directory::implied()
                }))
            }
            StoredKind::Inode(attributes, leaf) => {
                Child::Inode(Arc::new(Inode { attributes, leaf }))
            }
            StoredKind::HardLink(target) => Child::Inode(self.link_target(&path, &target)?),
        };
        self.parent_of(&path)?.children.insert(name.into(), child);
        Ok(())
    }

    fn link_target(&self, path: &LayerPath, target: &LayerPath) -> Result<Arc<Inode>, MergeError> {
        let error = |what| MergeError::LinkTarget {
            entry: lossy(path.as_bytes()),
            target: lossy(target.as_bytes()),
            what,
        };
        let mut at = &self.root;
        let mut components = target.components().peekable();
        while let Some(name) = components.next() {
            match at.children.get(name) {
                Some(Child::Directory(directory)) => at = directory,
                Some(Child::Inode(inode)) if components.peek().is_none() => {
                    return Ok(Arc::clone(inode));
                }
                Some(Child::Inode(_)) | None => return Err(error("not there")),
            }
        }
        Err(error("a directory"))
    }

    /// Returns the directory at `path` for a change, or `None`.
    fn find_directory(&mut self, path: &LayerPath) -> Option<&mut Directory> {
        let mut at = &mut self.root;
        at.encoded = None;
        for name in path.components() {
            match at.children.get_mut(name)? {
                Child::Directory(directory) => at = directory,
                Child::Inode(_) => return None,
            }
            at.encoded = None;
        }
        Some(at)
    }

    /// Returns the directory that `path` stands in for a change, making those that are missing.
    fn parent_of(&mut self, path: &LayerPath) -> Result<&mut Directory, MergeError> {
        let mut at = &mut self.root;
        at.encoded = None;
        let mut components = path.components();
        components.next_back();
        let mut parent = Vec::new();
        for name in components {
            parent.push(name);
            let missing = || Child::Directory(Box::new(Directory::implied()));
            match at.children.entry(name.into()).or_insert_with(missing) {
                Child::Directory(directory) => at = directory,
                Child::Inode(inode) => {
                    let what = match inode.leaf {
                        Leaf::Other(Node::Symlink(_)) => "a symlink",
                        Leaf::File { .. } | Leaf::Other(_) => "not a directory",
                    };
                    let (entry, parent) = (lossy(path.as_bytes()), lossy(&parent.join(&b'/')));
                    return Err(MergeError::Parent {
                        entry,
                        parent,
                        what,
                    });
                }
            }
            at.encoded = None;
        }
        Ok(at)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
