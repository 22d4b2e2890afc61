//! The directories that the mount has by itself.

use nacre_blobstore::Digest;

use super::attr::Attr;
use super::place::Flavor;

/// Inode number of the mount's root (`FUSE_ROOT_ID`).
pub const ROOT_INO: u64 = 1;
const CONTENT_INO: u64 = 2;
const TREES_INO: u64 = 3;
const LOWER_INO: u64 = 4;
const MISSING_INO: u64 = 5;
/// Inode number of `/content/00`; the other 255 follow.
const SHARDS_INO: u64 = 256;
const SHARDS: u64 = 256;

/// One of the directories that the mount has by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fixed {
    /// `/`.
    Root,
    /// `/content`.
    Content,
    /// `/content/ab`: contents whose id starts with this byte.
    Shard(u8),
    /// `/trees` or `/lower`.
    Trees(Flavor),
    /// `/missing`.
    Missing,
}

impl Fixed {
    pub(crate) fn from_ino(ino: u64) -> Option<Self> {
        match ino {
            ROOT_INO => Some(Self::Root),
            CONTENT_INO => Some(Self::Content),
            TREES_INO => Some(Self::Trees(Flavor::Plain)),
            LOWER_INO => Some(Self::Trees(Flavor::Lower)),
            MISSING_INO => Some(Self::Missing),
            _ => u8::try_from(ino.checked_sub(SHARDS_INO)?)
                .ok()
                .map(Self::Shard),
        }
    }

    pub(crate) fn ino(self) -> u64 {
        match self {
            Self::Root => ROOT_INO,
            Self::Content => CONTENT_INO,
            Self::Trees(Flavor::Plain) => TREES_INO,
            Self::Trees(Flavor::Lower) => LOWER_INO,
            Self::Missing => MISSING_INO,
            Self::Shard(byte) => SHARDS_INO + u64::from(byte),
        }
    }

    pub(crate) fn attr(self) -> Attr {
        let subdirectories = if self == Self::Root { 4 } else { 0 };
        Attr::of_fixed_directory(self.ino(), subdirectories)
    }

    pub(crate) fn parent(self) -> Self {
        match self {
            Self::Root | Self::Content | Self::Trees(_) | Self::Missing => Self::Root,
            Self::Shard(_) => Self::Content,
        }
    }

    /// Returns the fixed directory called `name` in this one.
    pub(crate) fn child(self, name: &[u8]) -> Option<Self> {
        match (self, name) {
            (Self::Root, b"content") => Some(Self::Content),
            (Self::Root, b"trees") => Some(Self::Trees(Flavor::Plain)),
            (Self::Root, b"lower") => Some(Self::Trees(Flavor::Lower)),
            (Self::Root, b"missing") => Some(Self::Missing),
            (Self::Content, _) => shard(name).map(Self::Shard),
            (Self::Root | Self::Shard(_) | Self::Trees(_) | Self::Missing, _) => None,
        }
    }

    /// Returns the names that readdir shows, with what they stand for. What is found by its id
    /// is looked up by name only.
    pub(crate) fn children(self) -> Vec<(&'static str, Self)> {
        match self {
            Self::Root => vec![
                ("content", Self::Content),
                ("lower", Self::Trees(Flavor::Lower)),
                ("missing", Self::Missing),
                ("trees", Self::Trees(Flavor::Plain)),
            ],
            Self::Content | Self::Shard(_) | Self::Trees(_) | Self::Missing => Vec::new(),
        }
    }
}

/// Parses the two digits of a shard.
fn shard(name: &[u8]) -> Option<u8> {
    let name = str::from_utf8(name).ok().filter(|name| name.len() == 2)?;
    Some(digest(&[name, &"0".repeat(62)])?.as_bytes()[0])
}

/// Parses a digest that is spread over names.
pub(crate) fn digest(parts: &[&str]) -> Option<Digest> {
    parts.concat().parse().ok()
}

const _: () = assert!(SHARDS_INO + SHARDS <= super::inodes::RESERVED_INOS);
