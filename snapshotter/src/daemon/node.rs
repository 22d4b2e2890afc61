//! What the daemon owns.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, CatalogError, ChunkIndex, ChunkSource, Clock, IndexError, Origin, Reader,
    ReaderOptions, load_packs,
};
use nacre_fs::{ContentMount, ContentSession, NodeCache, NodeCacheError, SessionError, View};
use tokio::runtime::Handle;

use super::api::{CacheStats, NodeInfo, OpenedImage, TierCount};
use crate::image::{Image, ImageError};

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
    /// Tiers between this node and the store, nearest first.
    pub sources: Vec<Arc<dyn ChunkSource>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
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
    /// The image has no file system.
    #[error("image {0:?} has no file system")]
    NoTree(String),
    /// A task of the daemon ended early.
    #[error("a task of the daemon ended early")]
    Stopped,
}

/// A serving node.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    index: Arc<ChunkIndex>,
    reader: Arc<Reader>,
    cache: Arc<NodeCache>,
    view: Arc<View>,
    session: ContentSession,
}

impl Node {
    /// Opens index and cache and mounts the content. Needs no network.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn start(options: NodeOptions, runtime: Handle) -> Result<Self, NodeError> {
        let mount_point = options.root.join("content");
        make_private(&options.root)?;
        make_private(&mount_point)?;
        let index = Arc::new(ChunkIndex::open(&options.index)?);
        let mut sources = options.sources.clone();
        sources.push(Arc::new(Origin::new(Arc::clone(&options.store))));
        let reader = Arc::new(Reader::new(
            Arc::clone(&index),
            sources,
            ReaderOptions::default(),
        ));
        let cache = options.root.join("cache");
        make_private(&cache)?;
        let cache = NodeCache::open(&cache, Arc::clone(&reader) as _, Arc::clone(&options.clock))?;
        let cache = Arc::new(cache);
        let view = Arc::new(View::new(Arc::clone(&cache)));
        let session = ContentMount::mount(&mount_point, Arc::clone(&view), runtime)?;
        Ok(Self {
            options,
            index,
            reader,
            cache,
            view,
            session,
        })
    }

    /// Makes an image readable: what its packs hold is known to the index afterwards. Costs two
    /// requests for name and record, and one for each pack that no image before had.
    ///
    /// # Errors
    /// [`NodeError::Image`] and [`NodeError::Catalog`].
    pub async fn open_image(&self, name: &str) -> Result<OpenedImage, NodeError> {
        let image = Image::find(&*self.options.store, name).await?;
        let tree = image
            .tree()
            .ok_or_else(|| NodeError::NoTree(name.to_owned()))?;
        load_packs(&self.options.store, &self.index, &image.record.packs).await?;
        let below = |folder: &str| {
            self.session
                .mount_point()
                .join(folder)
                .join(tree.to_string())
        };
        Ok(OpenedImage {
            image: image.id.to_string(),
            tree: tree.to_string(),
            config: image.payload.config,
            view: below("trees"),
            lower: below("lower"),
        })
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
            mount: self.session.mount_point().to_owned(),
            rss_bytes: resident_bytes(),
            inodes: self.view.inodes_known(),
            packs: self.index.packs()?.len(),
        })
    }

    /// Counts where reads were served from.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    pub fn cache_stats(&self) -> CacheStats {
        let cache = self.cache.stats();
        let fetched = self.reader.stats();
        let tier = |t: nacre_blobstore::TierStats| TierCount {
            reads: t.reads,
            bytes: t.bytes,
        };
        CacheStats {
            page_cache_unknown: TierCount::default(),
            node: TierCount {
                reads: cache.node_reads,
                bytes: cache.node_bytes,
            },
            region: tier(fetched.region),
            origin: tier(fetched.origin),
            corrupt: fetched.region.corrupt + fetched.origin.corrupt,
            failed_reads: cache.failed_reads,
            waits_ms_p50: cache.wait_p50_us as f64 / 1000.0,
            waits_ms_p99: cache.wait_p99_us as f64 / 1000.0,
            bytes_read_by_sandbox: cache.node_bytes + cache.fetched_bytes,
            bytes_fetched: fetched.region.bytes + fetched.origin.bytes,
        }
    }

    /// Unmounts the content and marks the cache as clean.
    ///
    /// # Errors
    /// [`NodeError::Mount`] when the content is in use: the node goes on then is for the caller to
    /// decide.
    pub async fn stop(self) -> Result<(), NodeError> {
        let Self {
            mut session, cache, ..
        } = self;
        let unmounted = tokio::task::spawn_blocking(move || session.unmount()).await;
        unmounted.map_err(|_| NodeError::Stopped)??;
        Ok(cache.close().await?)
    }
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
