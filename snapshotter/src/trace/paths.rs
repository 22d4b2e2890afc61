//! Names for contents: a trace knows files by what they hold.

use std::collections::{HashMap, HashSet};

use nacre_blobstore::{ContentId, ItemKind, Node, ReadError, Reader, TreeId};

/// Returns a path for each of `contents` that the file system `root` has: the first of several.
/// Reads every directory until all are found.
///
/// # Errors
/// Any [`ReadError`] of a directory.
pub async fn content_paths(
    reader: &Reader,
    root: TreeId,
    mut contents: HashSet<ContentId>,
) -> Result<HashMap<ContentId, String>, ReadError> {
    let mut paths = HashMap::new();
    let mut level = vec![(root, String::new())];
    while !level.is_empty() && !contents.is_empty() {
        let ids = level.iter().map(|(id, _)| ItemKind::Tree(*id)).collect();
        reader.warm(ids).await;
        let mut below = Vec::new();
        for (id, path) in level {
            for entry in reader.tree(id).await?.entries() {
                let name = String::from_utf8_lossy(&entry.name);
                let path = match &*name {
                    // A file system's root is the one entry of its tree.
                    "." => String::new(),
                    name => format!("{path}/{name}"),
                };
                match entry.node {
                    Node::Directory(tree) => below.push((tree, path)),
                    Node::File { content, .. } if contents.remove(&content) => {
                        paths.insert(content, path);
                    }
                    _ => {}
                }
            }
        }
        level = below;
    }
    Ok(paths)
}
