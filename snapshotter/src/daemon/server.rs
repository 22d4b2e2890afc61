//! The control API's server.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt as _;
use nacre_blobstore::{CatalogError, ReadError, RecordError, RefError, SecureError, StoreError};
use tokio::net::UnixListener;

use super::api::{
    CancelRequest, CommitVolume, CreateSnapshot, CreateVolumeRequest, DiffRequest,
    FindContainerRequest, FinishTraceRequest, OpenRequest, PrimeRequest, PruneRequest, Refusal,
    VerifyRequest, WaitRequest,
};
use super::node::{Node, NodeError};
use crate::image::ImageError;
use crate::snapshot::SnapshotError;

/// The media type of lines of JSON.
const LINES_TYPE: &str = "application/x-ndjson";

/// Why the control API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("serve {socket}: {source}")]
pub struct ServeError {
    socket: PathBuf,
    source: std::io::Error,
}

/// Serves the control API of `node` on `socket` until `until` is done. The caller holds the lock
/// that keeps a second daemon away, so a socket that is there was left by a dead one.
///
/// # Errors
/// [`ServeError`] when the socket cannot be made.
pub async fn serve(
    node: Arc<Node>,
    socket: &Path,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let fail = |source| ServeError {
        socket: socket.to_owned(),
        source,
    };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(fail)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let routes = Router::new()
        .route("/v1/info", get(info))
        .route("/v1/cache/stats", get(cache_stats))
        .route("/v1/cache/verify", post(verify_cache))
        .route("/v1/cache/prune", post(prune_cache))
        .route("/v1/images/open", post(open_image))
        .route("/v1/region/prime", post(prime_region))
        .route("/v1/snapshots/create", post(create_snapshot))
        .route("/v1/snapshots/pending", get(pending_snapshots))
        .route("/v1/snapshots/wait", post(wait_snapshot))
        .route("/v1/snapshots/cancel", post(cancel_snapshot))
        .route("/v1/trees/diff", post(diff_trees))
        .route("/v1/volumes/create", post(create_volume))
        .route("/v1/volumes/commit", post(commit_volume))
        .route("/v1/traces/finish", post(finish_trace))
        .route("/v1/containerd/stats", get(containerd_stats))
        .route("/v1/containerd/find", post(find_container))
        .route("/v1/daemon/handover", post(hand_over))
        .with_state(node);
    axum::serve(listener, routes)
        .with_graceful_shutdown(until)
        .await
        .map_err(fail)
}

async fn info(State(node): State<Arc<Node>>) -> Response {
    answer(node.info())
}

async fn hand_over(State(node): State<Arc<Node>>) -> Response {
    node.ask_handover();
    answer(node.info())
}

async fn cache_stats(State(node): State<Arc<Node>>) -> Response {
    answer(Ok(node.cache_stats()))
}

async fn verify_cache(
    State(node): State<Arc<Node>>,
    Json(request): Json<VerifyRequest>,
) -> Response {
    answer(node.verify_cache(request.shard).await)
}

async fn prune_cache(State(node): State<Arc<Node>>, Json(request): Json<PruneRequest>) -> Response {
    answer(Ok(node.prune_cache(request.to_bytes).await))
}

async fn open_image(State(node): State<Arc<Node>>, Json(request): Json<OpenRequest>) -> Response {
    answer(node.open_image(&request.image, request.mode).await)
}

async fn prime_region(
    State(node): State<Arc<Node>>,
    Json(request): Json<PrimeRequest>,
) -> Response {
    answer(node.prime_region(&request.image, request.all).await)
}

async fn create_snapshot(
    State(node): State<Arc<Node>>,
    Json(request): Json<CreateSnapshot>,
) -> Response {
    // Not cut short when the command goes away: what is frozen is thawed in any case, but a
    // snapshot that is half made is lost work.
    let created = tokio::spawn(async move { node.create_snapshot(request).await });
    answer(created.await.unwrap_or(Err(NodeError::Stopped)))
}

async fn pending_snapshots(State(node): State<Arc<Node>>) -> Response {
    answer(Ok(node.pending_snapshots()))
}

async fn wait_snapshot(
    State(node): State<Arc<Node>>,
    Json(request): Json<WaitRequest>,
) -> Response {
    answer(Ok(node
        .wait_snapshot(&request.snapshot, request.rung)
        .await))
}

async fn cancel_snapshot(
    State(node): State<Arc<Node>>,
    Json(request): Json<CancelRequest>,
) -> Response {
    // What is marked is to be removed.
    let cancelled = tokio::spawn(async move { node.cancel_snapshot(&request.snapshot).await });
    answer(cancelled.await.unwrap_or(Err(NodeError::Stopped)))
}

async fn diff_trees(State(node): State<Arc<Node>>, Json(request): Json<DiffRequest>) -> Response {
    match node.diff(request).await {
        Ok(lines) => {
            let lines = Body::from_stream(lines.map(Ok::<_, Infallible>));
            ([(CONTENT_TYPE, LINES_TYPE)], lines).into_response()
        }
        Err(error) => refusal_response(&error),
    }
}

