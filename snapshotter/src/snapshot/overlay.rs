//! From a base tree and an upper directory to the merged tree, in time and memory that grow with
//! what the upper directory holds and with the listings of the directories that it touches.
//!
//! Every upper directory has its lower entries in one directory of the base, or in none: at its own
//! path, or where a redirect says. So a renamed directory takes its subtree along by its id, and a
//! file whose attributes alone changed keeps its content's.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use nacre_blobstore::{Attributes, ContentId, Entry, HardLink, Node, ReadError, Tree, TreeId};
use rustix::fs::FileType;

use super::contents::Contents;
use super::error::SnapshotError;
use super::glob::Globs;
use super::upper::{Marks, Redirect, UpperEntry};
use crate::layer::{Fault, Inode, InodeId};

/// Deepest directory, as for layers.
const DEPTH_MAX: usize = 512;

/// What changed, in names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: u64,
    pub(super) modified: u64,
    pub(super) removed: u64,
    /// Bytes of files added or modified, whether stored before or not.
    pub(super) bytes: u64,
}

/// Merges one upper directory over one base.
pub(super) struct Merge<'a, 'b> {
    pub(super) trees: &'a dyn Fn(TreeId) -> Result<Arc<Tree>, ReadError>,
    pub(super) contents: &'a mut Contents<'b>,
    pub(super) excludes: &'a Globs,
    /// The directory of the root of the base.
    pub(super) base: TreeId,
    /// Trees that are not those of the base, children before parents.
    pub(super) new_trees: Vec<(TreeId, Vec<u8>)>,
    pub(super) changes: Changes,
    /// Paths that were left out: sockets.
    pub(super) skipped: Vec<String>,
    links: HashMap<InodeId, Link>,
}

/// The first name of an inode with several.
struct Link {
    link: HardLink,
    node: Node,
    attributes: Attributes,
}

/// Where the merge stands.
struct Place<'p> {
    /// The path from the root, without a leading slash.
    path: Vec<u8>,
    depth: usize,
    marks: &'p Marks,
    /// The lower entries, whether or not they show through.
    lower: Option<Arc<Tree>>,
}

impl<'a, 'b> Merge<'a, 'b> {
    pub(super) fn new(
        trees: &'a dyn Fn(TreeId) -> Result<Arc<Tree>, ReadError>,
        contents: &'a mut Contents<'b>,
        excludes: &'a Globs,
        base: TreeId,
    ) -> Self {
        Self {
            trees,
            contents,
            excludes,
            base,
            new_trees: Vec::new(),
            changes: Changes::default(),
            skipped: Vec::new(),
            links: HashMap::new(),
        }
    }

    /// Merges the upper directory `upper` over the base; returns the tree of its root directory.
    pub(super) fn root(&mut self, upper: &UpperEntry) -> Result<TreeId, SnapshotError> {
        self.directory(upper, &mut Vec::new(), 0, Some(self.base))
    }

    fn directory(
        &mut self,
        upper: &UpperEntry,
        path: &mut Vec<u8>,
        depth: usize,
        lower: Option<TreeId>,
    ) -> Result<TreeId, SnapshotError> {
        if depth > DEPTH_MAX {
            return Err(unsupported(path, "directories are nested too deeply"));
        }
        let base = lower.map(self.trees).transpose()?;
        let shown = base.as_deref().filter(|_| !upper.marks.opaque);
        let mut entries: BTreeMap<Box<[u8]>, Entry> = BTreeMap::new();
        for entry in shown.map(Tree::entries).unwrap_or_default() {
            entries.insert(entry.name.clone(), entry.clone());
        }
        if upper.marks.opaque {
            self.count_hidden(upper, base.as_deref(), path)?;
        }
        let names = upper
            .names()
            .map_err(SnapshotError::at(&shown_path(path)))?;
        let place_len = path.len();
        for name in names {
            if place_len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            if !self.excludes.matches(path) {
                let found = UpperEntry::open(&upper.inode.handle, &name)
                    .map_err(SnapshotError::at(&shown_path(path)))?;
                let place = Place {
                    path: std::mem::take(path),
                    depth,
                    marks: &upper.marks,
                    lower: base.clone(),
                };
                *path = self.entry(found, name.as_bytes(), place, &mut entries)?;
            }
            path.truncate(place_len);
        }
        let entries: Vec<Entry> = entries.into_values().collect();
        if let (Some(base), Some(id)) = (shown, lower)
            && base.entries() == entries
        {
            return Ok(id);
        }
        let (id, bytes) = Tree::new(entries)?.encode()?;
        if lower != Some(id) {
            self.new_trees.push((id, bytes));
        }
        Ok(id)
    }

