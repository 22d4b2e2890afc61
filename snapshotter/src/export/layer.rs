//! The entries of a new layer: what leads from one tree to another (OCI image-spec, layer.md).
//!
//! Costs what differs, not what the trees hold, but where some names of a hard link are in the
//! difference and others are not: then the tree is searched for these. A layer names all of them,
//! for what a link to a file of a lower layer gives is the unpacker's affair.
//!
//! With an entry go the directories above it, so that an unpacker gives them their times again. What is
//! gone is hidden name by name; opaque directories are not needed for that.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use nacre_blobstore::{
    Attributes, ContentId, Diff, Difference, Entry, Node, Reader, TreeId, TreePath, TreeReader,
};
use tokio::io::AsyncReadExt as _;

use super::ExportError;
use super::blob::BlobWriter;
use super::tar::{BLOCK_BYTES, Kind, header, padding_bytes};
use crate::snapshot::{SnapshotError, Stack};

/// Starts the name of what hides another name.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Chunks of a file that are read at once.
const CHUNKS_AT_ONCE: usize = 4;
/// Bytes of a file that are read at once.
const PIECE_BYTES: usize = 1 << 20;

type Group = [u8; 16];

/// Trees, and the bytes of their files.
#[async_trait::async_trait]
pub(crate) trait LayerSource: TreeReader {
    /// Gives a layer all bytes of a content: `size_bytes`, or an error.
    async fn put(
        &self,
        content: ContentId,
        size_bytes: u64,
        out: &BlobWriter,
    ) -> Result<(), ExportError>;
}

#[async_trait::async_trait]
impl LayerSource for Reader {
    async fn put(
        &self,
        content: ContentId,
        size_bytes: u64,
        out: &BlobWriter,
    ) -> Result<(), ExportError> {
        let list = self.chunk_list(content, size_bytes).await?;
        let ids: Vec<_> = list.extents().iter().map(|extent| extent.id).collect();
        let chunks = stream::iter(ids).map(|id| self.chunk(id));
        let mut chunks = chunks.buffered(CHUNKS_AT_ONCE);
        while let Some(chunk) = chunks.try_next().await? {
            out.put(chunk.bytes().clone()).await;
        }
        Ok(())
    }
}

/// Files of directories are read where they are.
#[async_trait::async_trait]
impl LayerSource for Stack {
    async fn put(
        &self,
        content: ContentId,
        size_bytes: u64,
        out: &BlobWriter,
    ) -> Result<(), ExportError> {
        let Some((file, path)) = self.open(content)? else {
            return self.reader().put(content, size_bytes, out).await;
        };
        let mut file = tokio::fs::File::from_std(file).take(size_bytes);
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let read = file.read_buf(&mut piece).await;
            match read.map_err(|error| ExportError::io("read", &path, error))? {
                0 if file.limit() == 0 => return Ok(()),
                0 => return Err(SnapshotError::Changed(path).into()),
                _ => out.put(piece.freeze()).await,
            }
        }
    }
}

/// Writes what leads from `before`, nothing if there is none, to `after`, both directories; returns
/// the paths that a layer cannot hold and that were left out: sockets.
///
/// # Errors
/// [`ExportError::Unrepresentable`] for what no layer can say.
pub(crate) async fn write_layer<S: LayerSource>(
    source: &S,
    before: Option<&Entry>,
    after: &Entry,
    out: &BlobWriter,
) -> Result<Vec<String>, ExportError> {
    let others = match before {
        // All names are in the layer.
        None => BTreeMap::new(),
        Some(_) => other_names(source, before, after).await?,
    };
    let mut layer = Layer {
        source,
        root: after,
        out,
        directories: Vec::new(),
        hidden: None,
        links: HashMap::new(),
        skipped: Vec::new(),
    };
    let mut diff = Diff::of_entries(source, before, Some(after));
    while let Some(difference) = diff.next().await? {
        layer.add(&difference).await?;
        if out.has_failed() {
            break;
        }
    }
    for (path, entry) in others {
        layer.put(&path, &entry).await?;
    }
    out.put(Bytes::from_static(&[0; 2 * BLOCK_BYTES])).await;
    Ok(layer.skipped)
}

/// Finds the names of hard links that do not differ while others of the same inode do.
async fn other_names<S: LayerSource>(
    source: &S,
    before: Option<&Entry>,
    after: &Entry,
) -> Result<BTreeMap<TreePath, Entry>, ExportError> {
    let mut listed: HashMap<Group, (u32, HashSet<TreePath>)> = HashMap::new();
    let mut diff = Diff::of_entries(source, before, Some(after));
    while let Some(difference) = diff.next().await? {
        if let Some(link) = difference.after.and_then(|entry| entry.hard_link) {
            let (count, names) = listed.entry(link.group).or_default();
            *count = link.count;
            names.insert(difference.path);
        }
    }
    listed.retain(|_, (count, names)| names.len() < *count as usize);
    let mut wanted: usize = (listed.values())
        .map(|(count, names)| *count as usize - names.len())
        .sum();
    let mut found = BTreeMap::new();
    let mut pending: Vec<(TreePath, TreeId)> = directory(after)
        .map(|tree| (TreePath::root(), tree))
        .into_iter()
        .collect();
    while let (Some((path, tree)), 1..) = (pending.pop(), wanted) {
        for entry in source.tree(tree).await?.entries() {
            let path = path.join(&entry.name);
            if let Some(tree) = directory(entry) {
                pending.push((path, tree));
                continue;
            }
            let group = entry.hard_link.and_then(|link| listed.get(&link.group));
            if group.is_some_and(|(_, names)| !names.contains(&path)) {
                wanted = wanted.saturating_sub(1);
                found.insert(path, entry.clone());
            }
        }
    }
    Ok(found)
}

