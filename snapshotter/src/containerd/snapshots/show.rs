//! Trees that are shown inside of a container, beside its root.
//!
//! A name is resolved once, when the snapshot is made: whatever it stands for later, the container
//! starts again with the same files.

use super::super::error::SnapshotsError;
use super::super::mounts::{self, Mount};
use super::super::shown::{Asked, Shown};
use super::Snapshots;
use crate::daemon::MountMode;

impl Snapshots {
    /// Finds what is to be shown.
    ///
    /// # Errors
    /// [`SnapshotsError::Precondition`] when there is none of a name, and for a containerd that would
    /// mount it in the place of the root.
    pub(super) async fn find_shown(&self, asked: &[Asked]) -> Result<Vec<Shown>, SnapshotsError> {
        if !asked.is_empty() {
            self.lazy.check_targets().await?;
        }
        let mut shown = Vec::new();
        for Asked { source, path } in asked {
            let layer = self.lazy.named(source).await?.ok_or_else(|| {
                SnapshotsError::Precondition(format!(
                    "there is no image, snapshot or volume {source:?} to be shown at {path}"
                ))
            })?;
            let path = path.clone();
            shown.push(Shown { path, layer });
        }
        Ok(shown)
    }

    /// Returns the mounts of what is shown, made ready: to be mounted after the root's.
    ///
    /// # Errors
    /// [`SnapshotsError`] when one cannot be made ready.
    pub(super) async fn shown_mounts(
        &self,
        shown: &[Shown],
        wanted: Option<MountMode>,
    ) -> Result<Vec<Mount>, SnapshotsError> {
        let mut all = Vec::new();
        for shown in shown {
            let opened = self.lazy.open(shown.layer, wanted).await?;
            all.push(mounts::shown(&shown.path, &opened)?);
        }
        Ok(all)
    }
}
