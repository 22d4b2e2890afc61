//! Sandboxes without processes: real overlays over the files of a tree, and snapshots of them in a
//! store in memory, taken as the daemon does.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{
    BlobStore, ChunkIndex, CrashHook, CrashPoint, Digest, FsckOptions, GcOptions, ItemKind, Key,
    Lease, Node, Origin, PackKind, PackWriter, Reader, ReaderOptions, Record, RecordKind, Ref,
    SecureError, SystemClock, Tree, TreeId, TreePath, TreeReader, WriterOptions, delete_ref, fsck,
    gc, secure, sync_index, write_ref,
};
use nacre_fs::mount::{Lower, OverlaySpec, Umount, UpperDirs, overlay, umount};
use tokio::runtime::Runtime;

use super::super::*;
use super::files::{Bytes, Shown};

/// A snapshot in the store.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) tree: TreeId,
    pub(super) record: Record,
}

/// An overlay, unmounted when it is dropped.
pub(super) struct Sandbox {
    folder: PathBuf,
    pub(super) from: Made,
}

impl Sandbox {
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("merged")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(umount(&self.root(), Umount::Detach));
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// A node and the store.
pub(super) struct Scene {
    scratch: tempfile::TempDir,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) runtime: Runtime,
    pub(super) tools: Tools,
    /// What checks of the store know it by.
    checking: Arc<ChunkIndex>,
    made: AtomicU64,
}

