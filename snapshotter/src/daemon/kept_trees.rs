//! The trees of images that FUSE serves, kept on the node's disk.
//!
//! In kernel mode the node has all names and attributes of an image in one file. By FUSE they come as
//! they are asked for. The reader keeps what it reads; so that a machine which starts again without the
//! store serves an image whole, the rest is read behind its first opening, when its start is over.
//! A walk that fails begins again with the next opening.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use nacre_blobstore::{
    Clock, KeptError, KeptItems, Node as EntryNode, ReadError, Reader, TreeId, TreeReader,
    read_root,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Space that trees and chunk lists may take, in bytes, as metadata images may in kernel mode.
const KEPT_BYTES_MAX: u64 = 1 << 30;
/// How long after its opening an image is walked: its start comes first.
const START_TAKES: Duration = Duration::from_secs(10);
/// After this time an image that is opened is walked again, so that its trees count as used.
const WALK_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Images that wait to be walked; of others what is read is kept.
const QUEUE_MAX: usize = 1024;
/// Images of which is remembered that they were walked; beyond them all is forgotten.
const WALKED_MAX: usize = 4096;
/// Directories that one walk reads at once.
const READS_MAX: usize = 8;
/// Directories of one image that are walked; those beyond are kept when they are read.
const DIRECTORIES_MAX: usize = 1 << 18;

/// The folder, below the root of a node.
pub(super) const KEPT_FOLDER: &str = "trees";

/// Trees on the node's disk.
#[derive(Debug)]
pub(super) struct KeptTrees {
    kept: Arc<KeptItems>,
    clock: Arc<dyn Clock>,
    /// When each was walked, or is to be.
    walked: Arc<Mutex<HashMap<TreeId, Duration>>>,
    queue: mpsc::Sender<(TreeId, Duration)>,
    walker: JoinHandle<()>,
}

impl KeptTrees {
    /// Opens what is kept below the root of a node.
    pub(super) fn open(root: &Path) -> Result<Arc<KeptItems>, KeptError> {
        KeptItems::open(&root.join(KEPT_FOLDER), KEPT_BYTES_MAX).map(Arc::new)
    }

    /// Starts the walks, by a reader that keeps what it reads in `kept`. Must be called in a runtime.
    pub(super) fn start(kept: Arc<KeptItems>, reader: Arc<Reader>, clock: Arc<dyn Clock>) -> Self {
        let (queue, wanted) = mpsc::channel(QUEUE_MAX);
        let walked = Arc::<Mutex<HashMap<_, _>>>::default();
        let walker = Walker {
            kept: Arc::clone(&kept),
            reader,
            clock: Arc::clone(&clock),
            walked: Arc::clone(&walked),
        };
        Self {
            kept,
            clock,
            walked,
            queue,
            walker: tokio::spawn(walker.run(wanted)),
        }
    }

    /// Tells whether the root of a tree can be read without the store.
    pub(super) fn has(&self, tree: TreeId) -> bool {
        let root = self.kept.tree(tree);
        let top = root.and_then(|(root, _)| Some(root.as_root()?.1));
        top.is_some_and(|top| self.kept.tree(top).is_some())
    }

    /// Has all of a tree kept, soon, unless that was done lately.
    pub(super) fn want(&self, tree: TreeId) {
        let due = self.clock.elapsed() + START_TAKES;
        let mut walked = lock(&self.walked);
        let last = walked.get(&tree);
        if last.is_some_and(|last| due.saturating_sub(*last) < WALK_AGAIN_AFTER) {
            return;
        }
        if walked.len() >= WALKED_MAX {
            walked.clear();
        }
        if self.queue.try_send((tree, due)).is_ok() {
            walked.insert(tree, due);
        }
    }

    /// Ends the walks.
    pub(super) fn stop(&self) {
        self.walker.abort();
    }
}

