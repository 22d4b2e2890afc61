//! Layers from the store, served by the node.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nacre_blobstore::{Reader, RecordError, RecordId, StoreError, TreeId};
use tokio::sync::Semaphore;

use super::client::Client;
use super::error::SnapshotsError;
use super::ingest::{Ingester, LazyPolicy};
use super::lazy::{LazyLayers, Wanted};
use super::mounts::OpenedLayer;
use super::record::RemoteLayer;
use super::rest::Rest;
use crate::chains::find_chain;
use crate::daemon::{MountMode, Node, NodeError};
use crate::image::ImageError;

/// How long the store may take to say whether it has a layer; then containerd unpacks it.
const FIND_DEADLINE: Duration = Duration::from_secs(10);
/// How long the layers of an image that was found are remembered: for the rest of its pull.
const FOUND_KEEP: Duration = Duration::from_secs(60);
/// Layers that are remembered.
const FOUND_MAX: usize = 1 << 16;

/// Images that are opened at once because they were pulled; others wait for their first container.
const OPEN_AHEAD_MAX: usize = 8;

/// A call needs a namespace, whichever.
const VERSION_NAMESPACE: &str = "default";

/// A layer that was found, and when.
type Found = (RemoteLayer, Duration);

/// The node, as the snapshots see it.
#[derive(Debug)]
pub(super) struct NodeLayers {
    node: Arc<Node>,
    ingester: Arc<Ingester>,
    /// The socket of containerd.
    containerd: PathBuf,
    found: Mutex<HashMap<String, Found>>,
    /// containerd asks for the layers of an image one after the other.
    rest: Rest,
    /// Of images that are opened as they are pulled.
    ahead: Arc<Semaphore>,
}

impl NodeLayers {
    pub(super) fn new(node: Arc<Node>, ingester: Ingester, containerd: PathBuf) -> Self {
        Self {
            node,
            ingester: Arc::new(ingester),
            containerd,
            found: Mutex::default(),
            rest: Rest::default(),
            ahead: Arc::new(Semaphore::new(OPEN_AHEAD_MAX)),
        }
    }

    /// Looks for a layer, in the store unless that failed slowly a moment ago.
    async fn look(&self, chain_id: &str) -> Result<Option<RemoteLayer>, SnapshotsError> {
        if let Some(layer) = self.remembered(chain_id) {
            return Ok(Some(layer));
        }
        let clock = &*self.node.options.clock;
        let looked = self.rest.ask(clock, self.ask(chain_id)).await;
        looked.unwrap_or_else(|| Err(unavailable(&"the store did not answer a moment ago")))
    }

    /// Asks the store. One request for the first layer of an image, two if its record is not known;
    /// none for the others.
    async fn ask(&self, chain_id: &str) -> Result<Option<RemoteLayer>, SnapshotsError> {
        let look = async {
            let found = find_chain(&*self.node.options.store, chain_id).await;
            let Some(image) = found.map_err(|error| unavailable(&error))? else {
                return Ok(None);
            };
            self.remember_image(image).await
        };
        let looked = tokio::time::timeout(FIND_DEADLINE, look).await;
        looked.map_err(|_| unavailable(&"the store does not answer"))??;
        Ok(self.remembered(chain_id))
    }

    fn remembered(&self, chain_id: &str) -> Option<RemoteLayer> {
        let now = self.node.options.clock.elapsed();
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (layer, at) = found.get(chain_id)?;
        (now.saturating_sub(*at) < FOUND_KEEP).then_some(*layer)
    }

    async fn remember_image(&self, image: RecordId) -> Result<Option<()>, SnapshotsError> {
        let read = self.node.read_image(&image.to_string(), image).await;
        let read = match read {
            Err(NodeError::Image(
                ImageError::NotFound(_)
                | ImageError::Record {
                    source: RecordError::Store(StoreError::NotFound(_)),
                    ..
                },
            )) => return Ok(None),
            read => read.map_err(|error| unavailable(&error))?,
        };
        let now = self.node.options.clock.elapsed();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|_, (_, at)| now.saturating_sub(*at) < FOUND_KEEP);
        for layer in &read.layers {
            if let Ok(tree) = layer.tree.parse()
                && found.len() < FOUND_MAX
            {
                let layer_of = RemoteLayer { image, tree };
                found.insert(layer.chain_id.to_string(), (layer_of, now));
            }
        }
        Ok(Some(()))
    }
}