    /// Puts one upper entry among the merged ones of its directory; gives the path back.
    fn entry(
        &mut self,
        upper: UpperEntry,
        name: &[u8],
        mut place: Place<'_>,
        entries: &mut BTreeMap<Box<[u8]>, Entry>,
    ) -> Result<Vec<u8>, SnapshotError> {
        if upper.is_whiteout(place.marks) {
            if entries.remove(name).is_some() {
                self.changes.removed += 1;
            }
            return Ok(place.path);
        }
        let (node, hard_link) = match upper.inode.file_type() {
            FileType::Directory => {
                let lower = self.lower_of(&upper.marks, name, place.lower.as_deref())?;
                let lower = match lower.map(|entry| entry.node) {
                    Some(Node::Directory(id)) => Some(id),
                    _ => None,
                };
                let tree = self.directory(&upper, &mut place.path, place.depth + 1, lower)?;
                (Node::Directory(tree), None)
            }
            FileType::Socket => {
                // Of no use to another process, and what is bound to it is not captured.
                self.skipped
                    .push(shown_path(&place.path).display().to_string());
                entries.remove(name);
                return Ok(place.path);
            }
            _ => self.leaf(&upper, name, &place)?,
        };
        let entry = Entry {
            name: name.into(),
            attributes: upper.attributes,
            node,
            hard_link,
        };
        self.count(&entry, entries.get(name));
        entries.insert(name.into(), entry);
        Ok(place.path)
    }

    fn leaf(
        &mut self,
        upper: &UpperEntry,
        name: &[u8],
        place: &Place<'_>,
    ) -> Result<(Node, Option<HardLink>), SnapshotError> {
        let inode = &upper.inode;
        let linked = inode.link_count() > 1;
        if linked && let Some(first) = self.links.get(&inode.id()) {
            // What one name shows, all of them do; a change between two looks is a change.
            if first.attributes != upper.attributes {
                return Err(SnapshotError::Changed(shown_path(&place.path)));
            }
            return Ok((first.node.clone(), Some(first.link)));
        }
        let node = self.node(upper, name, place)?;
        if !linked {
            return Ok((node, None));
        }
        let link = HardLink {
            group: self.group(&place.path),
            count: inode.link_count(),
        };
        let first = Link {
            link,
            node: node.clone(),
            attributes: upper.attributes.clone(),
        };
        self.links.insert(inode.id(), first);
        Ok((node, Some(link)))
    }

    fn node(
        &mut self,
        upper: &UpperEntry,
        name: &[u8],
        place: &Place<'_>,
    ) -> Result<Node, SnapshotError> {
        let inode = &upper.inode;
        let at = |fault: Fault| SnapshotError::at(&shown_path(&place.path))(fault);
        Ok(match inode.file_type() {
            FileType::RegularFile => {
                let (content, size_bytes) = if upper.marks.metacopy {
                    self.lower_content(&upper.marks, name, place, inode)?
                } else {
                    self.contents.content(&shown_path(&place.path), inode)?
                };
                Node::File {
                    content,
                    size_bytes,
                }
            }
            FileType::Symlink => Node::Symlink(inode.symlink_target().map_err(at)?),
            FileType::CharacterDevice => Node::CharDevice(inode.device()),
            FileType::BlockDevice => Node::BlockDevice(inode.device()),
            FileType::Fifo => Node::Fifo,
            FileType::Socket | FileType::Directory | FileType::Unknown => {
                return Err(unsupported(&place.path, "unknown type of file"));
            }
        })
    }

    /// Returns the lower entry that an upper one stands over.
    fn lower_of(
        &self,
        marks: &Marks,
        name: &[u8],
        lower: Option<&Tree>,
    ) -> Result<Option<Entry>, SnapshotError> {
        let get = |tree: Option<&Tree>, name: &[u8]| {
            tree.and_then(|tree| tree.get(name))
                .map(|(_, entry)| entry.clone())
        };
        Ok(match &marks.redirect {
            _ if marks.opaque => None,
            None => get(lower, name),
            Some(Redirect::Name(name)) => get(lower, name),
            Some(Redirect::Path(path)) => self.resolve(path)?,
        })
    }

