//! Volumes: named trees with versions.
//!
//! ```text
//! refs/volumes/NAME --> record of the head --parent--> record of the version before --> ...
//! refs/volume-versions/ID/NUMBER ----------------------^
//! ```
//! A version is the record of a snapshot of the kind `volume`. The head moves by compare-and-swap
//! alone, from one version to the next. Whoever moves it gives the version that it leaves a ref of
//! its own first, so that all versions are roots of collection, and a crash in between loses none:
//! the log is the refs of the versions and the head.
//!
//! ID is chosen at random when a volume is made: a volume that was removed and one that is made
//! later under the same name have nothing in common.

mod change;
mod log;

use nacre_blobstore::{
    BlobStore, Record, RecordId, Ref, RefError, RefName, RefNameError, StoreError, TreeId, Version,
    delete_ref, list_refs, read_ref, write_ref,
};

use crate::image::image_ref;
use crate::snapshot::{
    Snapshot, SnapshotError, SnapshotKind, SnapshotPayload, VolumePayload, snapshot_ref,
};
pub(crate) use change::Leased;

/// The namespace of the heads of volumes.
pub const VOLUMES_NAMESPACE: &str = "volumes";
/// The namespace of the versions that are no heads.
const VERSIONS_NAMESPACE: &str = "volume-versions";
/// Digits of a version in the name of its ref: those of the largest one, so that names sort.
const VERSION_DIGITS: usize = 20;
/// Longest name: what is left of that of a ref.
const NAME_BYTES_MAX: usize = 200;

/// A version of a volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The name of the volume.
    pub name: String,
    /// The id of the version's record.
    pub record_id: RecordId,
    /// Its record: the last tree is what it shows, the first one what its committer saw.
    pub record: Record,
    /// What the record says of it.
    pub payload: SnapshotPayload,
    /// Which version it is.
    pub version: VolumePayload,
}

/// Returns the ref of the head of the volume called `name`.
///
/// # Errors
/// [`RefNameError`] for text that can be no name.
pub fn volume_ref(name: &str) -> Result<RefName, RefNameError> {
    format!("{VOLUMES_NAMESPACE}/{name}").parse()
}

fn version_ref(version: &VolumePayload) -> Result<RefName, RefNameError> {
    let (id, number) = (&version.id, version.number);
    format!("{VERSIONS_NAMESPACE}/{id}/{number:0VERSION_DIGITS$}").parse()
}

/// Returns a random id for a new volume.
pub(crate) fn random_id() -> Result<String, SnapshotError> {
    let random = getrandom::u64().map_err(|_| SnapshotError::Stopped)?;
    Ok(format!("{random:016x}"))
}

impl Volume {
    /// Finds the head of a volume.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`], [`SnapshotError::Kind`], and errors of the store.
    pub async fn find(store: &dyn BlobStore, name: &str) -> Result<Self, SnapshotError> {
        Ok(Self::find_to_change(store, name).await?.0)
    }

    /// Finds the head of a volume, and the version of its ref to change it from.
    pub(crate) async fn find_to_change(
        store: &dyn BlobStore,
        name: &str,
    ) -> Result<(Self, Version), SnapshotError> {
        let Some((target, seen)) = read_ref(store, &volume_ref(name)?).await? else {
            return Err(SnapshotError::NoVolume(name.to_owned()));
        };
        Ok((Self::read(store, name, target.record).await?, seen))
    }

    /// Reads one version of the volume called `name`.
    pub(crate) async fn read(
        store: &dyn BlobStore,
        name: &str,
        id: RecordId,
    ) -> Result<Self, SnapshotError> {
        let record = Record::read(store, id).await?;
        let Snapshot {
            record, payload, ..
        } = Snapshot::of(name, id, record)?;
        let Some(version) = payload.volume.clone() else {
            return Err(SnapshotError::Kind(name.to_owned()));
        };
        Ok(Self {
            name: name.to_owned(),
            record_id: id,
            record,
            payload,
            version,
        })
    }