#[async_trait]
impl LazyLayers for NodeLayers {
    async fn find(
        &self,
        chain_id: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Option<RemoteLayer>, SnapshotsError> {
        if self.ingester.policy() == LazyPolicy::Never {
            return Ok(None);
        }
        if let Some(layer) = self.look(chain_id).await? {
            return Ok(Some(layer));
        }
        if self.ingester.policy() == LazyPolicy::Background {
            self.ingester.add_behind(wanted);
            return Ok(None);
        }
        if !self.ingester.add(wanted).await? {
            return Ok(None);
        }
        self.look(chain_id).await
    }

    async fn named(&self, name: &str) -> Result<Option<RemoteLayer>, SnapshotsError> {
        let found = tokio::time::timeout(FIND_DEADLINE, self.node.find_tree(name)).await;
        match found.map_err(|_| unavailable(&"the store does not answer"))? {
            Ok((image, tree)) => Ok(Some(RemoteLayer { image, tree })),
            Err(NodeError::Image(ImageError::NotFound(_) | ImageError::Name(_))) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    async fn check_targets(&self) -> Result<(), SnapshotsError> {
        let client = Client::connect(&self.containerd, VERSION_NAMESPACE).await?;
        let version = client.version().await?;
        if takes_targets(&version) {
            return Ok(());
        }
        Err(SnapshotsError::Precondition(format!(
            "containerd {version} mounts nothing below the root of a container: that takes 1.7"
        )))
    }

    async fn open(
        &self,
        layer: RemoteLayer,
        wanted: Option<MountMode>,
    ) -> Result<OpenedLayer, SnapshotsError> {
        let opened = self.node.open_layer(layer.image, layer.tree, wanted).await;
        let (lower, view) = opened.map_err(|error| unavailable(&error))?;
        Ok(OpenedLayer { lower, view })
    }

    fn open_ahead(&self, layer: RemoteLayer) {
        let Ok(turn) = Arc::clone(&self.ahead).try_acquire_owned() else {
            return;
        };
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            if let Err(error) = node.open_layer(layer.image, layer.tree, None).await {
                tracing::debug!(image = %layer.image, %error, "open an image that was pulled");
            }
            drop(turn);
        });
    }

    async fn reader(&self, layer: Option<RemoteLayer>) -> Result<Arc<Reader>, SnapshotsError> {
        let image = layer.map(|layer| layer.image);
        let reader = self.node.reader_of(image).await;
        reader.map_err(|error| unavailable(&error))
    }

    fn mode(&self) -> MountMode {
        self.node.mount_mode()
    }

    fn hold(&self, tree: TreeId) {
        self.node.hold_tree(tree);
    }

    fn release(&self, tree: TreeId) {
        self.node.release_tree(tree);
    }
}

/// Tells whether a containerd of this version knows mounts below the root of a container.
fn takes_targets(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next()?.parse::<u32>().ok();
    number()
        .zip(number())
        .is_some_and(|version| version >= (1, 7))
}

fn unavailable(error: &dyn std::fmt::Display) -> SnapshotsError {
    SnapshotsError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::takes_targets;

    #[test]
    fn mounts_below_a_root_are_known_from_1_7_on() {
        for version in ["v1.7.0", "1.7.20~ds1", "2.0.0-rc.1", "v2.4.2", "10.0"] {
            assert!(takes_targets(version), "{version}");
        }
        for version in ["1.6.20~ds1", "v1.6.38", "0.9", "", "unknown", "v1"] {
            assert!(!takes_targets(version), "{version}");
        }
    }
}
