//! What can be mounted and run: an image or a snapshot.

use nacre_blobstore::{
    BlobStore, Record, RecordError, RecordId, RecordKind, StoreError, TreeId, read_ref,
};

use super::node::NodeError;
use crate::image::{Image, ImageError, ImagePayload};
use crate::snapshot::{Snapshot, snapshot_ref};

/// A record with a file system and the OCI config to run commands in it.
#[derive(Debug)]
pub(crate) struct Mountable {
    pub(crate) id: RecordId,
    pub(crate) record: Record,
    pub(crate) config: String,
    /// The image at the start of the line: the record itself, if it is an image.
    pub(crate) base: String,
}

impl Mountable {
    /// Returns the id of the image that has a name, or else of the snapshot that has it, or of what
    /// is named by its id. One request for an image's name, two for a snapshot's, none for an id.
    pub(crate) async fn locate(store: &dyn BlobStore, name: &str) -> Result<RecordId, NodeError> {
        let not_found = match Image::locate(store, name).await {
            Err(error @ ImageError::NotFound(_)) => error,
            located => return Ok(located?),
        };
        let Ok(reference) = snapshot_ref(name) else {
            return Err(not_found.into());
        };
        match read_ref(store, &reference)
            .await
            .map_err(ImageError::from)?
        {
            Some((target, _)) => Ok(target.record),
            None => Err(not_found.into()),
        }
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
        let (record, config, base) = match record.kind {
            RecordKind::Image => {
                let payload: Result<ImagePayload, _> = serde_json::from_slice(&record.payload);
                let payload = payload.map_err(|_| ImageError::Kind(name.to_owned()))?;
                (record, payload.config, id.to_string())
            }
            RecordKind::Snapshot => {
                let snapshot = Snapshot::of(name, id, record)?;
                (
                    snapshot.record,
                    snapshot.payload.config,
                    snapshot.payload.base,
                )
            }
            RecordKind::Trace => return Err(ImageError::Kind(name.to_owned()).into()),
        };
        Ok(Self {
            id,
            record,
            config,
            base,
        })
    }

    /// Returns the root tree.
    pub(crate) fn tree(&self) -> Option<TreeId> {
        self.record.trees.last().copied()
    }
}
