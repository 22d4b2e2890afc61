//! `nacre daemon`: serves the node in the foreground.

use std::sync::Arc;

use nacre_blobstore::ChunkSource;
use nacre_region_cache::RegionCache;
use nacre_snapshotter::{Node, NodeOptions};
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{BUSY, Failure};
use crate::settings::Settings;

pub(crate) async fn serve(settings: &Settings) -> Result<(), Failure> {
    let root = settings.root.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("serve", &root, error);
    std::fs::create_dir_all(&settings.root).map_err(|error| fail(&error))?;
    let lock = std::fs::File::create(settings.root.join("daemon.lock"));
    let lock = lock.map_err(|error| fail(&error))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(fail(&"another daemon serves it").with_code(BUSY));
    }
    let mut sources: Vec<Arc<dyn ChunkSource>> = Vec::new();
    if !settings.region_cache.is_empty() {
        let region = RegionCache::new(settings.region_cache.clone());
        sources.push(Arc::new(region.map_err(|error| fail(&error))?));
    }
    let options = NodeOptions {
        root: settings.root.clone(),
        index: settings.index_path("node"),
        store: settings.open_store()?,
        store_url: settings.store.to_string(),
        cache: settings.cache,
        sources,
        clock: Arc::clone(&settings.clock),
    };
    let runtime = Handle::current();
    let node = tokio::task::spawn_blocking(move || Node::start(options, runtime)).await;
    let node = node
        .map_err(|error| fail(&error))?
        .map_err(|error| fail(&error))?;
    let node = Arc::new(node);
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| fail(&error))?;
    let stopped = async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    tracing::info!(root = %root, "serving");
    let served = nacre_snapshotter::serve(Arc::clone(&node), &settings.socket(), stopped).await;
    drop(std::fs::remove_file(settings.socket()));
    served.map_err(|error| fail(&error))?;
    // The server's handlers are done, so this is the last holder.
    match Arc::try_unwrap(node) {
        Ok(node) => node.stop().await.map_err(|error| fail(&error)),
        Err(_) => Err(fail(&"a request is still being answered")),
    }
}
