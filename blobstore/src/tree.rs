//! Trees: the names and attributes of one merged directory, as a Merkle node.
//!
//! A [`Tree`] lists the entries of one directory, sorted by name. A directory entry names its
//! subtree by [`TreeId`], so equal directories are stored once and equal ids need no descent. A
//! tree is always *merged*: whiteouts exist only in layers, never here.
//!
//! The attributes of a directory stand in its parent's entry. What has no parent, the root of a
//! file system or of a directory snapshot, is wrapped by [`Tree::root`].

mod codec;
mod diff;
mod edit;
mod links;
mod merge;
#[cfg(test)]
mod model;
mod path;
mod read;

pub use diff::{Diff, Difference, Modified, Operation};
pub use edit::{Edit, EditError, EditedTree, GraftLinks, apply_differences, edit_tree, tree_at};
pub use merge::{Merge, merge_trees};
pub use path::{TREE_PATH_BYTES_MAX, TreePath, TreePathError};
pub use read::{TreeReader, read_entry, read_root};

use crate::{ContentId, TreeId};

/// Longest name of an entry, in bytes (`NAME_MAX` of Linux).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target, in bytes (`PATH_MAX` of Linux without its NUL).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Longest xattr name, in bytes (`XATTR_NAME_MAX` of Linux).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Longest xattr value, in bytes (`XATTR_SIZE_MAX` of Linux).
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// Most bytes of xattr names on one inode (`XATTR_LIST_MAX` of Linux, NULs included).
pub const XATTR_LIST_BYTES_MAX: usize = 65_536;
/// Largest encoded tree, in bytes: some 300,000 entries in one directory.
pub const TREE_BYTES_MAX: usize = 32 << 20;

/// A point in time with nanoseconds; before 1970 the seconds are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// One extended attribute: its full name (`user.x`) and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// The name with its namespace, without a NUL.
    pub name: Box<[u8]>,
    /// The value, any bytes.
    pub value: Box<[u8]>,
}

/// The attributes that every kind of inode has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Attributes {
    /// Permission bits with set-uid, set-gid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name, names unique.
    pub xattrs: Vec<Xattr>,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File {
        /// Names the bytes.
        content: ContentId,
        /// Length in bytes.
        size_bytes: u64,
    },
    /// A directory; its entries are in another tree.
    Directory(TreeId),
    /// A symbolic link and its target, unresolved.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// Says that an entry shares its inode with others of the same file system.
///
/// All members of a group carry equal attributes and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HardLink {
    /// Names the group: the same for all its entries, unique in the file system. Ingest derives it
    /// from the smallest path of the group, so that equal file systems have equal trees.
    pub group: [u8; 16],
    /// How many names the inode has.
    pub count: u32,
}

/// A named entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The name: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
    pub name: Box<[u8]>,
    /// Attributes of the inode.
    pub attributes: Attributes,
    /// Kind of the inode.
    pub node: Node,
    /// The group, where the inode has several names. Never on a directory.
    pub hard_link: Option<HardLink>,
}

/// The entries of one directory, sorted by name. Can only be built valid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<Entry>,
}

/// Why a tree is refused, built or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The bytes do not hash to the id they were fetched for.
    #[error("tree {expected:?} does not match its hash")]
    Mismatch {
        /// The id asked for.
        expected: TreeId,
    },
    /// The bytes are not in the format, or not in its canonical form.
    #[error("malformed tree: {0}")]
    Malformed(&'static str),
    /// The tree was written by a newer version that uses a feature this one does not know.
    #[error("tree needs features {0:#x} that this version does not have")]
    Unsupported(u32),
    /// A limit or rule of the format is broken by an entry.
    #[error("invalid entry {name:?}: {reason}")]
    InvalidEntry {
        /// The entry's name, lossily.
        name: String,
        /// The rule.
        reason: &'static str,
    },
    /// The directory holds too many entries to be stored.
    #[error("directory of {0} encoded bytes exceeds the limit of {TREE_BYTES_MAX}")]
    TooLarge(usize),
}

impl Tree {
    /// The name of the only entry of a root, see [`Tree::root`].
    pub const ROOT_NAME: &'static [u8] = b".";

