//! What the daemon owns.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, CatalogError, ChunkIndex, ChunkSource, Clock, CrashHook, IndexError, Origin,
    PackLoader, ReadError, Reader, ReaderOptions, RecordId, RegionWriter, SpanStore, StagedStore,
    TraceError, TreePathError,
};
use nacre_fs::erofs::ErofsError;
use nacre_fs::{
    ContentMount, ContentSession, KeeperOptions, MetadataMountError, MetadataMounts, NodeCache,
    NodeCacheError, NodeCacheOptions, SessionError, View, probe_kernel_mode,
};
use nacre_region_cache::{RegionCache, RegionStore};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::api::{FinishedTrace, NodeInfo};
use super::cache::recheck;
use super::kept_trees::KeptTrees;
use super::open::Opening;
use super::pending::{Pending, Uploads};
use super::upkeep::keep_up;
use crate::containerd::{ContainerError, Containerd};
use crate::hints::HintedReader;
use crate::image::ImageError;
use crate::snapshot::{SnapshotError, thaw_noted};
use crate::trace::Traces;

/// Why trees are served by the kernel where they are.
pub const KERNEL_MODE_REASON: &str = "the kernel serves names, attributes and cached data itself";

/// How long a node that is handed over waits for fetches (until it has ended all readers wait), and
/// one that is stopped for the kernel.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// The folder of all contents, below the mount point.
pub(super) const GATE_FOLDER: &str = "content";

/// Where sandboxes are noted while they are frozen, below the root.
pub(super) const FROZEN_FOLDER: &str = "frozen";

/// How to set up a node.
#[derive(Debug)]
pub struct NodeOptions {
    /// Directory of the cache, the mount and the state.
    pub root: PathBuf,
    /// Directory of the index.
    pub index: PathBuf,
    /// The store, and how it is called.
    pub store: Arc<dyn BlobStore>,
    /// The store's URL, for people.
    pub store_url: String,
    /// Limits of the cache.
    pub cache: NodeCacheOptions,
    /// The region's cache between this node and the store, if there is one.
    pub region: Option<Arc<RegionCache>>,
    /// How long a request of the kernel waits for what is not on the node, all in all: it fails with
    /// `EIO` then.
    pub wait_max: Duration,
    /// One start in so many is checked for what of its trace it reads; 0: none.
    pub check_one_in: u32,
    /// What takes snapshots before they are durable: the region's cache, if there is one.
    pub writes_through: Option<Arc<dyn RegionWriter>>,
    /// Bytes of what is not durable yet at which creations wait.
    pub pending_bytes_max: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What tests do at each point of the making of a snapshot.
    pub crash: CrashHook,
    /// What keeps the mount when this process ends; without it the mount ends too.
    pub keeper: Option<KeeperOptions>,
}

