//! The file system without the kernel: operations take and return plain values.
//!
//! ```text
//! /content/ab/cdef...   the gate: large contents by id, found by name only
//! /missing/...          fails with EIO, whatever is asked for
//! /trees/<tree id>/...  whole trees by the id of their root
//! /lower/<tree id>/...  the same as a lower layer: trusted.overlay.* xattrs are escaped
//! ```
//! Everything below an id is immutable, so answers may be kept for ever; only whether an id is
//! known may change, and "not known" is never to be kept. Inode numbers are hashes of what they
//! name, so they survive being forgotten; the table holds what the kernel knows, no more.
//!
//! The gate is a data-only layer of overlayfs, which asks it for what the store has not. A small
//! content is fetched and placed in the layer after the gate before the lookup is answered with
//! "not here": from there on it is a file of the local disk like any other. Only what is larger
//! than a chunk, or what the disk does not take, is a file of the gate. overlayfs takes an error of
//! one data-only layer for "not here" and goes on; `/missing` is the last of them, so that a file
//! whose data cannot be had fails with `EIO` and does not look as if it did not exist.
//!
//! An unreadable subtree makes the operations inside it fail, not those on its siblings.

mod attr;
mod fixed;
mod inode_log;
mod inodes;
mod listing;
mod place;
mod restore;
pub(crate) mod xattr;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::{ContentId, Entry, Node, ReadError, TreeId};

pub use attr::{Attr, IMMUTABLE_VALID, Kind};
pub use fixed::ROOT_INO;
pub use inode_log::InodeLogError;
#[cfg(any(test, feature = "testing"))]
pub use inode_log::recode_inode_log;
pub use listing::{DirectoryEntry, Taken};
pub use place::Flavor;

use crate::{ContentReader, FsError, NodeCache, Placed};
use fixed::Fixed;
use inodes::InodeTable;
use place::{Directory, InodeKey, Listing, Place};

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The entry; one more lookup is counted for its inode.
    Found(Attr),
    /// There is no such entry, and there will be none for as long as `valid`.
    Absent {
        /// How long the kernel may keep this answer.
        valid: Duration,
    },
}

/// What statfs(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statfs {
    /// Size of a block, in bytes.
    pub block_bytes: u32,
    /// Longest name, in bytes.
    pub name_bytes_max: u32,
    /// Inodes that the kernel holds.
    pub inodes: u64,
}

/// The file system of a node: all contents and all trees that its reader can reach, read-only.
#[derive(Debug)]
pub struct View {
    contents: Arc<NodeCache>,
    inodes: InodeTable,
}

impl View {
    /// Shows what `contents` and the reader behind it hold.
    pub fn new(contents: Arc<NodeCache>) -> Self {
        Self {
            contents,
            inodes: InodeTable::default(),
        }
    }

    /// Returns the cache that contents are read through.
    pub const fn contents(&self) -> &Arc<NodeCache> {
        &self.contents
    }

    /// Notes in a log at `path` what inode numbers stand for from now on, so that another process can
    /// go on with the FUSE session `session`. Nothing may have been looked up yet.
    ///
    /// # Errors
    /// Those of writing the file, after which nothing is noted.
    pub fn log_inodes(&self, path: &Path, session: u64) -> io::Result<()> {
        self.inodes.start_log(path, session)
    }

    /// Goes on with the inode numbers of a session that another process served and noted at `path`.
    /// Returns how many there are. What they stand for is read when it is asked for.
    ///
    /// # Errors
    /// [`InodeLogError`], after which no number is known.
    pub fn resume_inodes(&self, path: &Path, session: u64) -> Result<usize, InodeLogError> {
        self.inodes.resume_log(path, session)
    }

    /// Returns the reader. It may block on its index: yield before the first use in a request, so
    /// that the thread which took the request does not.
    fn reader(&self) -> &dyn ContentReader {
        &*self.contents
    }

