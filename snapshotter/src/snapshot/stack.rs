//! File systems as the directories of their layers make them, over a tree or over nothing.
//!
//! ```text
//! tree of the base --directory of a layer--> tree --directory of the next--> tree
//! ```
//! The trees are in memory and made of names and attributes alone: no file is read and nothing is
//! stored. What a file holds stays where it is, behind an id that stands for it. Costs what the
//! directories hold and the listings of those of the base that they touch, some 300 bytes an entry.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nacre_blobstore::{
    Attributes, ContentId, Digest, Edit, EditedTree, ReadError, Reader, Tree, TreeId, TreePath,
    TreeReader, edit_tree,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::error::SnapshotError;
use super::glob::Globs;
use super::overlay::{FileContents, Walk};
use super::upper::UpperEntry;

/// A file system under construction.
pub(crate) struct Stack {
    reader: Arc<Reader>,
    root: TreeId,
    trees: HashMap<TreeId, Arc<Tree>>,
    files: Files,
    skipped: Vec<String>,
}

/// The files of directories, by what stands for their contents.
struct Files {
    /// No file of anyone has a content with one of these ids.
    nonce: [u8; 16],
    directory: Arc<Path>,
    found: HashMap<ContentId, (Arc<Path>, TreePath)>,
}

impl Stack {
    /// Starts with a file system of `reader`, or with an empty directory.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] without random numbers.
    pub(crate) fn new(reader: Arc<Reader>, base: Option<TreeId>) -> Result<Self, SnapshotError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| SnapshotError::Io {
            verb: "read",
            path: "random numbers".into(),
            source: io::Error::other(error.to_string()),
        })?;
        let mut trees = HashMap::new();
        let root = match base {
            Some(base) => base,
            None => {
                let mut add = |tree: Tree| -> Result<TreeId, SnapshotError> {
                    let (id, _) = tree.encode()?;
                    trees.insert(id, Arc::new(tree));
                    Ok(id)
                };
                let directory = add(Tree::default())?;
                add(Tree::root(Attributes::default(), directory)?)?
            }
        };
        Ok(Self {
            reader,
            root,
            trees,
            files: Files {
                nonce,
                directory: Path::new("").into(),
                found: HashMap::new(),
            },
            skipped: Vec::new(),
        })
    }

    /// Lays the directory of a layer, as overlayfs keeps it, on top. Blocks; not for the reactor.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is on top then.
    pub(crate) fn add(&mut self, upper: &Path, runtime: &Handle) -> Result<(), SnapshotError> {
        self.files.directory = upper.into();
        let edits = self.edits(upper, runtime)?;
        let edited = runtime.block_on(edit_tree(&*self, self.root, &edits));
        let EditedTree { root, trees } = edited?;
        for (id, bytes) in trees {
            self.trees.insert(id, Arc::new(Tree::decode(id, &bytes)?));
        }
        self.root = root;
        Ok(())
    }

    fn edits(
        &mut self,
        upper: &Path,
        runtime: &Handle,
    ) -> Result<BTreeMap<TreePath, Edit>, SnapshotError> {
        let (known, reader, root) = (&self.trees, &self.reader, self.root);
        let trees = |id| runtime.block_on(tree(known, reader, id));
        let base = trees(root)?.as_root().map(|(_, tree)| tree);
        let base =
            base.ok_or_else(|| SnapshotError::Invalid(format!("tree {root} is not a root")))?;
        let excludes = Globs::default();
        let mut walk = Walk::new(&trees, &mut self.files, &excludes, base);
        walk.root(&UpperEntry::root(upper)?)?;
        self.skipped = walk.skipped;
        Ok(walk.edits)
    }

    /// Returns the root as it is now; its trees are read from this.
    pub(crate) const fn root(&self) -> TreeId {
        self.root
    }

    /// Returns what reads the file systems below all directories.
    pub(crate) const fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Returns the paths of the last directory that were left out: sockets.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Opens the file that a content stands for, with its path; `None` for one that `reader` has.
    /// Whoever may write to the directory cannot lead this out of it.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] when the file is gone, [`SnapshotError::Io`].
    pub(crate) fn open(
        &self,
        content: ContentId,
    ) -> Result<Option<(File, PathBuf)>, SnapshotError> {
        let Some((directory, path)) = self.files.found.get(&content) else {
            return Ok(None);
        };
        let shown = directory.join(OsStr::from_bytes(path.as_bytes()));
        let open = || -> Result<File, Errno> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&**directory, flags, Mode::empty())?;
            // A pipe that took the place of the file must not hold this up.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let path = path.as_bytes();
            rustix::fs::openat2(directory, path, flags, Mode::empty(), within).map(File::from)
        };
        let fail = |source| SnapshotError::Io {
            verb: "read",
            path: shown.clone(),
            source,
        };
        let file = match open() {
            // The path does not lead any more where it led.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => None,
            opened => Some(opened.map_err(|error| fail(error.into()))?),
        };
        match file {
            Some(file) if file.metadata().map_err(fail)?.is_file() => Ok(Some((file, shown))),
            _ => Err(SnapshotError::Changed(shown)),
        }
    }
}

async fn tree(
    known: &HashMap<TreeId, Arc<Tree>>,
    reader: &Reader,
    id: TreeId,
) -> Result<Arc<Tree>, ReadError> {
    match known.get(&id) {
        Some(tree) => Ok(Arc::clone(tree)),
        None => reader.tree(id).await,
    }
}

#[async_trait::async_trait]
impl TreeReader for Stack {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        tree(&self.trees, &self.reader, id).await
    }
}

impl FileContents for Files {
    fn content(
        &mut self,
        path: &Path,
        inode: &crate::layer::Inode,
    ) -> Result<(ContentId, u64), SnapshotError> {
        let mut text = self.nonce.to_vec();
        text.extend((self.found.len() as u64).to_le_bytes());
        let stand_in = ContentId::new(Digest::of(&text));
        let below = TreePath::parse(path.as_os_str().as_bytes());
        let below = below.map_err(|error| SnapshotError::Invalid(error.to_string()))?;
        let place = (Arc::clone(&self.directory), below);
        self.found.insert(stand_in, place);
        Ok((stand_in, inode.size_bytes()))
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
