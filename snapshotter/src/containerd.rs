//! The containerd plugin: a proxy snapshotter on a socket.
//!
//! ```text
//! containerd --gRPC--> service --> snapshots --> table    the rules, in memory
//!                                            --> index    the same on the disk, RocksDB
//!                                            --> disk     directories of what is unpacked and written
//!                                            --> lazy     layers that are in the store: no directory
//! containerd --gRPC--> differ --> layers of what was written --gRPC--> containerd's content store
//! ```
//! A layer that the store has is *attached*: committed without being unpacked (see [`snapshots`]).
//! A container over it is an overlay of the node's kernel mode. All other layers are unpacked by
//! containerd into directories, as with its own overlayfs snapshotter.
//!
//! Each answer that something was changed is durable. Everything is opened by the first request, or
//! at the start of the daemon where there was one before; nothing is asked of the network for that.

mod bounded;
mod client;
mod container;
mod counters;
mod differ;
mod disk;
mod error;
mod filter;
mod index;
mod ingest;
mod labels;
mod layers;
mod lazy;
mod mounts;
mod options;
mod places;
mod proto;
mod record;
mod register;
mod rest;
mod server;
mod service;
mod shown;
mod snapshots;
mod table;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::daemon::Node;
pub(crate) use container::Containerd;
use container::Served;
pub use container::{ContainerError, FoundContainer};
pub use counters::ContainerdStats;
use differ::Differ;
use error::SnapshotsError;
use ingest::Ingester;
pub use ingest::LazyPolicy;
use layers::NodeLayers;
use lazy::LazyLayers;
pub use register::{RegisterError, Registration, register_image};
pub use server::ContainerdError;
use service::Service;
use snapshots::Snapshots;

/// The folders of the directories, and of the index, below the root of a node.
const DIRECTORIES_FOLDER: &str = "sn";
const INDEX_FOLDER: &str = "sn-index";
/// The folder of layers in the making.
const LAYERS_FOLDER: &str = "sn-layers";

/// How containerd is served.
#[derive(Debug, Clone)]
pub struct ContainerdOptions {
    /// The socket.
    pub socket: PathBuf,
    /// Another name of the socket, in the settings of containerd that were made by older releases.
    pub former_socket: PathBuf,
    /// The socket of containerd itself, for layers that are made for it.
    pub containerd: PathBuf,
    /// Which layers are attached.
    pub lazy: LazyPolicy,
    /// The program that adds an image to the store, and its arguments up to the source.
    pub add_image: Vec<OsString>,
}

/// Serves a node to containerd until `until` is done.
///
/// # Errors
/// [`ContainerdError`] when the socket cannot be made.
pub async fn serve_containerd(
    node: Arc<Node>,
    options: ContainerdOptions,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ContainerdError> {
    let root = node.options.root.clone();
    let was_used = root.join(INDEX_FOLDER).exists();
    let clock = Arc::clone(&node.options.clock);
    let containerd = Arc::clone(&node.containerd);
    let counters = Arc::clone(&containerd.counters);
    let ingester = Ingester::new(
        options.lazy,
        options.add_image,
        Arc::clone(&clock),
        Arc::clone(&counters),
    );
    let layers = Arc::new(NodeLayers::new(node, ingester, options.containerd.clone()));
    let (lazy, now) = (
        Arc::clone(&layers) as Arc<dyn LazyLayers>,
        Arc::clone(&clock),
    );
    let scratch = root.join(LAYERS_FOLDER);
    // What a daemon before had not finished.
    drop(std::fs::remove_dir_all(&scratch));
    let open = move || -> Result<Arc<Snapshots>, SnapshotsError> {
        let layers = Arc::clone(&layers);
        let opened = Snapshots::open(
            &root.join(INDEX_FOLDER),
            &root.join(DIRECTORIES_FOLDER),
            layers,
            Arc::clone(&clock),
            Arc::clone(&counters),
        );
        opened.inspect_err(|error| tracing::error!(%error, "open the snapshots"))
    };
    let service = Service::new(Arc::new(open));
    let served = Served {
        service: service.clone(),
        socket: options.containerd.clone(),
    };
    containerd.serve(Some(served));
    let opening = service.clone();
    if was_used {
        // What containers need is held before it is swept; whoever asks meanwhile waits for it.
        drop(tokio::spawn(
            async move { opening.snapshots().await.map(drop) },
        ));
    }
    let differ = Differ::new(service.clone(), lazy, options.containerd, scratch, now);
    let served = match server::bind(&options.socket, &options.former_socket) {
        Ok(listener) => server::serve(service.clone(), differ, listener, until).await,
        Err(error) => Err(error),
    };
    containerd.serve(None);
    if let Some(snapshots) = service.opened().cloned() {
        let closed = tokio::task::spawn_blocking(move || snapshots.close()).await;
        if closed.is_err() {
            tracing::error!("the snapshots are not closed");
        }
    }
    served
}

#[cfg(test)]
mod tests;