/// Why a node cannot start, or cannot open an image.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A directory cannot be made.
    #[error("create {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The cache cannot be opened.
    #[error(transparent)]
    Cache(#[from] NodeCacheError),
    /// The content cannot be mounted.
    #[error(transparent)]
    Mount(#[from] SessionError),
    /// The image is not to be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The packs of an image cannot be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The metadata of the image cannot be mounted.
    #[error(transparent)]
    Metadata(#[from] MetadataMountError),
    /// The image has no metadata image and none can be built.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The region was to be primed.
    #[error("this node has no region cache")]
    NoRegion,
    /// Kernel mode was asked for.
    #[error("this node has no kernel mode: {0}")]
    Mode(String),
    /// The image has no file system.
    #[error("image {0:?} has no file system")]
    NoTree(String),
    /// The file system has nothing at the path that is named.
    #[error("{name} has nothing at {path} (symlinks are not followed)")]
    NoPath {
        /// Its name.
        name: String,
        /// The path.
        path: String,
    },
    /// The path that is named can be none.
    #[error(transparent)]
    Path(#[from] TreePathError),
    /// A tree or a file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A recorded start cannot be stored.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A snapshot is not made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A container of containerd is not to be had.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The store has not given a record in time.
    #[error("the store has not given record {0} in time")]
    Late(RecordId),
    /// A task of the daemon ended early.
    #[error("a task of the daemon ended early")]
    Stopped,
}

/// A serving node.
#[derive(Debug)]
pub struct Node {
    pub(crate) options: NodeOptions,
    /// The store with what is staged in front of it. Names are in `options.store` alone.
    pub(crate) store: Arc<dyn BlobStore>,
    pub(super) pending: Arc<Pending>,
    /// None once the node was stopped.
    uploads: Mutex<Option<Uploads>>,
    pub(super) index: Arc<ChunkIndex>,
    pub(super) loader: Arc<PackLoader>,
    pub(super) reader: Arc<Reader>,
    /// None where the disk does not take them.
    pub(super) kept: Option<KeptTrees>,
    pub(super) cache: Arc<NodeCache>,
    pub(super) opening: Opening,
    pub(crate) containerd: Arc<Containerd>,
    view: Arc<View>,
    pub(super) traces: Traces,
    mount_point: PathBuf,
    /// None once the node was stopped.
    session: Mutex<Option<ContentSession>>,
    handover: Notify,
}

impl Node {
    /// Opens index and cache and mounts the content, or goes on with the mount that a keeper holds.
    /// Needs no network.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn start(options: NodeOptions, runtime: Handle) -> Result<Self, NodeError> {
        let mount_point = options.root.join("content");
        make_private(&options.root)?;
        make_private(&mount_point)?;
        thaw_noted(&options.root.join(FROZEN_FOLDER));
        let index = Arc::new(ChunkIndex::open(&options.index)?);
        // Uploads give the region what they have themselves.
        let pending = Pending::open(&options, &index, &runtime)?;
        let staged = Arc::clone(&pending.staged);
        let mut sources: Vec<Arc<dyn ChunkSource>> =
            vec![Arc::new(Origin::on_node(Arc::clone(&staged)))];
        let mut options = options;
        options.store = Arc::new(SpanStore::new(options.store));
        if let Some(region) = &options.region {
            sources.push(Arc::clone(region) as _);
            options.store = Arc::new(RegionStore::new(options.store, Arc::clone(region)));
        }
        sources.push(Arc::new(Origin::new(Arc::clone(&options.store))));
        let store: Arc<dyn BlobStore> =
            Arc::new(StagedStore::new(staged, Arc::clone(&options.store)));
        let loader = {
            let _entered = runtime.enter();
            PackLoader::new(Arc::clone(&store), Arc::clone(&index), options.wait_max)?
        };
        let loader = Arc::new(loader);
        let reader_options = ReaderOptions {
            wait_max: options.wait_max,
            ..ReaderOptions::default()
        };
        let reader = Reader::with_loader(Arc::clone(&loader), sources, reader_options);
        let (reader, kept) = keep_trees(reader, &options, &runtime);
        let cache = options.root.join("cache");
        make_private(&cache)?;
        let clock = Arc::clone(&options.clock);
        let hinted = Arc::new(HintedReader::new(Arc::clone(&reader)));
        let cache = NodeCache::open_with(&cache, Arc::clone(&hinted) as _, clock, options.cache)?;
        let cache = Arc::new(cache);
        let rechecked = Arc::downgrade(&cache);
        drop(runtime.spawn(recheck(rechecked, Arc::clone(&options.clock))));
        let view = Arc::new(View::new(Arc::clone(&cache)));
        let metadata = open_metadata(&options)?;
        if let Ok(mounts) = &metadata {
            keep_up(&runtime, mounts, &cache, &mount_point, &options.clock);
        }
        let traces = {
            let _entered = runtime.enter();
            let (store, clock) = (Arc::clone(&options.store), Arc::clone(&options.clock));
            let follower = hinted.follow(Arc::downgrade(&cache));
            let (reader, cache) = (Arc::clone(&reader), Arc::clone(&cache));
            Traces::new(store, reader, cache, clock, follower, options.check_one_in)
        };
        let served = Arc::clone(&view);
        let uploads = pending.upload_in(&runtime);
        let session = mount_content(&options, &mount_point, served, runtime)?;
        Ok(Self {
            options,
            store,
            pending,
            uploads: Mutex::new(Some(uploads)),
            index,
            loader,
            reader,
            kept,
            cache,
            opening: Opening::new(metadata),
            containerd: Arc::default(),
            view,
            traces,
            mount_point,
            session: Mutex::new(Some(session)),
            handover: Notify::new(),
        })
    }

    /// Returns where the content is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Describes the node.
    ///
    /// # Errors
    /// [`NodeError::Index`] when the index is damaged.
    pub fn info(&self) -> Result<NodeInfo, NodeError> {
        Ok(NodeInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            store: self.options.store_url.clone(),
            mount: self.mount_point.clone(),
            mount_mode: self.mount_mode(),
            mount_mode_reason: match &self.opening.metadata {
                Ok(_) => KERNEL_MODE_REASON.to_owned(),
                Err(reason) => reason.clone(),
            },
            metadata_mounts: self.opening.metadata.as_ref().map_or(0, |m| m.count()),
            rss_bytes: resident_bytes(),
            inodes: self.view.inodes_known(),
            packs: self.index.packs()?.len(),
            packs_awaited: self.loader.awaited(),
        })
    }

    /// Ends the recording of a start of a tree and stores it.
    ///
    /// # Errors
    /// [`NodeError::NoTree`] for what is no tree's id, [`NodeError::Trace`] when it cannot be stored.
    pub async fn finish_trace(&self, tree: &str) -> Result<FinishedTrace, NodeError> {
        let tree = tree
            .parse()
            .map_err(|_| NodeError::NoTree(tree.to_owned()))?;
        let news = self.traces.finish(tree).await?;
        Ok(FinishedTrace { news })
    }

    /// Asks whoever runs this node to hand it over; see [`Node::handover_asked`].
    pub(super) fn ask_handover(&self) {
        self.handover.notify_one();
    }

    /// Waits until another daemon asks for this node.
    pub async fn handover_asked(&self) {
        self.handover.notified().await;
    }

    /// Unmounts the content, or leaves it to its keeper when it is in use, and marks the cache as
    /// clean. The node is of no use afterwards.
    ///
    /// # Errors
    /// [`NodeError::Mount`] when the content is in use and nobody keeps it, or the node was stopped
    /// before.
    pub async fn stop(&self) -> Result<(), NodeError> {
        let mut session = self.take_session()?;
        self.end_uploads().await;
        if let Ok(mounts) = &self.opening.metadata {
            let mounts = Arc::clone(mounts);
            // What is not mounted any more is made ready again by the next daemon.
            mounts.release_all();
            let swept = tokio::task::spawn_blocking(move || mounts.sweep(Duration::ZERO)).await;
            swept.map_err(|_| NodeError::Stopped)??;
        }
        let unmounted = tokio::task::spawn_blocking(move || {
            let unmounted = if session.is_kept() && session.is_in_use() {
                Err(SessionError::Busy(session.mount_point().to_owned()))
            } else {
                session.unmount()
            };
            (unmounted, session)
        });
        match unmounted.await.map_err(|_| NodeError::Stopped)? {
            (Err(SessionError::Busy(path)), session) if session.is_kept() => {
                tracing::warn!(path = %path.display(), "in use: reads wait for the next daemon");
                self.leave(session).await
            }
            (unmounted, session) => {
                unmounted?;
                // Its threads hold cache and index until the kernel has let go.
                let ended = tokio::task::spawn_blocking(move || session.wait());
                match tokio::time::timeout(CLOSE_DEADLINE, ended).await {
                    Ok(Ok(ended)) => ended?,
                    Ok(Err(_)) => return Err(NodeError::Stopped),
                    Err(_) => tracing::warn!("the kernel still uses what was unmounted"),
                }
                self.end_walks();
                self.loader.stop().await;
                self.traces.stop().await;
                Ok(self.cache.close().await?)
            }
        }
    }

    /// Leaves the content to its keeper, for another daemon to go on with it as soon as this process
    /// has ended, and marks the cache as clean if that does not take long. The node is of no use
    /// afterwards.
    ///
    /// # Errors
    /// [`NodeError::Cache`], which costs the next daemon some checking; [`NodeError::Stopped`].
    pub async fn hand_over(&self) -> Result<(), NodeError> {
        let session = self.take_session()?;
        self.end_uploads().await;
        self.leave(session).await
    }

    async fn leave(&self, session: ContentSession) -> Result<(), NodeError> {
        session.leave().await;
        self.end_walks();
        // What waits for packs would wait in vain; the next daemon is asked again.
        self.loader.stop().await;
        let close = async {
            // Nothing may write to the cache once it is clean.
            self.traces.stop().await;
            self.cache.close().await
        };
        match tokio::time::timeout(CLOSE_DEADLINE, close).await {
            Ok(closed) => Ok(closed?),
            Err(_) => {
                tracing::warn!("fetches are slow: leave the cache to be checked");
                Ok(())
            }
        }
    }

    /// Ends what this node would go on with behind its answers.
    async fn end_uploads(&self) {
        let uploads = self
            .uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(uploads) = uploads {
            uploads.end().await;
        }
    }

    /// Ends the keeping of trees that nobody asked for.
    fn end_walks(&self) {
        if let Some(kept) = &self.kept {
            kept.stop();
        }
    }

    fn take_session(&self) -> Result<ContentSession, NodeError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.take().ok_or(NodeError::Stopped)
    }
}

