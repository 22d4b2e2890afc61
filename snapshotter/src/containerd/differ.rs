//! The diff service: layers of what was written to snapshots, for `nerdctl commit` and builds.
//!
//! ```text
//! mounts --recognised--> directories, tree --> trees in memory --> tar --gzip--> file
//!                                                  file --containerd's API--> content store
//! ```
//! containerd's own way is to walk both file systems, which reads what their times do not tell apart:
//! of an image from the store all that it has. Here only the directories of the snapshot are looked at,
//! and read is what they hold. What is not ours is answered with `Unimplemented`, upon which containerd
//! asks the next of its differs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use nacre_blobstore::{Clock, read_root};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::client::{Client, Content, LEASE_ID, NAMESPACE, UNCOMPRESSED, random};
use super::error::SnapshotsError;
use super::lazy::LazyLayers;
use super::mounts::Mount;
use super::proto::{self, Descriptor};
use super::service::Service;
use super::snapshots::Compared;
use crate::export::{Blob, BlobWriter, ExportError, Scratch, write_layer};
use crate::layer::Compression;
use crate::oci::layer_media_type;
use crate::snapshot::{SnapshotError, Stack};

/// Layers that are made at once; each takes some 300 bytes of memory for each entry of the
/// directories that it looks at.
const LAYERS_MAX: usize = 2;
/// What may be asked for, and what is made when nothing is.
const COMPRESSIONS: [Compression; 3] = [Compression::Gzip, Compression::Zstd, Compression::None];

/// Makes layers.
pub(super) struct Differ {
    service: Service,
    /// Reads what is below the directories.
    lazy: Arc<dyn LazyLayers>,
    /// The socket of containerd.
    containerd: PathBuf,
    /// A directory for layers in the making. What is in it when a daemon starts is of no use.
    scratch: PathBuf,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
}