    /// Finds `name` in the directory `parent` and counts a lookup for what it finds.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`], [`FsError::Stale`], [`FsError::Read`].
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Lookup, FsError> {
        if let Some(fixed) = Fixed::from_ino(parent) {
            return self.lookup_fixed(fixed, name).await;
        }
        let Place::Directory(directory) = self.place(parent).await? else {
            return Err(FsError::NotDirectory);
        };
        let listing = directory.listing(self.reader()).await?;
        match listing.tree.get(name) {
            Some((index, entry)) => {
                let index = u32::try_from(index).expect("a tree has at most 2^32 entries");
                let place = self.refer(&directory, listing, index, entry);
                Ok(Lookup::Found(self.attr_of(&place).await))
            }
            None => Ok(Lookup::Absent {
                valid: IMMUTABLE_VALID,
            }),
        }
    }

    async fn lookup_fixed(&self, parent: Fixed, name: &[u8]) -> Result<Lookup, FsError> {
        if let Some(child) = parent.child(name) {
            return Ok(Lookup::Found(child.attr()));
        }
        tokio::task::yield_now().await;
        let text = str::from_utf8(name).unwrap_or_default();
        let found = match parent {
            Fixed::Missing => return Err(FsError::Missing),
            Fixed::Root | Fixed::Content => {
                return Ok(Lookup::Absent {
                    valid: IMMUTABLE_VALID,
                });
            }
            Fixed::Shard(byte) => match fixed::digest(&[&format!("{byte:02x}"), text]) {
                Some(digest) => self.find_content(ContentId::new(digest)).await?,
                None => None,
            },
            Fixed::Trees(flavor) => match fixed::digest(&[text]) {
                Some(digest) => self.find_root(flavor, TreeId::new(digest)).await?,
                None => None,
            },
        };
        match found {
            Some(place) => Ok(Lookup::Found(self.attr_of(&place).await)),
            None => Ok(Lookup::Absent {
                valid: Duration::ZERO,
            }),
        }
    }

    async fn find_content(&self, content: ContentId) -> Result<Option<Numbered>, FsError> {
        let Some(size_bytes) = self.reader().content_size(content).await? else {
            return Ok(None);
        };
        if self.contents.place(content, size_bytes).await? == Placed::Local {
            return Ok(None);
        }
        let key = InodeKey::Content(content);
        let place = |_| Place::Content {
            content,
            size_bytes,
        };
        Ok(Some(self.inodes.refer(key, place).into()))
    }

