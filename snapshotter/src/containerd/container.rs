//! Containers of containerd, for snapshots of what they wrote.
//!
//! A container is found by its id, or by the key of its snapshot; containerd itself says which
//! snapshot and which processes it has. What is below its directory must be a tree: layers that
//! were attached from the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::counters::{ContainerdStats, Counters};
use super::error::SnapshotsError;
use super::service::Service;
use super::snapshots::Snapshots;

/// Longest list of the cgroups of a process that is read, in bytes.
const CGROUPS_BYTES_MAX: usize = 64 << 10;

/// What a node knows of the containerd that it serves.
#[derive(Debug, Default)]
pub(crate) struct Containerd {
    pub(super) counters: Arc<Counters>,
    /// For as long as it is served.
    served: Mutex<Option<Served>>,
}

/// How containerd is served, and reached.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) service: Service,
    pub(super) socket: PathBuf,
}

/// `POST /v1/containerd/find`: what a snapshot of a container is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundContainer {
    /// The upper directory.
    pub upper: PathBuf,
    /// The file in which what was learned of it is kept for the next snapshot.
    pub state: PathBuf,
    /// The id of the record of an image that has the layers below it.
    pub started_from: String,
    /// The root tree of these layers.
    pub tree: String,
    /// The cgroup of its processes, if any live.
    pub cgroup: Option<String>,
}

/// Why a container is not found.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ContainerError {
    source: SnapshotsError,
}

impl ContainerError {
    /// Tells whether there is none of this name.
    pub(crate) const fn is_not_found(&self) -> bool {
        matches!(self.source, SnapshotsError::NotFound(_))
    }

    /// Tells whether there can be none of this name.
    pub(crate) const fn is_invalid(&self) -> bool {
        matches!(self.source, SnapshotsError::Invalid(_))
    }
}

impl From<SnapshotsError> for ContainerError {
    fn from(source: SnapshotsError) -> Self {
        Self { source }
    }
}

impl Containerd {
    /// Returns the counts.
    pub(crate) fn stats(&self) -> ContainerdStats {
        self.counters.stats()
    }

    /// Notes how containerd is served, or that it is no more.
    pub(super) fn serve(&self, served: Option<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn served(&self) -> Option<Served> {
        let served = self.served.lock();
        served.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the container, or the snapshot of a key, that `name` is: `NAMESPACE/ID`.
    ///
    /// # Errors
    /// [`ContainerError`]; also when containerd cannot say whether the container runs.
    pub(crate) async fn find(&self, name: &str) -> Result<FoundContainer, ContainerError> {
        let invalid = || SnapshotsError::Invalid(format!("{name:?} is not NAMESPACE/ID"));
        let (namespace, id) = name.split_once('/').ok_or_else(invalid)?;
        let served = self.served().ok_or_else(|| {
            SnapshotsError::Unavailable("this node does not serve containerd".to_owned())
        })?;
        let client = Client::connect(&served.socket, namespace).await?;
        let container = client.container(id).await?;
        let snapshots = served.service.snapshots().await?;
        let found = snapshots
            .container(namespace, container.as_deref().unwrap_or(id))
            .await?;
        let cgroup = match container {
            Some(_) => match client.process(id).await? {
                Some(process) => cgroup_of(process).await?,
                None => None,
            },
            None => None,
        };
        Ok(FoundContainer { cgroup, ..found })
    }
}

impl Snapshots {
    /// Returns what the active snapshot is made of that has `key` in a namespace.
    async fn container(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<FoundContainer, SnapshotsError> {
        let has_key = |name: &str| {
            // NAMESPACE/NUMBER/KEY, as containerd calls it here.
            let mut parts = name.splitn(3, '/');
            parts.next() == Some(namespace) && parts.nth(1) == Some(key)
        };
        let compared = self
            .find_written(has_key)
            .await?
            .ok_or_else(|| SnapshotsError::NotFound(format!("{namespace}/{key}")))?;
        let Some(remote) = compared.remote.filter(|_| compared.below.is_empty()) else {
            return Err(SnapshotsError::Precondition(
                "layers below it were unpacked by containerd: only what is over layers that were \
                 attached from the store has a tree to differ from"
                    .to_owned(),
            ));
        };
        let directory = compared.upper.parent().unwrap_or(&compared.upper);
        Ok(FoundContainer {
            state: directory.join("state"),
            upper: compared.upper,
            started_from: remote.image.to_string(),
            tree: remote.tree.to_string(),
            cgroup: None,
        })
    }
}

/// Returns the cgroup of a process, named from the root of its hierarchy: that of the freezer, or of
/// the second version. `None` when the process has ended.
async fn cgroup_of(process: u32) -> Result<Option<String>, SnapshotsError> {
    let path = Path::new("/proc").join(process.to_string()).join("cgroup");
    let text = match tokio::fs::read_to_string(&path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| SnapshotsError::disk("read the cgroup", &error))?,
    };
    if text.len() > CGROUPS_BYTES_MAX {
        return Err(SnapshotsError::Internal(
            "a process with too many cgroups".to_owned(),
        ));
    }
    Ok(cgroup_in(&text).map(ToOwned::to_owned))
}

fn cgroup_in(text: &str) -> Option<&str> {
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|one| one == wanted)
                .then_some(path)
        })
    };
    of("freezer").or_else(|| of(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_that_of_the_freezer_if_there_is_one() {
        let unified = "0::/default/c1\n";
        assert_eq!(cgroup_in(unified), Some("/default/c1"));
        let hybrid = "12:cpu,cpuacct:/a\n5:freezer:/b:c\n0::/d\n";
        assert_eq!(cgroup_in(hybrid), Some("/b:c"));
        assert_eq!(cgroup_in("1:cpu:/a\nnonsense\n"), None);
    }
}