impl Differ {
    /// Compares mounts that `service` has answered.
    pub(super) fn new(
        service: Service,
        lazy: Arc<dyn LazyLayers>,
        containerd: PathBuf,
        scratch: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            service,
            lazy,
            containerd,
            scratch,
            clock,
            turns: Semaphore::new(LAYERS_MAX),
        }
    }

    async fn compare(
        &self,
        metadata: &MetadataMap,
        request: proto::diff::DiffRequest,
    ) -> Result<Descriptor, Status> {
        let asked = request.media_type.as_str();
        let compression = COMPRESSIONS
            .into_iter()
            .find(|compression| asked.is_empty() || layer_media_type(*compression) == asked);
        let (Some(compression), None) = (compression, request.source_date_epoch) else {
            return Err(Status::unimplemented("such layers are not made here"));
        };
        let (left, right) = (mounts(request.left), mounts(request.right));
        let snapshots = self.service.snapshots().await?;
        let Some(compared) = snapshots.compared(&left, &right).await? else {
            return Err(Status::unimplemented(
                "the mounts are of no snapshot of nacre",
            ));
        };
        // Never closed.
        let _turn = self.turns.acquire().await.ok();
        let (scratch, blob) = self.layer(&compared, compression).await?;
        let client = self.client(metadata, &compared).await?;
        let mut labels: HashMap<String, String> = request.labels;
        labels.insert(UNCOMPRESSED.to_owned(), blob.diff_id.to_string());
        let reference = match request.r#ref {
            reference if reference.is_empty() => format!("nacre-{:016x}", random()?),
            reference => reference,
        };
        let content = Content {
            digest: &blob.digest,
            size_bytes: blob.size_bytes,
            reference: &reference,
            labels: &labels,
        };
        let file = tokio::fs::File::open(scratch.path.join(LAYER_FILE)).await;
        let file = file.map_err(|error| SnapshotsError::disk("open a layer", &error))?;
        client.write(content, file).await?;
        tracing::info!(snapshot = compared.name, layer = %blob.digest, "made a layer");
        Ok(Descriptor {
            media_type: layer_media_type(compression).to_owned(),
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size_bytes).unwrap_or(i64::MAX),
            ..Descriptor::default()
        })
    }

    /// Makes the layer, in a directory that goes with what is returned.
    async fn layer(
        &self,
        compared: &Compared,
        compression: Compression,
    ) -> Result<(Scratch, Blob), SnapshotsError> {
        let reader = self.lazy.reader(compared.remote).await?;
        let (directories, runtime) = (compared.clone(), Handle::current());
        let stacked = tokio::task::spawn_blocking(move || {
            let base = directories.remote.map(|remote| remote.tree);
            let mut stack = Stack::new(reader, base)?;
            for directory in &directories.below {
                stack.add(directory, &runtime)?;
            }
            let before = runtime.block_on(read_root(&stack, stack.root()))?;
            stack.add(&directories.upper, &runtime)?;
            let after = runtime.block_on(read_root(&stack, stack.root()))?;
            Ok::<_, SnapshotError>((stack, before, after))
        });
        let stopped = |_| SnapshotsError::Internal("a worker ended early".to_owned());
        let stacked = stacked.await.map_err(stopped)?;
        let (stack, before, after) = stacked.map_err(ExportError::from)?;
        for path in stack.skipped() {
            tracing::info!(snapshot = compared.name, path, "a layer has no sockets");
        }
        let scratch = Scratch::make(self.scratch.join(format!("{:016x}", random()?)))?;
        let out = BlobWriter::new(&scratch.path.join(LAYER_FILE), compression);
        write_layer(&stack, Some(&before), &after, &out).await?;
        Ok((scratch, out.finish().await?))
    }

    /// Connects to the namespace that the request is of; the key of a snapshot begins with it, too.
    async fn client(
        &self,
        metadata: &MetadataMap,
        compared: &Compared,
    ) -> Result<Client, SnapshotsError> {
        let told = metadata.get(NAMESPACE).and_then(|name| name.to_str().ok());
        let of_key = compared
            .name
            .split_once('/')
            .map(|(namespace, _)| namespace);
        let namespace = told.or(of_key).ok_or_else(|| {
            SnapshotsError::Precondition("containerd does not say its namespace".to_owned())
        })?;
        let lease = metadata.get(LEASE_ID).cloned();
        let Self {
            containerd, clock, ..
        } = self;
        let client = Client::connect(containerd, namespace).await?;
        client.under(lease, &**clock).await
    }
}

/// The name of the layer in its directory.
const LAYER_FILE: &str = "layer";

#[tonic::async_trait]
impl proto::diff::diff_server::Diff for Differ {
    async fn apply(
        &self,
        _: Request<proto::diff::ApplyRequest>,
    ) -> Result<Response<proto::diff::ApplyResponse>, Status> {
        Err(Status::unimplemented("containerd unpacks layers itself"))
    }

    async fn diff(
        &self,
        request: Request<proto::diff::DiffRequest>,
    ) -> Result<Response<proto::diff::DiffResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let diff = Some(self.compare(&metadata, request).await?);
        Ok(Response::new(proto::diff::DiffResponse { diff }))
    }
}

fn mounts(mounts: Vec<proto::Mount>) -> Vec<Mount> {
    let mounts = mounts.into_iter().map(|mount| Mount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    });
    mounts.collect()
}

impl From<ExportError> for SnapshotsError {
    fn from(error: ExportError) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let text = error.to_string();
        match error {
            ExportError::Io { source, .. }
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                Self::Exhausted(format!("{text}: {source}"))
            }
            ExportError::Unrepresentable { .. }
            | ExportError::Snapshot(SnapshotError::Unsupported { .. }) => Self::Precondition(text),
            ExportError::Read(_)
            | ExportError::Snapshot(SnapshotError::Changed(_) | SnapshotError::Read(_)) => {
                Self::Unavailable(text)
            }
            _ => Self::Internal(text),
        }
    }
}
