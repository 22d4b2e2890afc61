//! What an inode number stands for.

use std::sync::Arc;

use nacre_blobstore::{ContentId, Entry, Node, ReadError, Tree, TreeId};
use tokio::sync::OnceCell;

use crate::{ContentReader, FsError};

/// How the extended attributes of a tree are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// As they are in the tree.
    Plain,
    /// With `trusted.overlay.*` escaped, for use as a lower layer of overlayfs.
    Lower,
}

/// Names an inode independently of its number; two names of one hard-link group are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKey {
    /// The root of a tree.
    Root(Flavor, TreeId),
    /// The entry at a position in a directory.
    Entry { parent_ino: u64, index: u32 },
    /// A hard-link group below a root.
    Link { root_ino: u64, group: [u8; 16] },
    /// A content by its id.
    Content(ContentId),
}

impl InodeKey {
    /// Returns the inode number that this inode gets unless another holds it already: a hash, so
    /// that numbers survive being forgotten, which is what tools rely on that find hard links by
    /// inode number.
    pub(crate) fn preferred_ino(&self) -> u64 {
        let word = |bytes: &[u8; 32]| {
            bytes
                .as_chunks::<8>()
                .0
                .iter()
                .fold(0, |h, chunk| mix(h ^ u64::from_le_bytes(*chunk)))
        };
        match self {
            Self::Root(Flavor::Plain, id) => mix(1 ^ word(id.as_bytes())),
            Self::Root(Flavor::Lower, id) => mix(2 ^ word(id.as_bytes())),
            Self::Content(id) => mix(3 ^ word(id.as_bytes())),
            Self::Entry { parent_ino, index } => mix(mix(*parent_ino) ^ u64::from(*index)),
            Self::Link { root_ino, group } => {
                let group = u128::from_le_bytes(*group);
                let fold = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
                mix(mix(mix(!root_ino) ^ fold(group)) ^ fold(group >> 64))
            }
        }
    }
}

/// The finalizer of `splitmix64` (Vigna, <https://prng.di.unimi.it/splitmix64.c>): a bijection
/// that spreads every bit.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What is noted of an inode, enough for another process to find it again: its key, and where a
/// hard-link group or a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The root of a tree.
    Root(Flavor, TreeId),
    /// The entry at a position in a directory, which the kernel knows for as long as the entry.
    Entry { parent_ino: u64, index: u32 },
    /// A hard-link group, and one of its names: the kernel may know it by another one by now, and
    /// this one's directory no more, so that it is named by its tree.
    Link {
        root_ino: u64,
        group: [u8; 16],
        flavor: Flavor,
        tree: TreeId,
        index: u32,
    },
    /// A content by its id.
    Content { content: ContentId, size_bytes: u64 },
}

impl Origin {
    pub(crate) const fn key(&self) -> InodeKey {
        match *self {
            Self::Root(flavor, tree) => InodeKey::Root(flavor, tree),
            Self::Entry { parent_ino, index } => InodeKey::Entry { parent_ino, index },
            Self::Link {
                root_ino, group, ..
            } => InodeKey::Link { root_ino, group },
            Self::Content { content, .. } => InodeKey::Content(content),
        }
    }
}

/// What an inode number stands for. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A content by its id, outside any tree.
    Content { content: ContentId, size_bytes: u64 },
    /// A directory of a tree.
    Directory(Arc<Directory>),
    /// Any other entry of a tree.
    Leaf(Leaf),
}

impl Place {
    /// Makes the place of the entry at `index` of a directory.
    pub(crate) fn of_entry(
        ino: u64,
        directory: &Arc<Directory>,
        listing: &Listing,
        index: u32,
        entry: &Entry,
    ) -> Self {
        match entry.node {
            Node::Directory(id) => {
                let child = Directory::child(ino, directory, &listing.tree, index, id);
                Self::Directory(Arc::new(child))
            }
            _ => Self::Leaf(Leaf {
                directory: Arc::clone(directory),
                index,
            }),
        }
    }

    pub(crate) fn key(&self) -> InodeKey {
        match self {
            Self::Content { content, .. } => InodeKey::Content(*content),
            Self::Directory(directory) => directory.key,
            Self::Leaf(leaf) => leaf.directory.key_of(leaf.index, leaf.entry()),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        match (self.key(), self) {
            (InodeKey::Link { root_ino, group }, Self::Leaf(leaf)) => Origin::Link {
                root_ino,
                group,
                flavor: leaf.directory.flavor,
                tree: leaf.directory.tree_id,
                index: leaf.index,
            },
            (
                InodeKey::Content(content),
                &Self::Content {
                    size_bytes,
                    content: _,
                },
            ) => Origin::Content {
                content,
                size_bytes,
            },
            (InodeKey::Root(flavor, tree), _) => Origin::Root(flavor, tree),
            (InodeKey::Entry { parent_ino, index }, _) => Origin::Entry { parent_ino, index },
            (InodeKey::Link { .. } | InodeKey::Content(_), _) => {
                unreachable!("only leaves are linked, and only contents are named by content")
            }
        }
    }
}

/// An entry that is not a directory.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) directory: Arc<Directory>,
    pub(crate) index: u32,
}