    /// Finds a tree by id; one that is no root is not shown, for it has no attributes.
    async fn find_root(&self, flavor: Flavor, id: TreeId) -> Result<Option<Numbered>, FsError> {
        let root = match self.reader().tree(id).await {
            Ok(root) if root.as_root().is_some() => root,
            Ok(_) | Err(ReadError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let parent_ino = Fixed::Trees(flavor).ino();
        let make = |ino| {
            let directory = Directory::root(ino, parent_ino, flavor, id, root);
            Place::Directory(Arc::new(directory.expect("only roots come here")))
        };
        Ok(Some(
            self.inodes.refer(InodeKey::Root(flavor, id), make).into(),
        ))
    }

    /// Counts a lookup of the entry at `index` of a directory.
    fn refer(
        &self,
        directory: &Arc<Directory>,
        listing: &Listing,
        index: u32,
        entry: &Entry,
    ) -> Numbered {
        let make = |ino| Place::of_entry(ino, directory, listing, index, entry);
        self.inodes
            .refer(directory.key_of(index, entry), make)
            .into()
    }

    /// Takes back `count` lookups of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// Returns how many inodes the kernel holds.
    pub fn inodes_known(&self) -> usize {
        self.inodes.len()
    }

    /// Returns the attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::Stale`].
    pub async fn getattr(&self, ino: u64) -> Result<Attr, FsError> {
        match Fixed::from_ino(ino) {
            Some(fixed) => Ok(fixed.attr()),
            None => Ok(self
                .attr_of(&Numbered {
                    ino,
                    place: self.place(ino).await?,
                })
                .await),
        }
    }

    /// Returns attributes. A directory's link count needs its tree, which is read here; when that
    /// fails the rest still holds, as the parent's tree says so, but is not to be kept.
    async fn attr_of(&self, numbered: &Numbered) -> Attr {
        match &numbered.place {
            Place::Content { size_bytes, .. } => {
                Attr::of_fixed(numbered.ino, Kind::File, 0o444, 1, *size_bytes)
            }
            Place::Leaf(leaf) => Attr::of_leaf(numbered.ino, leaf.entry()),
            Place::Directory(directory) => {
                let listing = directory.listing(self.reader()).await;
                let subdirectories = listing.ok().map(|listing| listing.subdirectories);
                Attr::of_directory(numbered.ino, directory.entry(), subdirectories)
            }
        }
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::WrongKind`], [`FsError::Stale`].
    pub async fn readlink(&self, ino: u64) -> Result<Vec<u8>, FsError> {
        if Fixed::from_ino(ino).is_some() {
            return Err(FsError::WrongKind);
        }
        match self.place(ino).await? {
            Place::Leaf(leaf) => match &leaf.entry().node {
                Node::Symlink(target) => Ok(target.to_vec()),
                _ => Err(FsError::WrongKind),
            },
            Place::Content { .. } | Place::Directory(_) => Err(FsError::WrongKind),
        }
    }

    /// Reads up to `len_bytes` at `offset_bytes` of a file; fewer only at its end.
    ///
    /// # Errors
    /// [`FsError::IsDirectory`], [`FsError::WrongKind`], [`FsError::Stale`], [`FsError::Read`].
    pub async fn read(
        &self,
        ino: u64,
        offset_bytes: u64,
        len_bytes: u32,
    ) -> Result<Bytes, FsError> {
        if Fixed::from_ino(ino).is_some() {
            return Err(FsError::IsDirectory);
        }
        let (content, size_bytes) = match self.place(ino).await? {
            Place::Content {
                content,
                size_bytes,
            } => (content, size_bytes),
            Place::Directory(_) => return Err(FsError::IsDirectory),
            Place::Leaf(leaf) => match leaf.entry().node {
                Node::File {
                    content,
                    size_bytes,
                } => (content, size_bytes),
                _ => return Err(FsError::WrongKind),
            },
        };
        Ok(self
            .contents
            .read(content, size_bytes, offset_bytes, len_bytes)
            .await?)
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoXattr`], [`FsError::Stale`].
    pub async fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let value = self.with_entry(ino, |entry, flavor| {
            xattr::get(&entry.attributes, flavor, name).map(<[u8]>::to_vec)
        });
        value.await?.flatten().ok_or(FsError::NoXattr)
    }

    /// Returns the names of the extended attributes, each followed by a NUL.
    ///
    /// # Errors
    /// [`FsError::Stale`].
    pub async fn listxattr(&self, ino: u64) -> Result<Vec<u8>, FsError> {
        let list = |entry: &Entry, flavor| xattr::list(&entry.attributes, flavor);
        Ok(self.with_entry(ino, list).await?.unwrap_or_default())
    }

    /// Returns what statfs(2) tells: nothing is free on a read-only file system.
    pub fn statfs(&self) -> Statfs {
        Statfs {
            block_bytes: 4096,
            name_bytes_max: 255,
            inodes: self.inodes.len() as u64,
        }
    }

    /// Applies `f` to the entry of an inode that is in a tree.
    async fn with_entry<T>(
        &self,
        ino: u64,
        f: impl FnOnce(&Entry, Flavor) -> T,
    ) -> Result<Option<T>, FsError> {
        if Fixed::from_ino(ino).is_some() {
            return Ok(None);
        }
        Ok(match self.place(ino).await? {
            Place::Content { .. } => None,
            Place::Directory(directory) => Some(f(directory.entry(), directory.flavor)),
            Place::Leaf(leaf) => Some(f(leaf.entry(), leaf.directory.flavor)),
        })
    }

    /// Returns a directory of a tree and its parent's number, or `None` for a fixed one.
    async fn directory(&self, ino: u64) -> Result<Option<(Arc<Directory>, u64)>, FsError> {
        if Fixed::from_ino(ino).is_some() {
            return Ok(None);
        }
        match self.place(ino).await? {
            Place::Directory(directory) => {
                let parent_ino = directory.parent_ino;
                Ok(Some((directory, parent_ino)))
            }
            Place::Content { .. } | Place::Leaf(_) => Err(FsError::NotDirectory),
        }
    }
}

/// A place and its number.
#[derive(Debug)]
struct Numbered {
    ino: u64,
    place: Place,
}

impl From<(u64, Place)> for Numbered {
    fn from((ino, place): (u64, Place)) -> Self {
        Self { ino, place }
    }
}

#[cfg(test)]
mod tests;