async fn create_volume(
    State(node): State<Arc<Node>>,
    Json(request): Json<CreateVolumeRequest>,
) -> Response {
    let from = request.from.as_deref();
    answer(node.create_volume(&request.volume, from).await)
}

async fn commit_volume(
    State(node): State<Arc<Node>>,
    Json(request): Json<CommitVolume>,
) -> Response {
    // As for a snapshot.
    let committed = tokio::spawn(async move { node.commit_volume(request).await });
    answer(committed.await.unwrap_or(Err(NodeError::Stopped)))
}

async fn finish_trace(
    State(node): State<Arc<Node>>,
    Json(request): Json<FinishTraceRequest>,
) -> Response {
    answer(node.finish_trace(&request.tree).await)
}

async fn containerd_stats(State(node): State<Arc<Node>>) -> Response {
    answer(Ok(node.containerd.stats()))
}

async fn find_container(
    State(node): State<Arc<Node>>,
    Json(request): Json<FindContainerRequest>,
) -> Response {
    let found = node.containerd.find(&request.container).await;
    answer(found.map_err(NodeError::from))
}

fn answer<T: serde::Serialize>(result: Result<T, NodeError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => refusal_response(&error),
    }
}

fn refusal_response(error: &NodeError) -> Response {
    let (status, refusal) = refusal(error);
    (status, Json(refusal)).into_response()
}

/// Returns how an error is told.
pub(super) fn refusal(error: &NodeError) -> (StatusCode, Refusal) {
    let (status, code) = class(error);
    let error = error.to_string();
    (status, Refusal { error, code })
}

const CORRUPT: (StatusCode, u8) = (StatusCode::BAD_GATEWAY, 12);

/// Maps an error to its HTTP status and to the exit code of the command that met it.
fn class(error: &NodeError) -> (StatusCode, u8) {
    let of_store = |error: &StoreError| match error {
        // What a record or a name refers to should be there.
        StoreError::NotFound(_) => CORRUPT,
        StoreError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, 124),
        _ => (StatusCode::BAD_GATEWAY, 1),
    };
    match error {
        NodeError::Image(ImageError::NotFound(_)) => (StatusCode::NOT_FOUND, 10),
        NodeError::Image(ImageError::Name(_)) | NodeError::Mode(_) | NodeError::NoRegion => {
            (StatusCode::BAD_REQUEST, 2)
        }
        NodeError::Image(ImageError::Ref(RefError::Store { source, .. }))
        | NodeError::Image(ImageError::Record {
            source: RecordError::Store(source),
            ..
        })
        | NodeError::Catalog(CatalogError::Store(source)) => of_store(source),
        NodeError::Image(ImageError::Ref(_) | ImageError::Record { .. })
        | NodeError::Catalog(CatalogError::Corrupt { .. }) => CORRUPT,
        NodeError::NoPath { .. } => (StatusCode::NOT_FOUND, 10),
        NodeError::Container(error) if error.is_not_found() => (StatusCode::NOT_FOUND, 10),
        NodeError::Container(error) if error.is_invalid() => (StatusCode::BAD_REQUEST, 2),
        NodeError::Path(_) => (StatusCode::BAD_REQUEST, 2),
        NodeError::Read(ReadError::Corrupt { .. } | ReadError::NotFound(_)) => CORRUPT,
        NodeError::Read(ReadError::Unavailable { source, .. }) => of_store(source),
        NodeError::Snapshot(error) => class_of_snapshot(error),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, 1),
    }
}

fn class_of_snapshot(error: &SnapshotError) -> (StatusCode, u8) {
    match error {
        SnapshotError::NotFound(_)
        | SnapshotError::NoVolume(_)
        | SnapshotError::NoVersion { .. }
        | SnapshotError::NotDirectory(_) => (StatusCode::NOT_FOUND, 10),
        SnapshotError::Invalid(_) | SnapshotError::Name(_) => (StatusCode::BAD_REQUEST, 2),
        SnapshotError::Changed(_)
        | SnapshotError::Taken(_)
        | SnapshotError::Moved(_)
        | SnapshotError::Pending(_)
        | SnapshotError::Stuck { .. }
        | SnapshotError::Freeze { .. }
        | SnapshotError::Secure(SecureError::Gone(_) | SecureError::Busy(_) | SecureError::Late)
        | SnapshotError::Ref(RefError::Store {
            source: StoreError::Exists(_) | StoreError::Conflict(_),
            ..
        }) => (StatusCode::CONFLICT, 11),
        SnapshotError::Missing(_) | SnapshotError::Read(ReadError::Corrupt { .. }) => CORRUPT,
        SnapshotError::Store(StoreError::TimedOut { .. }) => (StatusCode::GATEWAY_TIMEOUT, 124),
        SnapshotError::Store(_) => (StatusCode::BAD_GATEWAY, 1),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, 1),
    }
}
