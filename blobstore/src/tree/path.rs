//! Paths inside a tree, in the order that a walk meets them.

use std::cmp::Ordering;
use std::fmt;

use super::NAME_BYTES_MAX;

/// Longest path, in bytes: what a tree of the deepest kind that is served can need.
pub const TREE_PATH_BYTES_MAX: usize = 1 << 20;

/// A path from the root of a tree. Nothing in it is resolved: symlinks are not followed.
///
/// Ordered as a walk in order of names meets the paths: a directory stands right before what is
/// below it, so `a`, `a/b`, `a.txt`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// The text is no path in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?}: {reason}")]
pub struct TreePathError {
    /// The text, lossily.
    path: String,
    /// The rule that it breaks.
    reason: &'static str,
}

impl TreePath {
    /// Returns the path of the root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path, absolute or relative to the root; slashes that say nothing are dropped.
    ///
    /// # Errors
    /// [`TreePathError`] for `.`, `..`, a NUL, and beyond [`TREE_PATH_BYTES_MAX`] or the limit of
    /// a name.
    pub fn parse(text: &[u8]) -> Result<Self, TreePathError> {
        let fail = |reason| TreePathError {
            path: String::from_utf8_lossy(&text[..text.len().min(256)]).into_owned(),
            reason,
        };
        if text.len() > TREE_PATH_BYTES_MAX {
            return Err(fail("longer than TREE_PATH_BYTES_MAX"));
        }
        let mut path = Vec::with_capacity(text.len());
        for name in text.split(|byte| *byte == b'/').filter(|n| !n.is_empty()) {
            if name == b"." || name == b".." {
                return Err(fail("`.` and `..` are not resolved"));
            }
            if name.len() > NAME_BYTES_MAX || name.contains(&0) {
                return Err(fail("a part is no file name"));
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(Self(path.into()))
    }

    /// Returns the path of an entry of the directory at this path. `name` must be a valid name of
    /// an entry.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !self.is_root() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path.into())
    }

    /// Returns the directory that holds the name and the name; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let cut = self.0.iter().rposition(|byte| *byte == b'/');
        match cut {
            Some(cut) => Some((Self(self.0[..cut].into()), &self.0[cut + 1..])),
            None if self.is_root() => None,
            None => Some((Self::root(), &self.0)),
        }
    }

    /// Returns the directory that holds the name; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| parent)
    }

    /// Returns the directories above, nearest first, ending with the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// Returns the names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|n| !n.is_empty())
    }

    /// Returns the number of names.
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// Tells whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether `other` is below this path; nothing is below itself.
    pub fn is_above(&self, other: &Self) -> bool {
        if self.is_root() {
            return !other.is_root();
        }
        let rest = other.0.strip_prefix(&*self.0);
        rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// Returns the path without a slash at its start; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // No name has a NUL, so that with NULs for slashes the order of bytes is that of walks.
        fn walked(path: &TreePath) -> impl Iterator<Item = u8> {
            let order = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
            path.0.iter().map(order)
        }
        walked(self).cmp(walked(other))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As people write it: absolute, lossily as text.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_directory_stands_right_before_what_is_below_it() {
        let mut paths = ["a.txt", "b", "a/c", "a", "a/b/c", "", "a-", "a/b"].map(path);
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(ToString::to_string).collect();
        let expected = ["/", "/a", "/a/b", "/a/b/c", "/a/c", "/a-", "/a.txt", "/b"];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn parts_and_places() {
        let at = path("//usr/lib/");
        assert_eq!(at.to_string(), "/usr/lib");
        assert_eq!(at, path("usr").join(b"lib"));
        assert_eq!(at.split(), Some((path("usr"), &b"lib"[..])));
        assert_eq!(at.ancestors().collect::<Vec<_>>(), [path("usr"), path("")]);
        assert_eq!((at.depth(), path("/").depth()), (2, 0));
        assert!(path("usr").is_above(&at) && TreePath::root().is_above(&at));
        assert!(!path("us").is_above(&at) && !at.is_above(&at));
        assert!(!TreePath::root().is_above(&TreePath::root()));
        let long = "n".repeat(256);
        for bad in ["a/../b", "./a", "a\0b", &long] {
            assert!(TreePath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
