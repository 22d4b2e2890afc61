//! From an upper directory to the edits of the base that make the merged file system, in time and
//! memory that grow with what the upper directory holds and with the listings of the directories
//! that it touches.
//!
//! Every upper directory has its lower entries in one directory of the base, or in none: at its own
//! path, or where a redirect says. So a renamed directory takes its subtree along by its id, and a
//! file whose attributes alone changed keeps its content's.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nacre_blobstore::{
    Attributes, ContentId, Edit, Entry, GraftLinks, Node, ReadError, Tree, TreeId, TreePath,
};
use rustix::fs::FileType;

use super::contents::Contents;
use super::error::SnapshotError;
use super::glob::Globs;
use super::upper::{Marks, Redirect, UpperEntry};
use crate::layer::{Fault, Inode, InodeId};

/// Deepest directory.
const DEPTH_MAX: usize = 512;
/// Entries of an upper directory, as of a layer; some 300 bytes of memory each.
const ENTRIES_MAX: usize = 4 << 20;

/// What changed, in names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: u64,
    pub(super) modified: u64,
    pub(super) removed: u64,
    /// Bytes of files added or modified, whether stored before or not.
    pub(super) bytes: u64,
}

/// Names the contents of the files of an upper directory.
pub(super) trait FileContents {
    /// Returns the content of a file, or what stands for it, and its length.
    fn content(&mut self, path: &Path, inode: &Inode) -> Result<(ContentId, u64), SnapshotError>;
}

/// Walks one upper directory over one base.
pub(super) struct Walk<'a, C> {
    pub(super) trees: &'a dyn Fn(TreeId) -> Result<Arc<Tree>, ReadError>,
    pub(super) contents: &'a mut C,
    pub(super) excludes: &'a Globs,
    /// The directory of the root of the base.
    pub(super) base: TreeId,
    /// What the upper directory makes of the base.
    pub(super) edits: BTreeMap<TreePath, Edit>,
    pub(super) changes: Changes,
    /// Paths that were left out: sockets.
    pub(super) skipped: Vec<String>,
    links: HashMap<InodeId, Link>,
}

/// What is done with each file before the freeze.
pub(super) type Visit<'v> = dyn FnMut(&mut Contents<'_>, &Inode) -> Result<(), SnapshotError> + 'v;

/// What the first name of an inode with several shows.
struct Link {
    /// Its number in the edits.
    number: u64,
    node: Node,
    attributes: Attributes,
}

/// An entry of an upper directory.
struct Place<'p> {
    path: &'p TreePath,
    name: &'p [u8],
    /// The marks of its directory.
    marks: &'p Marks,
    /// The lower entries of its directory; nothing in one that is opaque.
    lower: Option<&'p Tree>,
}

impl Place<'_> {
    /// Returns what the base shows here.
    fn shown(&self) -> Option<&Entry> {
        Some(self.lower?.get(self.name)?.1)
    }
}

impl<'a, C> Walk<'a, C> {
    pub(super) fn new(
        trees: &'a dyn Fn(TreeId) -> Result<Arc<Tree>, ReadError>,
        contents: &'a mut C,
        excludes: &'a Globs,
        base: TreeId,
    ) -> Self {
        Self {
            trees,
            contents,
            excludes,
            base,
            edits: BTreeMap::new(),
            changes: Changes::default(),
            skipped: Vec::new(),
            links: HashMap::new(),
        }
    }

