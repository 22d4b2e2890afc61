//! What the snapshots ask of whoever serves layers from the store.

use std::sync::Arc;

use async_trait::async_trait;
use nacre_blobstore::{Reader, TreeId};

use super::error::SnapshotsError;
use super::mounts::OpenedLayer;
use super::record::RemoteLayer;
use crate::daemon::MountMode;

/// Serves layers from the store.
#[async_trait]
pub(super) trait LazyLayers: std::fmt::Debug + Send + Sync + 'static {
    /// Returns the file system up to and with the layer of a chain id, if it is in the store, or is
    /// put there first because `wanted` says from where.
    async fn find(
        &self,
        chain_id: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Option<RemoteLayer>, SnapshotsError>;

    /// Returns the file system of the image, snapshot or volume that has a name or an id now.
    async fn named(&self, name: &str) -> Result<Option<RemoteLayer>, SnapshotsError>;

    /// Checks that containerd takes mounts below a root: that it is 1.7 or later.
    async fn check_targets(&self) -> Result<(), SnapshotsError>;

    /// Makes it ready to be mounted, in the mode `wanted` or the best there is. Needs no network when
    /// it was before, on this machine.
    async fn open(
        &self,
        layer: RemoteLayer,
        wanted: Option<MountMode>,
    ) -> Result<OpenedLayer, SnapshotsError>;

    /// Begins to make it ready, and to bring what its start reads: it was pulled, so it will probably be
    /// started. Returns at once; what fails is tried again when it is opened.
    fn open_ahead(&self, layer: RemoteLayer);

    /// Tells how such layers are served on this node.
    fn mode(&self) -> MountMode;

    /// Returns what reads the trees that layers are made of, that of `layer` at least.
    async fn reader(&self, layer: Option<RemoteLayer>) -> Result<Arc<Reader>, SnapshotsError>;

    /// Keeps what [`open`](Self::open) mounted until [`release`](Self::release), as often as it is
    /// called.
    fn hold(&self, tree: TreeId);

    /// Lets go of what was held.
    fn release(&self, tree: TreeId);
}

/// Which image a layer is asked for with, as containerd says by labels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// Its reference.
    pub(super) reference: Option<&'a str>,
    /// The digest of its manifest.
    pub(super) manifest: Option<&'a str>,
}