    /// Builds the tree of a directory; sorts `entries`.
    ///
    /// # Errors
    /// [`TreeError::InvalidEntry`] for a bad or duplicate name, an attribute beyond its limit,
    /// unsorted xattrs, or a hard-linked directory.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let tree = Self { entries };
        tree.validate()?;
        Ok(tree)
    }

    /// Wraps a directory without a parent: a tree with the one entry `.`, which carries its
    /// attributes.
    ///
    /// # Errors
    /// [`TreeError::InvalidEntry`] for an attribute beyond its limit.
    pub fn root(attributes: Attributes, tree: TreeId) -> Result<Self, TreeError> {
        let name = Self::ROOT_NAME.into();
        Self::new(vec![Entry {
            name,
            attributes,
            node: Node::Directory(tree),
            hard_link: None,
        }])
    }

    /// Returns the attributes and the tree of the directory that this root wraps, or `None` when
    /// this is not a root.
    pub fn as_root(&self) -> Option<(&Attributes, TreeId)> {
        match self.entries.as_slice() {
            [
                Entry {
                    name,
                    attributes,
                    node: Node::Directory(tree),
                    ..
                },
            ] if **name == *Self::ROOT_NAME => Some((attributes, *tree)),
            _ => None,
        }
    }

    /// Returns the entries, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry called `name`, with its position in [`Tree::entries`].
    pub fn get(&self, name: &[u8]) -> Option<(usize, &Entry)> {
        let found = self
            .entries
            .binary_search_by(|entry| (*entry.name).cmp(name))
            .ok()?;
        Some((found, &self.entries[found]))
    }

    fn validate(&self) -> Result<(), TreeError> {
        self.entries.iter().try_for_each(validate_entry)?;
        for pair in self.entries.windows(2) {
            if pair[0].name >= pair[1].name {
                return Err(invalid(&pair[1], "names are not unique and sorted"));
            }
        }
        let is_root = |entry: &Entry| *entry.name == *Self::ROOT_NAME;
        match self.entries.iter().find(|entry| is_root(entry)) {
            Some(root) if self.as_root().is_none() => Err(invalid(
                root,
                "only the single directory of a root may be called `.`",
            )),
            _ => Ok(()),
        }
    }
}

fn invalid(entry: &Entry, reason: &'static str) -> TreeError {
    TreeError::InvalidEntry {
        name: String::from_utf8_lossy(&entry.name).into_owned(),
        reason,
    }
}

fn validate_entry(entry: &Entry) -> Result<(), TreeError> {
    let check = |ok: bool, reason| {
        if ok {
            Ok(())
        } else {
            Err(invalid(entry, reason))
        }
    };
    let name = &*entry.name;
    check(
        !name.is_empty() && name.len() <= NAME_BYTES_MAX,
        "name is empty or too long",
    )?;
    check(
        name != b".." && !name.contains(&b'/') && !name.contains(&0),
        "name is not a file name",
    )?;
    let attributes = &entry.attributes;
    check(
        attributes.mode <= 0o7777,
        "mode has more than permission bits",
    )?;
    check(
        attributes.mtime.nanoseconds < 1_000_000_000,
        "nanoseconds exceed a second",
    )?;
    let xattr_ok = |x: &Xattr| {
        !x.name.is_empty()
            && x.name.len() <= XATTR_NAME_BYTES_MAX
            && !x.name.contains(&0)
            && x.value.len() <= XATTR_VALUE_BYTES_MAX
    };
    check(
        attributes.xattrs.iter().all(xattr_ok),
        "xattr beyond the limits of Linux",
    )?;
    let list_bytes: usize = attributes.xattrs.iter().map(|x| x.name.len() + 1).sum();
    check(list_bytes <= XATTR_LIST_BYTES_MAX, "too many xattrs")?;
    let sorted = attributes
        .xattrs
        .windows(2)
        .all(|pair| pair[0].name < pair[1].name);
    check(sorted, "xattrs are not unique and sorted")?;
    match &entry.node {
        Node::Directory(_) => check(entry.hard_link.is_none(), "a directory has one name only"),
        Node::Symlink(target) => check(
            !target.is_empty() && target.len() <= TARGET_BYTES_MAX && !target.contains(&0),
            "symlink target is empty, too long or has a NUL",
        ),
        Node::File { .. }
        | Node::CharDevice(_)
        | Node::BlockDevice(_)
        | Node::Fifo
        | Node::Socket => Ok(()),
    }
}

#[cfg(test)]
mod tests;