impl Leaf {
    pub(crate) fn entry(&self) -> &Entry {
        let listing = self
            .directory
            .listing
            .get()
            .expect("a leaf comes from a listing");
        &listing.tree.entries()[self.index as usize]
    }
}

/// The entries of a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) tree: Arc<Tree>,
    /// How many of the entries are directories.
    pub(crate) subdirectories: u32,
}

/// A directory at one place of one root. Its listing is read at the first use and kept for as long
/// as the kernel knows the directory or something in it.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) ino: u64,
    pub(crate) parent_ino: u64,
    pub(crate) root_ino: u64,
    pub(crate) flavor: Flavor,
    key: InodeKey,
    /// The tree whose entry describes this directory: its parent's, or the root tree.
    described_by: Arc<Tree>,
    index: u32,
    tree_id: TreeId,
    listing: OnceCell<Listing>,
}

impl Directory {
    /// Makes the directory that `root` wraps, or `None` when it is no root.
    pub(crate) fn root(
        ino: u64,
        parent_ino: u64,
        flavor: Flavor,
        id: TreeId,
        root: Arc<Tree>,
    ) -> Option<Self> {
        let (_, tree_id) = root.as_root()?;
        let key = InodeKey::Root(flavor, id);
        let listing = OnceCell::new();
        Some(Self {
            ino,
            parent_ino,
            root_ino: ino,
            flavor,
            key,
            described_by: root,
            index: 0,
            tree_id,
            listing,
        })
    }

    /// Makes the directory at `index` of `parent`, whose listing is `tree`.
    pub(crate) fn child(
        ino: u64,
        parent: &Self,
        tree: &Arc<Tree>,
        index: u32,
        tree_id: TreeId,
    ) -> Self {
        Self {
            ino,
            parent_ino: parent.ino,
            root_ino: parent.root_ino,
            flavor: parent.flavor,
            key: InodeKey::Entry {
                parent_ino: parent.ino,
                index,
            },
            described_by: Arc::clone(tree),
            index,
            tree_id,
            listing: OnceCell::new(),
        }
    }

    /// Makes a directory of which only the entries are known: for hard links that are found by one
    /// of their names.
    pub(crate) fn detached(
        root_ino: u64,
        flavor: Flavor,
        tree_id: TreeId,
        tree: Arc<Tree>,
    ) -> Self {
        Self {
            ino: 0,
            parent_ino: 0,
            root_ino,
            flavor,
            key: InodeKey::Entry {
                parent_ino: 0,
                index: 0,
            },
            described_by: Arc::clone(&tree),
            index: 0,
            tree_id,
            listing: OnceCell::new_with(Some(Listing {
                tree,
                subdirectories: 0,
            })),
        }
    }

    /// Returns the entry that carries this directory's attributes.
    pub(crate) fn entry(&self) -> &Entry {
        &self.described_by.entries()[self.index as usize]
    }

    /// Returns the listing, reading it at the first use; one reader however many wait.
    pub(crate) async fn listing(&self, reader: &dyn ContentReader) -> Result<&Listing, FsError> {
        let read = async || {
            // The reader may block on its index, which the thread of a request must not.
            tokio::task::yield_now().await;
            let tree = reader.tree(self.tree_id).await?;
            if tree.as_root().is_some() {
                let (what, reason) = (
                    self.tree_id.to_string(),
                    "a root where a directory should be",
                );
                let reason = reason.into();
                return Err(FsError::Read(ReadError::Corrupt { what, reason }));
            }
            let is_directory = |entry: &&Entry| matches!(entry.node, Node::Directory(_));
            let subdirectories = tree.entries().iter().filter(is_directory).count();
            let subdirectories = u32::try_from(subdirectories).unwrap_or(u32::MAX);
            Ok(Listing {
                tree,
                subdirectories,
            })
        };
        self.listing.get_or_try_init(read).await
    }

    /// Returns the key of the entry at `index`.
    pub(crate) fn key_of(&self, index: u32, entry: &Entry) -> InodeKey {
        match &entry.hard_link {
            Some(link) => InodeKey::Link {
                root_ino: self.root_ino,
                group: link.group,
            },
            None => InodeKey::Entry {
                parent_ino: self.ino,
                index,
            },
        }
    }
}