impl Scene {
    pub(super) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = memory_store();
        let tools = Self::tools(&store, &runtime, &scratch.path().join("index-0"));
        let checking = ChunkIndex::open(&scratch.path().join("checking")).unwrap();
        Self {
            scratch,
            store,
            runtime,
            tools,
            checking: Arc::new(checking),
            made: AtomicU64::new(1),
        }
    }

    fn tools(store: &Arc<dyn BlobStore>, runtime: &Runtime, index: &Path) -> Tools {
        let index = Arc::new(ChunkIndex::open(index).unwrap());
        let origin = Arc::new(Origin::new(Arc::clone(store)));
        let options = ReaderOptions::default();
        Tools {
            store: Arc::clone(store),
            reader: Arc::new(Reader::new(Arc::clone(&index), vec![origin], options)),
            index,
            clock: Arc::new(SystemClock::new()),
            writer: WriterOptions::default(),
            runtime: runtime.handle().clone(),
            notes: PathBuf::new(),
        }
    }

    fn number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed)
    }

    /// Loses what the node knows, as a new node does.
    pub(super) fn forget(&mut self) {
        let index = self.scratch.path().join(format!("index-{}", self.number()));
        self.tools = Self::tools(&self.store, &self.runtime, &index);
        let synced = sync_index(&self.store, &self.tools.index);
        assert!(self.runtime.block_on(synced).unwrap().is_empty());
    }

    /// Stores a file system of nothing.
    pub(super) fn empty(&self) -> Made {
        let (directory, bytes) = Tree::default().encode().unwrap();
        let attributes = nacre_blobstore::Attributes {
            mode: 0o755,
            ..Default::default()
        };
        let (root, root_bytes) = Tree::root(attributes, directory).unwrap().encode().unwrap();
        let writer = PackWriter::new(
            PackKind::Tree,
            Arc::clone(&self.store),
            Arc::clone(&self.tools.index),
            self.runtime.handle().clone(),
            WriterOptions::default(),
        );
        let mut stream = writer.stream();
        for (id, bytes) in [(directory, bytes), (root, root_bytes)] {
            stream.add_metadata(ItemKind::Tree(id), &bytes).unwrap();
        }
        stream.flush().unwrap();
        drop(stream);
        writer.finish().unwrap();
        let items = [ItemKind::Tree(directory), ItemKind::Tree(root)];
        let record = record(root, self.tools.index.packs_of(items).unwrap().0);
        self.publish(record).unwrap()
    }

    /// Starts a sandbox: unpacks a tree and mounts an overlay over it.
    pub(super) fn start(&self, from: &Made) -> Sandbox {
        let folder = self.scratch.path().join(format!("s{}", self.number()));
        for part in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let lower = folder.join("lower");
        self.unpack(from.tree, &lower);
        let mode = fs::metadata(&lower).unwrap().permissions();
        fs::set_permissions(folder.join("upper"), mode).unwrap();
        overlay(&OverlaySpec {
            lower: Lower::directory(lower),
            upper: Some(UpperDirs {
                upper: folder.join("upper"),
                work: folder.join("work"),
            }),
            target: folder.join("merged"),
            options: vec!["redirect_dir=on".to_owned(), "metacopy=on".to_owned()],
        })
        .unwrap();
        let from = from.clone();
        Sandbox { folder, from }
    }

    fn tree(&self, id: TreeId) -> Arc<Tree> {
        self.tree_in(&*self.tools.reader, id)
    }

    fn tree_in(&self, trees: &dyn TreeReader, id: TreeId) -> Arc<Tree> {
        self.runtime.block_on(trees.tree(id)).unwrap()
    }

    fn unpack(&self, root: TreeId, to: &Path) {
        let mut first: HashMap<[u8; 16], PathBuf> = HashMap::new();
        let root = self.tree(root);
        let (attributes, directory) = root.as_root().unwrap();
        let mut modes = vec![(to.to_owned(), attributes.mode)];
        let mut pending = vec![(to.to_owned(), directory)];
        while let Some((folder, directory)) = pending.pop() {
            for entry in self.tree(directory).entries() {
                let path = folder.join(std::str::from_utf8(&entry.name).unwrap());
                let link = entry.hard_link.map(|link| link.group);
                if let Some(first) = link.and_then(|group| first.get(&group)) {
                    fs::hard_link(first, &path).unwrap();
                    continue;
                }
                match &entry.node {
                    Node::Directory(id) => {
                        fs::create_dir(&path).unwrap();
                        pending.push((path.clone(), *id));
                    }
                    Node::File {
                        content,
                        size_bytes,
                    } => fs::write(&path, self.read(*content, *size_bytes)).unwrap(),
                    Node::Symlink(target) => {
                        symlink(std::str::from_utf8(target).unwrap(), &path).unwrap();
                    }
                    other => panic!("{other:?} in a model"),
                }
                if !matches!(entry.node, Node::Symlink(_)) {
                    modes.push((path.clone(), entry.attributes.mode));
                }
                first.extend(link.map(|group| (group, path)));
            }
        }
        for (path, mode) in modes {
            fs::set_permissions(path, Permissions::from_mode(mode.into())).unwrap();
        }
    }

    fn read(&self, content: nacre_blobstore::ContentId, size_bytes: u64) -> Vec<u8> {
        let reader = &self.tools.reader;
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            let list = reader.chunk_list(content, size_bytes).await.unwrap();
            for extent in list.extents() {
                bytes.extend_from_slice(reader.chunk(extent.id).await.unwrap().bytes());
            }
            bytes
        })
    }

    /// Returns what a tree shows.
    pub(super) fn shown(&self, root: TreeId) -> BTreeMap<TreePath, Shown> {
        self.shown_in(&*self.tools.reader, root)
    }

    pub(super) fn shown_in(
        &self,
        trees: &dyn TreeReader,
        root: TreeId,
    ) -> BTreeMap<TreePath, Shown> {
        let root = self.tree_in(trees, root);
        let (attributes, directory) = root.as_root().unwrap();
        let top = Shown {
            mode: attributes.mode,
            bytes: Bytes::Directory,
            link: None,
        };
        let mut shown = BTreeMap::from([(TreePath::root(), top)]);
        let mut pending = vec![(TreePath::root(), directory)];
        while let Some((at, directory)) = pending.pop() {
            for entry in self.tree_in(trees, directory).entries() {
                let path = at.join(&entry.name);
                let bytes = match &entry.node {
                    Node::Directory(id) => {
                        pending.push((path.clone(), *id));
                        Bytes::Directory
                    }
                    Node::File {
                        content,
                        size_bytes,
                    } => Bytes::File(*content, *size_bytes),
                    Node::Symlink(target) => Bytes::Symlink(Digest::of(target)),
                    other => panic!("{other:?} in a model"),
                };
                let (mode, link) = (entry.attributes.mode, entry.hard_link);
                shown.insert(path, Shown { mode, bytes, link });
            }
        }
        shown
    }

    /// Takes a snapshot as the daemon does, and dies at a point if one is given.
    pub(super) fn snapshot(
        &self,
        sandbox: &Sandbox,
        crash: Option<CrashPoint>,
    ) -> Result<Made, SnapshotError> {
        match self.snapshot_once(sandbox, crash) {
            Err(SnapshotError::Missing(_) | SnapshotError::Secure(SecureError::Gone(_))) => {
                drop(fs::remove_file(sandbox.folder.join("state")));
                let synced = sync_index(&self.store, &self.tools.index);
                self.runtime.block_on(synced).unwrap();
                self.snapshot_once(sandbox, crash)
            }
            made => made,
        }
    }

    fn snapshot_once(
        &self,
        sandbox: &Sandbox,
        crash: Option<CrashPoint>,
    ) -> Result<Made, SnapshotError> {
        let mut tools = self.tools.clone();
        tools.writer.crash = CrashHook::new(move |reached| {
            assert!(Some(reached) != crash, "killed at {}", reached.name());
        });
        let state = sandbox.folder.join("state");
        let capture = Capture {
            upper: sandbox.folder.join("upper"),
            state: state.clone(),
            base: sandbox.from.tree,
            cgroup: None,
            path: "/".to_owned(),
            excludes: Globs::default(),
        };
        let captured = tools.capture(&capture)?;
        let (mut packs, missing) = self.tools.index.packs_of(captured.items.iter().copied())?;
        if let Some(item) = missing.first() {
            return Err(SnapshotError::Missing(item.to_string()));
        }
        packs.extend(&sandbox.from.record.packs);
        let made = self.publish(record(captured.tree, packs))?;
        self.check_stack(&capture, captured.tree);
        captured.remember("/", made.name.clone(), &state, sandbox.from.tree);
        Ok(made)
    }

    /// Checks that the directory of a layer makes the same file system in memory as in the store.
    fn check_stack(&self, capture: &Capture, captured: TreeId) {
        let reader = Arc::clone(&self.tools.reader);
        let mut stack = Stack::new(reader, Some(capture.base)).unwrap();
        stack.add(&capture.upper, self.runtime.handle()).unwrap();
        let mut shown = self.shown_in(&stack, stack.root());
        let expected = self.shown(captured);
        for (path, shown) in &mut shown {
            if let Bytes::File(content, size) = &mut shown.bytes
                && let Some((mut file, _)) = stack.open(*content).unwrap()
                && let Some(Bytes::File(stored, stored_size)) = expected.get(path).map(|e| e.bytes)
            {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!((*size, &bytes), (stored_size, &self.read(stored, *size)));
                *content = stored;
            }
        }
        assert_eq!(shown, expected);
    }

    fn publish(&self, record: Record) -> Result<Made, SnapshotError> {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.tools.clock));
        let name = format!("snapshot-{}", self.number());
        let made = Made {
            tree: record.trees[0],
            name,
            record,
        };
        self.runtime.block_on(async {
            let lease = Lease::acquire(Arc::clone(&store), Arc::clone(&clock), &made.name, "test");
            let lease = lease.await?;
            let published = async {
                let id = made.record.write(&*store).await?;
                let secured = secure(&*store, &*clock, id, &made.record, None).await?;
                lease.check()?;
                secured.check(&*clock)?;
                let target = Ref {
                    record: id,
                    changed_ms: clock.now_ms(),
                };
                write_ref(&*store, &snapshot_ref(&made.name)?, target, None).await?;
                Ok(())
            };
            let published: Result<(), SnapshotError> = published.await;
            lease.release().await?;
            published
        })?;
        Ok(made)
    }

    /// Takes the name of a snapshot away.
    pub(super) fn remove(&self, made: &Made) {
        let reference = snapshot_ref(&made.name).unwrap();
        let removed = delete_ref(&*self.store, &reference);
        self.runtime.block_on(removed).unwrap();
    }

    /// Collects what no snapshot needs, at once.
    pub(super) fn collect(&self) -> u64 {
        let run = || {
            let options = GcOptions {
                hold: std::time::Duration::ZERO,
                ..GcOptions::default()
            };
            let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.tools.clock));
            self.runtime.block_on(gc(store, clock, options)).unwrap()
        };
        run();
        run().deleted
    }

    /// Takes away the leases of those who died, as if their time were over.
    pub(super) fn expire_leases(&self) {
        self.runtime.block_on(async {
            let listed: Vec<_> = self.store.list("leases").try_collect().await.unwrap();
            for lease in listed {
                let key: Key = lease.key;
                self.store.delete(&key).await.unwrap();
            }
        });
    }

    /// Checks every byte that a snapshot needs.
    pub(super) fn check(&self) {
        let index = Arc::clone(&self.checking);
        let options = FsckOptions {
            read_data: true,
            rebuild_index: false,
        };
        let report = fsck(Arc::clone(&self.store), index, options);
        let report = self.runtime.block_on(report).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }
}

fn record(tree: TreeId, packs: std::collections::BTreeSet<nacre_blobstore::PackName>) -> Record {
    Record {
        kind: RecordKind::Snapshot,
        trees: vec![tree],
        packs,
        metadata_images: Default::default(),
        payload: Vec::new(),
    }
}