    /// Returns all heads, sorted by name.
    ///
    /// # Errors
    /// [`SnapshotError`] for the first that cannot be read.
    pub async fn list(store: &dyn BlobStore) -> Result<Vec<Self>, SnapshotError> {
        let mut volumes = Vec::new();
        for reference in list_refs(store, Some(VOLUMES_NAMESPACE)).await? {
            let Some((_, name)) = reference.as_str().split_once('/') else {
                continue;
            };
            match Self::find(store, name).await {
                // Removed since it was listed.
                Err(SnapshotError::NoVolume(_)) => {}
                found => volumes.push(found?),
            }
        }
        Ok(volumes)
    }

    /// Takes a volume's name and versions away. What nothing else needs becomes garbage; sandboxes
    /// that mount it can read on until that is collected.
    ///
    /// # Errors
    /// [`SnapshotError::NoVolume`], [`SnapshotError`]. To be repeated then: the head goes after the
    /// versions.
    pub async fn remove(store: &dyn BlobStore, name: &str) -> Result<(), SnapshotError> {
        let head = Self::find(store, name).await?;
        remove_versions(store, &head.version.id).await?;
        delete_ref(store, &volume_ref(name)?).await?;
        // Those that someone who was about to move the head has written meanwhile.
        remove_versions(store, &head.version.id).await
    }

    /// Returns the root tree.
    pub fn tree(&self) -> Option<TreeId> {
        self.record.trees.last().copied()
    }

    /// Returns what the sandbox showed that committed the version: another tree than that of the
    /// version, when this was merged.
    pub(crate) fn committed_tree(&self) -> Option<TreeId> {
        self.record.trees.first().copied()
    }

    /// Makes the payload of the version after this one, for what has the same base.
    pub(crate) fn next(&self, created_ms: u64) -> Result<SnapshotPayload, SnapshotError> {
        let number = self.version.number.checked_add(1);
        let number = number.ok_or_else(|| SnapshotError::Kind(self.name.clone()))?;
        Ok(SnapshotPayload {
            parent: self.record_id.to_string(),
            sandbox: String::new(),
            created_ms,
            bytes_changed: 0,
            volume: Some(VolumePayload {
                id: self.version.id.clone(),
                number,
                mount: None,
            }),
            ..self.payload.clone()
        })
    }
}

/// Makes the payload of the first version of a volume. `parent`, `base` and `config` are those of
/// what it is made from.
pub(crate) fn first(
    (parent, base, config): (String, String, String),
    created_ms: u64,
) -> Result<SnapshotPayload, SnapshotError> {
    Ok(SnapshotPayload {
        kind: SnapshotKind::Volume,
        path: "/".to_owned(),
        parent,
        base,
        sandbox: String::new(),
        created_ms,
        expires_ms: None,
        key: None,
        labels: std::collections::BTreeMap::new(),
        config,
        bytes_changed: 0,
        volume: Some(VolumePayload {
            id: random_id()?,
            number: 1,
            mount: None,
        }),
    })
}

async fn remove_versions(store: &dyn BlobStore, id: &str) -> Result<(), SnapshotError> {
    let folder = format!("{VERSIONS_NAMESPACE}/{id}");
    for reference in list_refs(store, Some(&folder)).await? {
        delete_ref(store, &reference).await?;
    }
    Ok(())
}

/// Checks that a new volume may have a name. One that an image or a snapshot gets later hides it.
pub(crate) async fn check_name(store: &dyn BlobStore, name: &str) -> Result<(), SnapshotError> {
    let invalid = |reason: &str| Err(SnapshotError::Invalid(reason.to_owned()));
    if name.parse::<RecordId>().is_ok() {
        return invalid("the name looks like an id");
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid("the name is longer than 200 bytes");
    }
    if name.starts_with('/') || name.contains(":/") {
        return invalid("the name has a path in it");
    }
    volume_ref(name)?;
    let taken = [image_ref(name), snapshot_ref(name)];
    for reference in taken.into_iter().flatten() {
        if read_ref(store, &reference).await?.is_some() {
            return Err(SnapshotError::Taken(name.to_owned()));
        }
    }
    Ok(())
}

/// Makes the ref of a new volume.
pub(crate) async fn write_first(
    store: &dyn BlobStore,
    name: &str,
    target: Ref,
) -> Result<(), SnapshotError> {
    match write_ref(store, &volume_ref(name)?, target, None).await {
        Err(RefError::Store {
            source: StoreError::Exists(_),
            ..
        }) => Err(SnapshotError::Taken(name.to_owned())),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests;
