//! Nodes over one store that fails when it is told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::testing::{Fault, FaultKind, FaultStore, memory_store};
use nacre_blobstore::{
    BlobStore, CHUNK_BYTES_AVERAGE, ChunkIndex, CrashHook, FsckOptions, GcOptions, Key,
    RegionWriter, StoreError, SystemClock, WriterOptions, fsck, gc,
};
use nacre_snapshotter::layer::LayerLimits;
use nacre_snapshotter::oci::Platform;
use nacre_snapshotter::{
    AddSource, CreateSnapshot, CreatedSnapshot, Ingest, NoProgress, Node, NodeOptions, Rung,
    Snapshot,
};
use tokio::runtime::Handle;

/// An image in a store that fails when it is told to, and a directory that somebody wrote to.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    /// What nodes are given.
    pub(crate) store: Arc<FaultStore>,
    pub(crate) image: String,
    pub(crate) region: Option<Arc<Region>>,
    pub(crate) bytes_max: u64,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(FaultStore::new(memory_store()));
        let image = directory.path().join("image");
        std::fs::create_dir(&image).unwrap();
        std::fs::write(image.join("base"), "of the image").unwrap();
        let shared: Arc<dyn BlobStore> = Arc::clone(&store) as _;
        let ingest = Ingest {
            store: shared,
            index: Arc::new(ChunkIndex::open(&directory.path().join("ingest")).unwrap()),
            clock: Arc::new(SystemClock::new()),
            limits: LayerLimits::default(),
            layers_at_once: 1,
            chunk_bytes: CHUNK_BYTES_AVERAGE,
            writer: WriterOptions::default(),
            holder: "test".to_owned(),
        };
        let source = AddSource::Directory(image);
        let added = ingest
            .add("image", source, &Platform::host(), Arc::new(NoProgress))
            .await
            .unwrap();
        std::fs::create_dir(directory.path().join("upper")).unwrap();
        Self {
            directory,
            store,
            image: added.id.to_string(),
            region: None,
            bytes_max: u64::MAX,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a node with the root `name`, which may be that of one before.
    pub(crate) fn node(&self, name: &str) -> Arc<Node> {
        let root = self.path(name);
        let options = NodeOptions {
            index: root.join("index"),
            root,
            store: Arc::clone(&self.store) as _,
            store_url: "memory:".to_owned(),
            cache: nacre_fs::NodeCacheOptions::default(),
            region: None,
            wait_max: nacre_blobstore::READ_WAIT_MAX,
            check_one_in: 0,
            writes_through: self.region.clone().map(|region| region as _),
            pending_bytes_max: self.bytes_max,
            clock: Arc::new(SystemClock::new()),
            crash: CrashHook::default(),
            keeper: None,
        };
        Arc::new(Node::start(options, Handle::current()).unwrap())
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("upper").join(name), text).unwrap();
    }

    pub(crate) fn request(&self, wait: Rung) -> CreateSnapshot {
        CreateSnapshot {
            sandbox: "s".to_owned(),
            upper: self.path("upper"),
            state: self.path("state"),
            started_from: self.image.clone(),
            tree: None,
            cgroup: None,
            path: "/".to_owned(),
            name: None,
            ttl_ms: None,
            key: None,
            excludes: Vec::new(),
            labels: BTreeMap::new(),
            wait,
        }
    }

    pub(crate) async fn local(&self, node: &Node, name: &str) -> CreatedSnapshot {
        let request = CreateSnapshot {
            name: Some(name.to_owned()),
            ..self.request(Rung::Local)
        };
        let created = node.create_snapshot(request).await.unwrap();
        assert_eq!(created.durability, Rung::Local);
        created
    }

    /// The store answers nothing from now on.
    pub(crate) fn die(&self) {
        self.store.inject(Fault::new(FaultKind::FailBefore));
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let listed = Snapshot::list(&*self.store).await.unwrap();
        listed.into_iter().map(|found| found.name).collect()
    }

    pub(crate) async fn fsck(&self) {
        let index = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(index.path()).unwrap());
        let options = FsckOptions {
            read_data: true,
            rebuild_index: false,
        };
        let store: Arc<dyn BlobStore> = Arc::clone(&self.store) as _;
        let report = fsck(store, index, options).await.unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }

    /// Waits until nothing is staged.
    pub(crate) async fn swept(&self, node: &str) {
        while self.staged(node) > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Files that `node` has staged.
    pub(crate) fn staged(&self, node: &str) -> usize {
        fn files(path: &Path) -> usize {
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
            let count = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
                true => files(&entry.path()),
                false => usize::from(entry.file_name() != "#lock"),
            };
            entries.map(count).sum()
        }
        files(&self.path(node).join("pending"))
    }
}

/// Waits until nothing of that name is pending.
pub(crate) async fn durable(node: &Node, name: &str) {
    while let Some(stands) = node.wait_snapshot(name, Rung::Durable).await {
        assert!(!stands.failed, "{stands:?}");
    }
}

/// Waits until there is something to tell of a pending snapshot.
pub(crate) async fn told(node: &Node) -> nacre_snapshotter::PendingSnapshot {
    loop {
        let pending = node.pending_snapshots();
        if let Some(found) = pending.into_iter().find(|found| found.error.is_some()) {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

/// Collects without a hold, twice, as another node would.
pub(crate) async fn collect(bench: &Bench) {
    for _ in 0..3 {
        let options = GcOptions {
            hold: Duration::ZERO,
            ..GcOptions::default()
        };
        let store: Arc<dyn BlobStore> = Arc::clone(&bench.store) as _;
        gc(store, Arc::new(SystemClock::new()), options)
            .await
            .unwrap();
    }
}

/// A region's cache that keeps what it is given.
#[derive(Debug, Default)]
pub(crate) struct Region {
    pub(crate) objects: std::sync::Mutex<Vec<Key>>,
}

#[async_trait::async_trait]
impl RegionWriter for Region {
    async fn put(&self, key: &Key, _body: Bytes) -> Result<(), StoreError> {
        self.objects.lock().unwrap().push(key.clone());
        Ok(())
    }
}