impl Drop for KeptTrees {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Walks one tree after the other.
struct Walker {
    kept: Arc<KeptItems>,
    reader: Arc<Reader>,
    clock: Arc<dyn Clock>,
    walked: Arc<Mutex<HashMap<TreeId, Duration>>>,
}

impl Walker {
    async fn run(self, mut wanted: mpsc::Receiver<(TreeId, Duration)>) {
        while let Some((tree, due)) = wanted.recv().await {
            let wait = due.saturating_sub(self.clock.elapsed());
            if !wait.is_zero() {
                self.clock.sleep(wait).await;
            }
            match walk(&*self.reader, tree).await {
                Ok(directories) => {
                    let kept = Arc::clone(&self.kept);
                    drop(tokio::task::spawn_blocking(move || kept.sync()).await);
                    tracing::debug!(%tree, directories, "kept a tree");
                }
                Err(error) => {
                    tracing::info!(%tree, %error, "keep a part of a tree");
                    lock(&self.walked).remove(&tree);
                }
            }
        }
    }
}

/// Reads all directories of a file system, and returns how many there are.
async fn walk<R: TreeReader + ?Sized>(trees: &R, root: TreeId) -> Result<usize, ReadError> {
    let EntryNode::Directory(top) = read_root(trees, root).await?.node else {
        return Ok(0);
    };
    let mut seen = HashSet::from([top]);
    let mut left = vec![top];
    while !left.is_empty() {
        // The last first: neighbours are in one frame.
        let next = left.split_off(left.len().saturating_sub(READS_MAX));
        let read = try_join_all(next.into_iter().rev().map(|id| trees.tree(id))).await?;
        for entry in read.iter().flat_map(|tree| tree.entries()) {
            if let EntryNode::Directory(id) = entry.node
                && seen.len() < DIRECTORIES_MAX
                && seen.insert(id)
            {
                left.push(id);
            }
        }
    }
    Ok(seen.len())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::testing::{FaultStore, TokioClock, memory_store};
    use nacre_blobstore::{
        Attributes, BlobStore, ChunkIndex, Entry, ItemKind, Origin, PackKind, PackWriter,
        ReaderOptions, Tree, WriterOptions,
    };
    use tokio::runtime::Handle;

    use super::*;

    fn directory(name: &str, id: TreeId) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            attributes: Attributes::default(),
            node: EntryNode::Directory(id),
            hard_link: None,
        }
    }

    /// Stores a root with directories in directories; returns it, and the lowest of these.
    async fn fill(store: &Arc<dyn BlobStore>, index: &Arc<ChunkIndex>) -> (TreeId, TreeId) {
        let (store, index) = (Arc::clone(store), Arc::clone(index));
        let handle = Handle::current();
        let options = WriterOptions::default();
        let writer = PackWriter::new(PackKind::Tree, store, index, handle, options);
        let written = tokio::task::spawn_blocking(move || {
            let mut stream = writer.stream();
            let mut add = |entries| {
                let (id, bytes) = Tree::new(entries).unwrap().encode().unwrap();
                stream.add_metadata(ItemKind::Tree(id), &bytes).unwrap();
                id
            };
            let lowest = add(Vec::new());
            let middle = add(vec![directory("a", lowest), directory("b", lowest)]);
            let top = add(vec![directory("c", middle)]);
            let (id, bytes) = Tree::root(Attributes::default(), top)
                .unwrap()
                .encode()
                .unwrap();
            stream.add_metadata(ItemKind::Tree(id), &bytes).unwrap();
            stream.flush().unwrap();
            drop(stream);
            writer.finish().unwrap();
            (id, lowest)
        });
        written.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_of_a_tree_that_was_opened_is_there_without_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(&folder.path().join("index")).unwrap());
        let faults = Arc::new(FaultStore::new(memory_store()));
        let store = Arc::clone(&faults) as Arc<dyn BlobStore>;
        let (root, lowest) = fill(&store, &index).await;
        let reader = |kept: &Arc<KeptItems>| {
            let sources = vec![Arc::new(Origin::new(Arc::clone(&store))) as _];
            let options = ReaderOptions {
                tree_cache_bytes: 0,
                frame_cache_bytes: 0,
                ahead_cache_bytes: 0,
                ..ReaderOptions::default()
            };
            let reader = Reader::new(Arc::clone(&index), sources, options);
            Arc::new(reader.keeping(Arc::clone(kept)))
        };
        let kept = KeptTrees::open(folder.path()).unwrap();
        let walker = Walker {
            kept: Arc::clone(&kept),
            reader: reader(&kept),
            clock: Arc::new(TokioClock::new()),
            walked: Arc::default(),
        };
        // What cannot be had now is walked when it is wanted again.
        faults.set_partitioned(true);
        lock(&walker.walked).insert(root, Duration::ZERO);
        let (queue, wanted) = mpsc::channel(2);
        queue.send((root, Duration::ZERO)).await.unwrap();
        let walked = Arc::clone(&walker.walked);
        let running = tokio::spawn(walker.run(wanted));
        while lock(&walked).contains_key(&root) {
            tokio::task::yield_now().await;
        }
        assert!(kept.tree(lowest).is_none());
        faults.set_partitioned(false);
        queue.send((root, Duration::ZERO)).await.unwrap();
        drop(queue);
        running.await.unwrap();

        faults.set_partitioned(true);
        assert_eq!(walk(&*reader(&kept), root).await.unwrap(), 3);
        let reader = reader(&kept);
        let trees = KeptTrees::start(kept, reader, Arc::new(TokioClock::new()));
        assert!(trees.has(root));
        assert!(!trees.has(lowest), "it is no root");
        let due = |trees: &KeptTrees| lock(&trees.walked).get(&root).copied();
        trees.want(root);
        let first = due(&trees);
        assert!(first.is_some());
        trees.want(root);
        assert_eq!(due(&trees), first, "it is wanted once");
    }
}
