//! What can be mounted and run: an image, a snapshot or a volume.

use nacre_blobstore::{
    BlobStore, Record, RecordError, RecordId, RecordKind, StoreError, TreeId, read_ref,
};

use super::node::NodeError;
use crate::image::{Image, ImageError, ImageLayer, ImagePayload};
use crate::snapshot::{Snapshot, VolumePayload, snapshot_ref};
use crate::trace::Kin;
use crate::volume::volume_ref;

/// A record with a file system and the OCI config to run commands in it.
#[derive(Debug)]
pub(crate) struct Mountable {
    pub(crate) id: RecordId,
    pub(crate) record: Record,
    pub(crate) config: String,
    /// Of an image, its layers, lowest first.
    pub(crate) layers: Vec<ImageLayer>,
    /// The image at the start of the line: the record itself, if it is an image.
    pub(crate) base: String,
    /// Of a version of a volume, which.
    pub(crate) volume: Option<VolumePayload>,
}

/// What a name stands for now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located {
    pub(crate) record: RecordId,
    /// Whether it is the name of a volume, which may stand for something else later.
    pub(crate) is_volume: bool,
}

impl Mountable {
    /// Returns the image that has a name, or else the snapshot that has it, or else the volume, or
    /// what is named by its id. One request for an image's name, two for a snapshot's, three for a
    /// volume's, none for an id.
    pub(crate) async fn locate(store: &dyn BlobStore, name: &str) -> Result<Located, NodeError> {
        let located = |record, is_volume| Located { record, is_volume };
        let not_found = match Image::locate(store, name).await {
            Err(error @ ImageError::NotFound(_)) => error,
            found => return Ok(located(found?, false)),
        };
        for (reference, is_volume) in [(snapshot_ref(name), false), (volume_ref(name), true)] {
            let Ok(reference) = reference else {
                continue;
            };
            let found = read_ref(store, &reference).await;
            if let Some((target, _)) = found.map_err(ImageError::from)? {
                return Ok(located(target.record, is_volume));
            }
        }
        Err(not_found.into())
    }

    /// Reads the record that was found for `name`.
    pub(crate) async fn read(
        store: &dyn BlobStore,
        name: &str,
        id: RecordId,
    ) -> Result<Self, NodeError> {
        let named_by_id = name.parse::<RecordId>().is_ok();
        let record = match Record::read(store, id).await {
            Err(RecordError::Store(StoreError::NotFound(_))) if named_by_id => {
                return Err(ImageError::NotFound(name.to_owned()).into());
            }
            read => read.map_err(|source| ImageError::Record {
                name: name.to_owned(),
                source,
            })?,
        };
        let (record, config, layers, base, volume) = match record.kind {
            RecordKind::Image => {
                let payload: Result<ImagePayload, _> = serde_json::from_slice(&record.payload);
                let payload = payload.map_err(|_| ImageError::Kind(name.to_owned()))?;
                let ImagePayload { config, layers, .. } = payload;
                (record, config, layers, id.to_string(), None)
            }
            RecordKind::Snapshot => {
                let snapshot = Snapshot::of(name, id, record)?;
                (
                    snapshot.record,
                    snapshot.payload.config,
                    Vec::new(),
                    snapshot.payload.base,
                    snapshot.payload.volume,
                )
            }
            RecordKind::Trace => return Err(ImageError::Kind(name.to_owned()).into()),
        };
        Ok(Self {
            id,
            record,
            config,
            layers,
            base,
            volume,
        })
    }

    /// Returns what is like `tree`, one of its trees, when it is opened by a name.
    pub(crate) fn kin(&self, name: &str, tree: TreeId) -> Kin {
        Kin::of(name, &self.base, &self.layers, tree)
    }

    /// Returns the root tree.
    pub(crate) fn tree(&self) -> Option<TreeId> {
        self.record.trees.last().copied()
    }
}