    /// Looks a path up in the base.
    fn resolve(&self, path: &[Box<[u8]>]) -> Result<Option<Entry>, SnapshotError> {
        let mut at = (self.trees)(self.base)?;
        let Some((last, parents)) = path.split_last() else {
            return Ok(None);
        };
        for name in parents {
            let next = match at.get(name).map(|(_, entry)| &entry.node) {
                Some(Node::Directory(id)) => *id,
                _ => return Ok(None),
            };
            at = (self.trees)(next)?;
        }
        Ok(at.get(last).map(|(_, entry)| entry.clone()))
    }

    /// Returns the content of a file whose bytes are in a lower layer.
    fn lower_content(
        &self,
        marks: &Marks,
        name: &[u8],
        place: &Place<'_>,
        inode: &Inode,
    ) -> Result<(ContentId, u64), SnapshotError> {
        let lower = self.lower_of(marks, name, place.lower.as_deref())?;
        if let Some(Node::File {
            content,
            size_bytes,
        }) = lower.map(|entry| entry.node)
        {
            return Ok((content, size_bytes));
        }
        // The redirect of a lower file, which names its content, if the kernel copied that up.
        let content = match &marks.redirect {
            Some(Redirect::Path(path)) if path.len() == 2 => {
                let digits = path.concat();
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|digits| digits.parse().ok())
            }
            _ => None,
        };
        let content = content
            .ok_or_else(|| unsupported(&place.path, "its data is in no layer of the base"))?;
        Ok((content, inode.size_bytes()))
    }

    /// Names a group of hard links by its first path and the base, so that no group of the base,
    /// or of a snapshot between, has the same name.
    fn group(&self, path: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.base.as_bytes()).update(path);
        let mut group = [0; 16];
        group.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        group
    }

    fn count(&mut self, entry: &Entry, before: Option<&Entry>) {
        match before {
            None => self.changes.added += 1,
            Some(before) if before == entry => return,
            // Its entries count themselves, unless it is another directory altogether.
            Some(before) if before.attributes == entry.attributes => {
                let both = (&before.node, &entry.node);
                if !matches!(both, (Node::Directory(_), Node::Directory(_))) {
                    self.changes.modified += 1;
                }
            }
            Some(_) => self.changes.modified += 1,
        }
        let content = |entry: &Entry| match &entry.node {
            Node::File {
                content,
                size_bytes,
            } => Some((*content, *size_bytes)),
            _ => None,
        };
        if let Some((new, size_bytes)) = content(entry)
            && before.and_then(content).map(|(old, _)| old) != Some(new)
        {
            self.changes.bytes += size_bytes;
        }
    }

    /// Counts the lower entries that an opaque directory hides and that it has no other for.
    fn count_hidden(
        &mut self,
        upper: &UpperEntry,
        base: Option<&Tree>,
        path: &[u8],
    ) -> Result<(), SnapshotError> {
        let Some(base) = base else { return Ok(()) };
        let names = upper
            .names()
            .map_err(SnapshotError::at(&shown_path(path)))?;
        let has = |entry: &&Entry| {
            names
                .binary_search_by(|name| name.as_bytes().cmp(&entry.name))
                .is_err()
        };
        self.changes.removed += base.entries().iter().filter(has).count() as u64;
        Ok(())
    }
}

impl std::fmt::Debug for Merge<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

/// Calls `read` for every regular file of an upper directory that holds its own bytes.
pub(super) fn each_file(
    upper: &UpperEntry,
    depth: usize,
    read: &mut impl FnMut(&Inode) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    // What changes meanwhile is met again in the freeze.
    let Ok(names) = upper.names() else {
        return Ok(());
    };
    for name in names {
        let Ok(entry) = UpperEntry::open(&upper.inode.handle, &name) else {
            continue;
        };
        match entry.inode.file_type() {
            FileType::RegularFile if !entry.marks.metacopy => read(&entry.inode)?,
            FileType::Directory if depth < DEPTH_MAX => each_file(&entry, depth + 1, read)?,
            _ => {}
        }
    }
    Ok(())
}

fn shown_path(path: &[u8]) -> std::path::PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}

fn unsupported(path: &[u8], reason: &str) -> SnapshotError {
    SnapshotError::Unsupported {
        path: shown_path(path),
        reason: reason.to_owned(),
    }
}