const fn directory(entry: &Entry) -> Option<TreeId> {
    match entry.node {
        Node::Directory(tree) => Some(tree),
        _ => None,
    }
}

/// A layer under construction.
struct Layer<'a, S> {
    source: &'a S,
    root: &'a Entry,
    out: &'a BlobWriter,
    /// The directories from the root down to where the layer is, which stand in it already.
    directories: Vec<(TreePath, TreeId)>,
    /// What was hidden last with all below it.
    hidden: Option<TreePath>,
    /// The first name of each inode with several.
    links: HashMap<Group, TreePath>,
    skipped: Vec<String>,
}

impl<S: LayerSource> Layer<'_, S> {
    async fn add(&mut self, difference: &Difference) -> Result<(), ExportError> {
        let Difference {
            path,
            before,
            after,
        } = difference;
        match (before, after) {
            (_, Some(entry)) if matches!(entry.node, Node::Socket) => {
                self.skipped.push(path.to_string());
                if before.is_some() {
                    self.hide(path).await?;
                }
                Ok(())
            }
            (before, Some(entry)) => {
                if before.as_ref().and_then(directory).is_some() && directory(entry).is_none() {
                    // What replaces a directory hides all below it.
                    self.hidden = Some(path.clone());
                }
                self.put(path, entry).await
            }
            (Some(_), None) => self.hide(path).await,
            (None, None) => Ok(()),
        }
    }

    async fn hide(&mut self, path: &TreePath) -> Result<(), ExportError> {
        if self
            .hidden
            .as_ref()
            .is_some_and(|above| above.is_above(path))
        {
            return Ok(());
        }
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        self.enter(&parent).await?;
        self.hidden = Some(path.clone());
        let whiteout = parent.join(&[WHITEOUT_PREFIX, name].concat());
        let kind = Kind::File { size_bytes: 0 };
        self.write(&whiteout, kind, &Attributes::default()).await
    }

    async fn put(&mut self, path: &TreePath, entry: &Entry) -> Result<(), ExportError> {
        if let Some((parent, name)) = path.split() {
            if name.starts_with(WHITEOUT_PREFIX) {
                return Err(unrepresentable(path, "in a layer its name hides another"));
            }
            self.enter(&parent).await?;
        } else {
            // The root is written with what is below it.
            return self.enter(path).await;
        }
        let attributes = &entry.attributes;
        if let Some(link) = entry.hard_link {
            if let Some(first) = self.links.get(&link.group) {
                let first = first.as_bytes().to_vec();
                return self.write(path, Kind::HardLink(&first), attributes).await;
            }
            self.links.insert(link.group, path.clone());
        }
        let kind = match &entry.node {
            Node::File {
                content,
                size_bytes,
            } => {
                let kind = Kind::File {
                    size_bytes: *size_bytes,
                };
                self.write(path, kind, attributes).await?;
                return self.data(*content, *size_bytes).await;
            }
            Node::Directory(tree) => {
                self.write(path, Kind::Directory, attributes).await?;
                self.directories.push((path.clone(), *tree));
                return Ok(());
            }
            Node::Symlink(target) => Kind::Symlink(target),
            Node::CharDevice(device) => Kind::CharDevice(*device),
            Node::BlockDevice(device) => Kind::BlockDevice(*device),
            Node::Fifo => Kind::Fifo,
            Node::Socket => return Ok(()),
        };
        self.write(path, kind, attributes).await
    }

    /// Writes the directories from the root down to `path` that do not stand right above already.
    async fn enter(&mut self, path: &TreePath) -> Result<(), ExportError> {
        while let Some((last, _)) = self.directories.last()
            && last != path
            && !last.is_above(path)
        {
            self.directories.pop();
        }
        if self.directories.is_empty() {
            let root = TreePath::root();
            self.write(&root, Kind::Directory, &self.root.attributes)
                .await?;
            let tree = directory(self.root).ok_or_else(|| no_directory(&root))?;
            self.directories.push((root, tree));
        }
        let names: Vec<Vec<u8>> = path.names().map(<[u8]>::to_vec).collect();
        while let Some((above, tree)) = self.directories.last()
            && above != path
        {
            let listing = self.source.tree(*tree).await?;
            let entry = names.get(above.depth()).and_then(|name| listing.get(name));
            let next = entry.map(|(_, entry)| (above.join(&entry.name), entry));
            let (at, entry) = next.ok_or_else(|| no_directory(path))?;
            let tree = directory(entry).ok_or_else(|| no_directory(&at))?;
            self.write(&at, Kind::Directory, &entry.attributes).await?;
            self.directories.push((at, tree));
        }
        Ok(())
    }

    async fn write(
        &self,
        path: &TreePath,
        kind: Kind<'_>,
        attributes: &Attributes,
    ) -> Result<(), ExportError> {
        let header = header(path.as_bytes(), kind, attributes);
        let header = header.map_err(|reason| unrepresentable(path, reason))?;
        self.out.put(header.into()).await;
        Ok(())
    }

    async fn data(&self, content: ContentId, size_bytes: u64) -> Result<(), ExportError> {
        self.source.put(content, size_bytes, self.out).await?;
        self.out
            .put(vec![0; padding_bytes(size_bytes)].into())
            .await;
        Ok(())
    }
}

fn unrepresentable(path: &TreePath, reason: &str) -> ExportError {
    ExportError::Unrepresentable {
        path: path.to_string(),
        reason: reason.to_owned(),
    }
}

/// A walk and the tree that it walks do not agree.
fn no_directory(path: &TreePath) -> ExportError {
    unrepresentable(path, "it is no directory of the tree")
}
