//! The versions of a volume.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use nacre_blobstore::{BlobStore, RecordId, list_refs, read_ref};

use super::{VERSIONS_NAMESPACE, Volume, version_ref};
use crate::snapshot::{SnapshotError, VolumePayload};

/// Versions that are read at once at most.
const READS_MAX: usize = 16;

impl Volume {
    /// Returns all versions, newest first.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`], [`SnapshotError`] for the first version that cannot be read.
    pub async fn log(store: &dyn BlobStore, name: &str) -> Result<Vec<Self>, SnapshotError> {
        let head = Self::find(store, name).await?;
        let folder = format!("{VERSIONS_NAMESPACE}/{}", head.version.id);
        let refs = list_refs(store, Some(&folder)).await?;
        let read = |reference| async move {
            // One that is gone was removed with its volume since.
            let Some((target, _)) = read_ref(store, &reference).await? else {
                return Ok::<_, SnapshotError>(None);
            };
            Self::read(store, name, target.record).await.map(Some)
        };
        let versions = stream::iter(refs).map(read).buffered(READS_MAX);
        let mut versions: Vec<_> = versions.try_collect().await?;
        // What moved the head since it was read is not seen, but for the version that it left.
        versions.retain(|version| {
            let number = version.as_ref().map(|version| version.version.number);
            number.is_some_and(|number| number < head.version.number)
        });
        versions.push(Some(head));
        Ok(versions.into_iter().rev().flatten().collect())
    }

    /// Finds one version by its number.
    ///
    /// # Errors
    /// [`SnapshotError::NoVersion`].
    pub(crate) async fn at(
        &self,
        store: &dyn BlobStore,
        number: u64,
    ) -> Result<Self, SnapshotError> {
        if number == self.version.number {
            return Ok(self.clone());
        }
        let wanted = VolumePayload {
            number,
            ..self.version.clone()
        };
        match read_ref(store, &version_ref(&wanted)?).await? {
            Some((target, _)) => Self::read(store, &self.name, target.record).await,
            None => Err(SnapshotError::NoVersion {
                volume: self.name.clone(),
                number,
            }),
        }
    }

    /// Finds the newest version that `mount` committed after the version `since`, and at or before
    /// this one. Reads the versions in between.
    ///
    /// # Errors
    /// [`SnapshotError`] when one of them cannot be read.
    pub(crate) async fn last_of(
        &self,
        store: &dyn BlobStore,
        mount: &str,
        since: u64,
    ) -> Result<Option<Self>, SnapshotError> {
        let mut at = self.clone();
        while at.version.number > since {
            if at.version.mount.as_deref() == Some(mount) {
                return Ok(Some(at));
            }
            if at.version.number == 1 {
                // It was made from what is no version.
                return Ok(None);
            }
            let parent = at.payload.parent.parse::<RecordId>();
            let parent = parent.map_err(|_| SnapshotError::Kind(self.name.clone()))?;
            let before = Self::read(store, &self.name, parent).await?;
            if before.version.number >= at.version.number || before.version.id != at.version.id {
                return Err(SnapshotError::Kind(self.name.clone()));
            }
            at = before;
        }
        Ok(None)
    }
}