/// Has a reader keep trees on the node's disk, if that takes them.
fn keep_trees(
    reader: Reader,
    options: &NodeOptions,
    runtime: &Handle,
) -> (Arc<Reader>, Option<KeptTrees>) {
    match KeptTrees::open(&options.root) {
        Ok(kept) => {
            let reader = Arc::new(reader.keeping(Arc::clone(&kept)));
            let _entered = runtime.enter();
            let clock = Arc::clone(&options.clock);
            let kept = KeptTrees::start(kept, Arc::clone(&reader), clock);
            (reader, Some(kept))
        }
        Err(error) => {
            tracing::warn!(%error, "keep no trees");
            (Arc::new(reader), None)
        }
    }
}

/// Mounts the content, or goes on with the mount that a keeper holds.
fn mount_content(
    options: &NodeOptions,
    mount_point: &Path,
    view: Arc<View>,
    runtime: Handle,
) -> Result<ContentSession, SessionError> {
    let wait_max = options.wait_max;
    match options.keeper.clone() {
        Some(keeper) => ContentMount::keep(mount_point, view, runtime, wait_max, keeper),
        None => ContentMount::mount(mount_point, view, runtime, wait_max),
    }
}

/// Opens the mounts of metadata, or tells why trees are served by FUSE.
fn open_metadata(options: &NodeOptions) -> Result<Result<Arc<MetadataMounts>, String>, NodeError> {
    let folder = options.root.join("erofs");
    make_private(&folder)?;
    if let Err(reason) = probe_kernel_mode(&folder.join("trial")) {
        tracing::info!(reason, "serve trees by FUSE");
        return Ok(Err(reason));
    }
    let mounts = MetadataMounts::open(&folder, Arc::clone(&options.clock))?;
    Ok(Ok(Arc::new(mounts)))
}

/// Makes a directory that only its owner enters: set-uid files of images are below.
fn make_private(path: &Path) -> Result<(), NodeError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // What is there may be the dead mount of a killed daemon, which cannot even be looked at.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|source| NodeError::Directory {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Returns the resident memory of this process; 0 where /proc does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
