//! Reading trees, wherever they are: one, many at once, and the entries at paths.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Attributes, Entry, Node, Tree, TreeError, TreePath};
use crate::{ReadError, Reader, TreeId};

/// Trees that one operation reads at once at most.
pub(super) const READS_MAX: usize = 16;

/// Reads verified trees, from wherever they are.
#[async_trait::async_trait]
pub trait TreeReader: Send + Sync {
    /// Returns a tree. May be cancelled by dropping its future.
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError>;
}

#[async_trait::async_trait]
impl TreeReader for Reader {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        Self::tree(self, id).await
    }
}

#[async_trait::async_trait]
impl<T: TreeReader + ?Sized> TreeReader for Arc<T> {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        (**self).tree(id).await
    }
}

/// Returns the directory that a root wraps, as the entry `.`.
///
/// # Errors
/// Any [`ReadError`]; [`ReadError::Corrupt`] for a tree that is not a root.
pub async fn read_root<R: TreeReader + ?Sized>(
    trees: &R,
    root: TreeId,
) -> Result<Entry, ReadError> {
    let (attributes, tree) = root_of(&*trees.tree(root).await?, root)?;
    Ok(Entry {
        name: Tree::ROOT_NAME.into(),
        attributes,
        node: Node::Directory(tree),
        hard_link: None,
    })
}

/// Returns the entry at a path below a root, which is not followed when it is a symlink; `None`
/// where nothing is. The root itself is the entry `.`. Reads one tree for each name of the path.
///
/// # Errors
/// As for [`read_root`].
pub async fn read_entry<R: TreeReader + ?Sized>(
    trees: &R,
    root: TreeId,
    path: &TreePath,
) -> Result<Option<Entry>, ReadError> {
    let mut entry = read_root(trees, root).await?;
    for name in path.names() {
        let Node::Directory(directory) = entry.node else {
            return Ok(None);
        };
        match trees.tree(directory).await?.get(name) {
            Some((_, found)) => entry = found.clone(),
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// Splits a root.
pub(super) fn root_of(tree: &Tree, id: TreeId) -> Result<(Attributes, TreeId), ReadError> {
    match tree.as_root() {
        Some((attributes, directory)) => Ok((attributes.clone(), directory)),
        None => Err(ReadError::Corrupt {
            what: format!("tree {id}"),
            reason: "it is a directory, not the root of a file system".to_owned(),
        }),
    }
}

/// Trees that one operation needs more than once, each read once.
pub(super) struct Memo<'a, R: ?Sized> {
    reader: &'a R,
    known: HashMap<TreeId, Arc<Tree>>,
}

impl<'a, R: TreeReader + ?Sized> Memo<'a, R> {
    pub(super) fn new(reader: &'a R) -> Self {
        Self {
            reader,
            known: HashMap::new(),
        }
    }

    /// Returns a tree that is known, or reads it and does not keep it.
    pub(super) async fn pass(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        match self.known.get(&id) {
            Some(tree) => Ok(Arc::clone(tree)),
            None => self.reader.tree(id).await,
        }
    }

    /// Makes a tree known that no store need have.
    pub(super) fn insert(&mut self, tree: Tree) -> Result<TreeId, TreeError> {
        let (id, _) = tree.encode()?;
        self.known.insert(id, Arc::new(tree));
        Ok(id)
    }

    /// Makes trees known, [`READS_MAX`] at once.
    pub(super) async fn load(
        &mut self,
        ids: impl IntoIterator<Item = TreeId>,
    ) -> Result<(), ReadError> {
        let unknown: HashSet<_> = ids
            .into_iter()
            .filter(|id| !self.known.contains_key(id))
            .collect();
        let reader = self.reader;
        let mut reads = stream::iter(unknown)
            .map(|id| async move { Ok::<_, ReadError>((id, reader.tree(id).await?)) })
            .buffer_unordered(READS_MAX);
        while let Some((id, tree)) = reads.try_next().await? {
            self.known.insert(id, tree);
        }
        Ok(())
    }

    pub(super) async fn tree(&mut self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.load([id]).await?;
        Ok(Arc::clone(&self.known[&id]))
    }

    /// Returns the trees of those of `directories` that are directories below `top`. With a
    /// directory all directories above it must be among them.
    pub(super) async fn directories(
        &mut self,
        top: TreeId,
        directories: &BTreeSet<TreePath>,
    ) -> Result<BTreeMap<TreePath, Arc<Tree>>, ReadError> {
        let mut found: BTreeMap<TreePath, Arc<Tree>> = BTreeMap::new();
        for level in by_depth(directories) {
            let id_of = |path: &TreePath| match path.split() {
                None => Some(top),
                Some((parent, name)) => directory_in(found.get(&parent)?, name),
            };
            let ids: Vec<_> = level
                .into_iter()
                .filter_map(|path| Some((path.clone(), id_of(path)?)))
                .collect();
            self.load(ids.iter().map(|(_, id)| *id)).await?;
            for (path, id) in ids {
                found.insert(path, Arc::clone(&self.known[&id]));
            }
        }
        Ok(found)
    }
}

/// Returns the tree of the directory called `name`, if it is one.
pub(super) fn directory_in(listing: &Tree, name: &[u8]) -> Option<TreeId> {
    match listing.get(name)?.1.node {
        Node::Directory(id) => Some(id),
        _ => None,
    }
}

/// Groups paths by their depth, least first.
pub(super) fn by_depth<'p>(
    paths: impl IntoIterator<Item = &'p TreePath>,
) -> Vec<Vec<&'p TreePath>> {
    let mut levels: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for path in paths {
        levels.entry(path.depth()).or_default().push(path);
    }
    levels.into_values().collect()
}
