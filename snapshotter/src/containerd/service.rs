//! The service as containerd calls it: messages to values and back.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use tokio::sync::OnceCell;
use tonic::{Request, Response, Status};

use super::error::SnapshotsError;
use super::filter::Filter;
use super::labels::{self, Labels};
use super::mounts::Mount;
use super::proto;
use super::record::{Kind, Snapshot};
use super::snapshots::Snapshots;

/// Snapshots in one message of `List`, as containerd's own service has it.
const PAGE_MAX: usize = 100;

/// Opens the snapshots; by the first request that needs them, or before.
pub(super) type Opener = dyn Fn() -> Result<Arc<Snapshots>, SnapshotsError> + Send + Sync;

/// The snapshots, opened when they are needed: a node without containerd has none.
#[derive(Clone)]
pub(super) struct Service {
    opener: Arc<Opener>,
    opened: Arc<OnceCell<Arc<Snapshots>>>,
}

impl Service {
    pub(super) fn new(opener: Arc<Opener>) -> Self {
        Self {
            opener,
            opened: Arc::default(),
        }
    }

    /// Returns the snapshots. When they cannot be opened the next request tries again.
    pub(super) async fn snapshots(&self) -> Result<Arc<Snapshots>, SnapshotsError> {
        if let Some(opened) = self.opened.get() {
            return Ok(Arc::clone(opened));
        }
        // Not given up when containerd does: a second opening beside the first would fail.
        let (opener, cell) = (Arc::clone(&self.opener), Arc::clone(&self.opened));
        let opening = tokio::spawn(async move {
            let open = async || {
                let opened = tokio::task::spawn_blocking(move || opener()).await;
                opened.unwrap_or_else(|error| Err(SnapshotsError::Internal(error.to_string())))
            };
            cell.get_or_try_init(open).await.cloned()
        });
        let opened = opening.await;
        opened.unwrap_or_else(|error| Err(SnapshotsError::Internal(error.to_string())))
    }

    /// Returns the snapshots if they were opened.
    pub(super) fn opened(&self) -> Option<&Arc<Snapshots>> {
        self.opened.get()
    }

    /// Does what changes something, to its end: also when containerd does not wait for it.
    async fn change<T, F>(
        &self,
        work: impl FnOnce(Arc<Snapshots>) -> F + Send + 'static,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SnapshotsError>> + Send + 'static,
    {
        let snapshots = self.snapshots().await?;
        let done = tokio::spawn(work(snapshots)).await;
        let stopped = |error: tokio::task::JoinError| SnapshotsError::Internal(error.to_string());
        Ok(done.map_err(stopped)??)
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl proto::snapshots_server::Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<proto::PrepareSnapshotRequest>,
    ) -> Result<Response<proto::PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let labels = labels::checked(request.labels)?;
        let (key, parent) = (request.key, request.parent);
        let prepare = async move |snapshots: Arc<Snapshots>| {
            snapshots.prepare(Kind::Active, &key, &parent, labels).await
        };
        let mounts = self.change(prepare).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(proto::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<proto::ViewSnapshotRequest>,
    ) -> Result<Response<proto::ViewSnapshotResponse>, Status> {
        let request = request.into_inner();
        let labels = labels::checked(request.labels)?;
        let (key, parent) = (request.key, request.parent);
        let view = async move |snapshots: Arc<Snapshots>| {
            snapshots.prepare(Kind::View, &key, &parent, labels).await
        };
        let mounts = self.change(view).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(proto::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<proto::MountsRequest>,
    ) -> Result<Response<proto::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.snapshots().await?.mounts(&key).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(proto::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<proto::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let labels = labels::checked(request.labels)?;
        let (name, key, parent) = (request.name, request.key, request.parent);
        let commit = async move |snapshots: Arc<Snapshots>| {
            snapshots.commit(&name, &key, &parent, labels).await
        };
        Ok(Response::new(self.change(commit).await?))
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let remove = async move |snapshots: Arc<Snapshots>| snapshots.remove(&key).await;
        Ok(Response::new(self.change(remove).await?))
    }

    async fn stat(
        &self,
        request: Request<proto::StatSnapshotRequest>,
    ) -> Result<Response<proto::StatSnapshotResponse>, Status> {
        let snapshot = self.snapshots().await?.stat(&request.into_inner().key)?;
        let info = Some(info(&snapshot));
        Ok(Response::new(proto::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<proto::UpdateSnapshotRequest>,
    ) -> Result<Response<proto::UpdateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let wanted = request.info.unwrap_or_default();
        let labels: Labels = labels::checked(wanted.labels)?;
        let mask = request.update_mask.unwrap_or_default().paths;
        let update = async move |snapshots: Arc<Snapshots>| {
            snapshots.update(&wanted.name, &labels, &mask).await
        };
        let updated = self.change(update).await?;
        let info = Some(info(&updated));
        Ok(Response::new(proto::UpdateSnapshotResponse { info }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<proto::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = Filter::parse_all(&request.into_inner().filters)?;
        let found = self.snapshots().await?.list(&filters);
        // Each page is made when the one before was taken.
        let pages = (0..found.len()).step_by(PAGE_MAX).map(move |start| {
            let page = found.iter().skip(start).take(PAGE_MAX);
            let info = page.map(|snapshot| info(snapshot)).collect();
            Ok(proto::ListSnapshotsResponse { info })
        });
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    async fn usage(
        &self,
        request: Request<proto::UsageRequest>,
    ) -> Result<Response<proto::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.snapshots().await?.usage(&key).await?;
        let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Response::new(proto::UsageResponse {
            size: number(usage.bytes),
            inodes: number(usage.inodes),
        }))
    }

    async fn cleanup(&self, _: Request<proto::CleanupRequest>) -> Result<Response<()>, Status> {
        let cleanup = async move |snapshots: Arc<Snapshots>| snapshots.cleanup().await;
        Ok(Response::new(self.change(cleanup).await?))
    }
}

fn mount(mount: Mount) -> proto::Mount {
    proto::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

fn info(snapshot: &Snapshot) -> proto::Info {
    let kind = match snapshot.kind {
        Kind::View => proto::Kind::View,
        Kind::Active => proto::Kind::Active,
        Kind::Committed => proto::Kind::Committed,
    };
    let labels: HashMap<_, _> = snapshot.labels.clone().into_iter().collect();
    proto::Info {
        name: snapshot.name.clone(),
        parent: snapshot.parent.clone(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created_ns)),
        updated_at: Some(timestamp(snapshot.updated_ns)),
        labels,
    }
}

fn timestamp(nanoseconds: u64) -> prost_types::Timestamp {
    const SECOND_NS: u64 = 1_000_000_000;
    prost_types::Timestamp {
        seconds: i64::try_from(nanoseconds / SECOND_NS).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanoseconds % SECOND_NS).unwrap_or(0),
    }
}
