//! What a user names to be looked into: a file system, or what is at a path of one.

use std::fmt;
use std::str::FromStr;

use nacre_blobstore::{Entry, TreePath, TreePathError, read_entry};

use super::node::{Node, NodeError};

/// A name with a path, such as `pyapp:v1:/usr/lib`. The path begins at the first `:/`; no name of
/// an image has that in it. Without a path it is the whole file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeName {
    /// Of an image, a snapshot, or whatever can be mounted.
    pub(super) name: String,
    /// Where in it.
    pub(super) path: TreePath,
}

impl FromStr for TreeName {
    type Err = TreePathError;

    fn from_str(text: &str) -> Result<Self, TreePathError> {
        let (name, path) = match text.find(":/") {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, "/"),
        };
        Ok(Self {
            name: name.to_owned(),
            path: TreePath::parse(path.as_bytes())?,
        })
    }
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.path.is_root() {
            return Ok(());
        }
        write!(f, ":{}", self.path)
    }
}

impl Node {
    /// Returns the entry that is named, and makes the packs of its file system known. Symlinks on
    /// the way are not followed.
    ///
    /// # Errors
    /// [`NodeError::NoPath`] where nothing is, and those of [`Node::find_image`].
    pub(super) async fn find_entry(&self, named: &TreeName) -> Result<Entry, NodeError> {
        let found = self.find_image(&named.name).await?;
        let root = found
            .tree()
            .ok_or_else(|| NodeError::NoTree(named.name.clone()))?;
        self.loader.expect(&found.record.packs).await?;
        let entry = read_entry(&*self.reader, root, &named.path).await?;
        entry.ok_or_else(|| NodeError::NoPath {
            name: named.name.clone(),
            path: named.path.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_at_the_first_colon_before_a_slash() {
        for (text, name, path) in [
            ("pyapp", "pyapp", "/"),
            ("pyapp:v1", "pyapp:v1", "/"),
            ("pyapp:v1:/", "pyapp:v1", "/"),
            ("pyapp:v1:/usr//lib/", "pyapp:v1", "/usr/lib"),
            ("host:5000/a/b:v1:/x", "host:5000/a/b:v1", "/x"),
            ("step-1:/a:/b", "step-1", "/a:/b"),
            (":/x", "", "/x"),
        ] {
            let named: TreeName = text.parse().unwrap();
            assert_eq!(
                (named.name.as_str(), named.path.to_string().as_str()),
                (name, path)
            );
            assert_eq!(named.to_string().parse(), Ok(named));
        }
        for bad in ["a:/../b", "a:/./b", "a:/b\0"] {
            assert!(bad.parse::<TreeName>().is_err(), "{bad:?}");
        }
    }
}