    /// Returns the lower entry that an upper one stands over.
    fn lower_of(&self, marks: &Marks, place: &Place<'_>) -> Result<Option<Entry>, SnapshotError> {
        let get = |name: &[u8]| Some(place.lower?.get(name)?.1.clone());
        Ok(match &marks.redirect {
            _ if marks.opaque => None,
            None => get(place.name),
            Some(Redirect::Name(name)) => get(name),
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
}

impl Walk<'_, Contents<'_>> {
    /// Gives `visit` each file that holds bytes, while processes go on to write, and reads the lower
    /// entries of directories, which may be far away. What changes meanwhile is met again.
    ///
    /// # Errors
    /// Those of `visit`; what cannot be read is left to the walk.
    pub(super) fn ahead(
        &mut self,
        upper: &UpperEntry,
        visit: &mut Visit<'_>,
    ) -> Result<(), SnapshotError> {
        let lower = (!upper.marks.opaque).then_some(self.base);
        self.ahead_below(upper, &TreePath::root(), lower, visit)
    }

    fn ahead_below(
        &mut self,
        upper: &UpperEntry,
        path: &TreePath,
        lower: Option<TreeId>,
        visit: &mut Visit<'_>,
    ) -> Result<(), SnapshotError> {
        let lower = lower.and_then(|id| (self.trees)(id).ok());
        for name in upper.names().unwrap_or_default() {
            let at = path.join(name.as_bytes());
            let Ok(found) = UpperEntry::open(&upper.inode.handle, &name) else {
                continue;
            };
            let place = Place {
                path: &at,
                name: name.as_bytes(),
                marks: &upper.marks,
                lower: lower.as_deref(),
            };
            match found.inode.file_type() {
                FileType::RegularFile if found.marks.metacopy => {
                    drop(self.lower_of(&found.marks, &place));
                }
                FileType::RegularFile => visit(self.contents, &found.inode)?,
                FileType::Directory if path.depth() < DEPTH_MAX => {
                    let lower = self.lower_of(&found.marks, &place).ok().flatten();
                    let lower = match lower.map(|entry| entry.node) {
                        Some(Node::Directory(id)) => Some(id),
                        _ => None,
                    };
                    self.ahead_below(&found, &at, lower, visit)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl<C: FileContents> Walk<'_, C> {
    /// Finds the edits of all that is in the upper directory `upper`, and of its own attributes.
    pub(super) fn root(&mut self, upper: &UpperEntry) -> Result<(), SnapshotError> {
        let (path, opaque) = (TreePath::root(), upper.marks.opaque);
        let lower = (!opaque).then_some(self.base);
        let attributes = upper.attributes.clone();
        let edit = Edit::Directory { attributes, opaque };
        self.edits.insert(path.clone(), edit);
        self.below(upper, &path, lower)
    }

    /// Walks what is in a directory whose lower entries are those of `lower`.
    fn below(
        &mut self,
        upper: &UpperEntry,
        path: &TreePath,
        lower: Option<TreeId>,
    ) -> Result<(), SnapshotError> {
        if path.depth() > DEPTH_MAX {
            return Err(unsupported(path, "directories are nested too deeply"));
        }
        let lower = lower.map(self.trees).transpose()?;
        for name in names(upper, path)? {
            let at = path.join(name.as_bytes());
            if self.edits.len() >= ENTRIES_MAX {
                return Err(unsupported(&at, "more than 4,194,304 entries were written"));
            }
            if self.excludes.matches(at.as_bytes()) {
                continue;
            }
            let found = UpperEntry::open(&upper.inode.handle, &name)
                .map_err(SnapshotError::at(&shown_path(&at)))?;
            let place = Place {
                path: &at,
                name: name.as_bytes(),
                marks: &upper.marks,
                lower: lower.as_deref(),
            };
            self.entry(found, &place)?;
        }
        Ok(())
    }

    fn entry(&mut self, upper: UpperEntry, place: &Place<'_>) -> Result<(), SnapshotError> {
        let edit = if upper.is_whiteout(place.marks) {
            self.changes.removed += u64::from(place.shown().is_some());
            Edit::Remove
        } else {
            match upper.inode.file_type() {
                FileType::Directory => return self.directory(&upper, place),
                FileType::Socket => {
                    // Of no use to another process, and what is bound to it is not captured.
                    self.skipped
                        .push(shown_path(place.path).display().to_string());
                    Edit::Remove
                }
                _ => self.leaf(upper, place)?,
            }
        };
        self.edits.insert(place.path.clone(), edit);
        Ok(())
    }

    fn directory(&mut self, upper: &UpperEntry, place: &Place<'_>) -> Result<(), SnapshotError> {
        let shown = place.shown();
        let lower = match self.lower_of(&upper.marks, place)?.map(|entry| entry.node) {
            Some(Node::Directory(id)) => Some(id),
            _ => None,
        };
        let attributes = upper.attributes.clone();
        let replaces = upper.marks.opaque || upper.marks.redirect.is_some();
        let edit = match lower {
            Some(tree) if upper.marks.redirect.is_some() => Edit::Graft {
                attributes,
                tree,
                links: GraftLinks::Base,
            },
            _ => Edit::Directory {
                attributes,
                opaque: replaces,
            },
        };
        let node = Node::Directory(lower.unwrap_or(self.base));
        self.count(&node, &upper.attributes, shown);
        if let (true, Some(Node::Directory(hidden))) = (replaces, shown.map(|entry| &entry.node)) {
            self.count_hidden(upper, place.path, *hidden)?;
        }
        self.edits.insert(place.path.clone(), edit);
        self.below(upper, place.path, lower)
    }

    fn leaf(&mut self, upper: UpperEntry, place: &Place<'_>) -> Result<Edit, SnapshotError> {
        let id = upper.inode.id();
        let linked = upper.inode.link_count() > 1;
        let (node, inode) = match self.links.get(&id).filter(|_| linked) {
            // What one name shows, all of them do; a change between two looks is a change.
            Some(first) if first.attributes != upper.attributes => {
                return Err(SnapshotError::Changed(shown_path(place.path)));
            }
            Some(first) => (first.node.clone(), Some(first.number)),
            None => (self.node(&upper, place)?, None),
        };
        let inode = match inode {
            None if linked => {
                let number = self.links.len() as u64;
                let link = Link {
                    number,
                    node: node.clone(),
                    attributes: upper.attributes.clone(),
                };
                self.links.insert(id, link);
                Some(number)
            }
            inode => inode,
        };
        self.count(&node, &upper.attributes, place.shown());
        Ok(Edit::Put {
            attributes: upper.attributes,
            node,
            inode,
        })
    }

    fn node(&mut self, upper: &UpperEntry, place: &Place<'_>) -> Result<Node, SnapshotError> {
        let inode = &upper.inode;
        let at = |fault: Fault| SnapshotError::at(&shown_path(place.path))(fault);
        Ok(match inode.file_type() {
            FileType::RegularFile => {
                let (content, size_bytes) = if upper.marks.metacopy {
                    self.lower_content(&upper.marks, place, inode)?
                } else {
                    self.contents.content(&shown_path(place.path), inode)?
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
                return Err(unsupported(place.path, "unknown type of file"));
            }
        })
    }

    /// Returns the content of a file whose bytes are in a lower layer.
    fn lower_content(
        &self,
        marks: &Marks,
        place: &Place<'_>,
        inode: &Inode,
    ) -> Result<(ContentId, u64), SnapshotError> {
        let lower = self.lower_of(marks, place)?;
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
            .ok_or_else(|| unsupported(place.path, "its data is in no layer of the base"))?;
        Ok((content, inode.size_bytes()))
    }

    /// Counts a name. What a directory holds counts by itself, and which names its inode has makes
    /// no difference.
    fn count(&mut self, node: &Node, attributes: &Attributes, before: Option<&Entry>) {
        let both_directories = |before: &Entry| {
            matches!(
                (&before.node, node),
                (Node::Directory(_), Node::Directory(_))
            )
        };
        match before {
            None => self.changes.added += 1,
            Some(before)
                if before.attributes == *attributes
                    && (before.node == *node || both_directories(before)) =>
            {
                return;
            }
            Some(_) => self.changes.modified += 1,
        }
        if let Node::File { size_bytes, .. } = node
            && before.is_none_or(|before| before.node != *node)
        {
            self.changes.bytes += size_bytes;
        }
    }

    /// Counts the entries of the base that a directory hides and that it has no other for.
    fn count_hidden(
        &mut self,
        upper: &UpperEntry,
        path: &TreePath,
        hidden: TreeId,
    ) -> Result<(), SnapshotError> {
        let names = names(upper, path)?;
        let has = |name: &[u8]| names.binary_search_by(|n| n.as_bytes().cmp(name)).is_ok();
        let hidden = (self.trees)(hidden)?;
        let gone = hidden.entries().iter().filter(|entry| !has(&entry.name));
        self.changes.removed += gone.count() as u64;
        Ok(())
    }
}

impl<C> std::fmt::Debug for Walk<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

fn names(upper: &UpperEntry, path: &TreePath) -> Result<Vec<CString>, SnapshotError> {
    let names = upper.names();
    names.map_err(SnapshotError::at(&shown_path(path)))
}

fn shown_path(path: &TreePath) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path.as_bytes()))
}

fn unsupported(path: &TreePath, reason: &str) -> SnapshotError {
    SnapshotError::Unsupported {
        path: shown_path(path),
        reason: reason.to_owned(),
    }
}
