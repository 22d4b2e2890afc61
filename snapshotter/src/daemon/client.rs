//! The control API's client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::api::{
    CacheCheck, CachePrune, CacheStats, CancelRequest, CommitVolume, CommittedVolume,
    CreateSnapshot, CreateVolumeRequest, CreatedSnapshot, DiffLine, DiffRequest,
    FindContainerRequest, FinishTraceRequest, FinishedTrace, MountMode, NodeInfo, OpenRequest,
    OpenedImage, PendingSnapshot, PrimeRequest, PrimedRegion, PruneRequest, Refusal, Rung,
    VerifyRequest, WaitRequest,
};

use crate::containerd::{ContainerdStats, FoundContainer};

/// How long an answer may take; opening an image reads from the store.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long a snapshot may take, which uploads all that was written.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Longest answer: a config of 8 MiB, escaped as JSON.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("no daemon answers on {0}")]
    NotRunning(PathBuf),
    /// It refused.
    #[error("{error}")]
    Refused {
        /// Its reason.
        error: String,
        /// The exit code that it asks for.
        code: u8,
    },
    /// It did not answer in time.
    #[error("the daemon did not answer in time")]
    TimedOut,
    /// The connection broke.
    #[error("talk to the daemon: {0}")]
    Connection(String),
}

/// Talks to the daemon on a socket. Each call is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Talks to whoever listens on `socket`.
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Returns the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks what the daemon is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn info(&self) -> Result<NodeInfo, ClientError> {
        self.call(Method::GET, "/v1/info", &()).await
    }

    /// Asks the daemon to leave its mounts to the next one and to end. It answers before it does.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hand_over(&self) -> Result<NodeInfo, ClientError> {
        self.call(Method::POST, "/v1/daemon/handover", &()).await
    }

    /// Asks what became of the layers that containerd asked for.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn containerd_stats(&self) -> Result<ContainerdStats, ClientError> {
        self.call(Method::GET, "/v1/containerd/stats", &()).await
    }

    /// Asks what a container of containerd wrote, and over what.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn find_container(&self, container: &str) -> Result<FoundContainer, ClientError> {
        let request = FindContainerRequest {
            container: container.to_owned(),
        };
        self.call(Method::POST, "/v1/containerd/find", &request)
            .await
    }

    /// Asks where reads were served from.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cache_stats(&self) -> Result<CacheStats, ClientError> {
        self.call(Method::GET, "/v1/cache/stats", &()).await
    }

    /// Checks the complete contents of the cache whose ids begin with the byte `shard`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn verify_cache(&self, shard: u8) -> Result<CacheCheck, ClientError> {
        let request = VerifyRequest { shard };
        self.call(Method::POST, "/v1/cache/verify", &request).await
    }

    /// Evicts a part of what is above `to_bytes` from the cache; to be repeated until it is done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune_cache(&self, to_bytes: u64) -> Result<CachePrune, ClientError> {
        let request = PruneRequest { to_bytes };
        self.call(Method::POST, "/v1/cache/prune", &request).await
    }

    /// Fills the region's cache with what starts of an image read, or with all of the image.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prime_region(&self, image: &str, all: bool) -> Result<PrimedRegion, ClientError> {
        let image = image.to_owned();
        let request = PrimeRequest { image, all };
        self.call(Method::POST, "/v1/region/prime", &request).await
    }

    /// Makes an image readable, in a mode or, without one, in the best that the node has.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open_image(
        &self,
        image: &str,
        mode: Option<MountMode>,
    ) -> Result<OpenedImage, ClientError> {
        let request = OpenRequest {
            image: image.to_owned(),
            mode,
        };
        self.call(Method::POST, "/v1/images/open", &request).await
    }

    /// Makes a snapshot of what was written to an upper directory.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_snapshot(
        &self,
        request: &CreateSnapshot,
    ) -> Result<CreatedSnapshot, ClientError> {
        let call = self.call_within(
            SNAPSHOT_DEADLINE,
            Method::POST,
            "/v1/snapshots/create",
            request,
        );
        call.await
    }

    /// Returns the snapshots that are not durable yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pending_snapshots(&self) -> Result<Vec<PendingSnapshot>, ClientError> {
        self.call(Method::GET, "/v1/snapshots/pending", &()).await
    }

    /// Waits a while until a pending snapshot is as safe as `rung`, or cannot be, and tells how it
    /// stands: `None` when none of that name or id is pending. To be repeated.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait_snapshot(
        &self,
        snapshot: &str,
        rung: Rung,
    ) -> Result<Option<PendingSnapshot>, ClientError> {
        let request = WaitRequest {
            snapshot: snapshot.to_owned(),
            rung,
        };
        self.call(Method::POST, "/v1/snapshots/wait", &request)
            .await
    }

    /// Drops the pending snapshots of a name or an id, and tells how many there were.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel_snapshot(&self, snapshot: &str) -> Result<u64, ClientError> {
        let request = CancelRequest {
            snapshot: snapshot.to_owned(),
        };
        let path = "/v1/snapshots/cancel";
        let call = self.call_within(SNAPSHOT_DEADLINE, Method::POST, path, &request);
        call.await
    }

    /// Makes a volume, and returns the id of its first version's record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_volume(
        &self,
        volume: &str,
        from: Option<&str>,
    ) -> Result<String, ClientError> {
        let request = CreateVolumeRequest {
            volume: volume.to_owned(),
            from: from.map(str::to_owned),
        };
        self.call(Method::POST, "/v1/volumes/create", &request)
            .await
    }

    /// Makes what was written to a mount of a volume its next version.
    ///
    /// # Errors
    /// [`ClientError`]. A conflict is none.
    pub async fn commit_volume(
        &self,
        request: &CommitVolume,
    ) -> Result<CommittedVolume, ClientError> {
        let path = "/v1/volumes/commit";
        let call = self.call_within(SNAPSHOT_DEADLINE, Method::POST, path, request);
        call.await
    }

    /// Ends the recording of a start of `tree` and stores it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn finish_trace(&self, tree: &str) -> Result<FinishedTrace, ClientError> {
        let request = FinishTraceRequest {
            tree: tree.to_owned(),
        };
        self.call(Method::POST, "/v1/traces/finish", &request).await
    }

    /// Compares two trees. The differences come as the daemon finds them; it stops when they are
    /// dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn diff(&self, request: &DiffRequest) -> Result<DiffLines, ClientError> {
        let send = self.send(Method::POST, "/v1/trees/diff", request);
        let answer = tokio::time::timeout(ANSWER_DEADLINE, send);
        let mut lines = DiffLines {
            answer: answer.await.map_err(|_| ClientError::TimedOut)??,
            read: BytesMut::new(),
            searched_bytes: 0,
            ended: false,
        };
        if lines.answer.response.status().is_success() {
            return Ok(lines);
        }
        let body = Limited::new(lines.answer.response.body_mut(), ANSWER_BYTES_MAX);
        Err(refused(&body.collect().await.map_err(broken)?.to_bytes()))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.call_within(ANSWER_DEADLINE, method, path, body).await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let answer = tokio::time::timeout(deadline, self.exchange(method, path, body));
        let (ok, bytes) = answer.await.map_err(|_| ClientError::TimedOut)??;
        if ok {
            return serde_json::from_slice(&bytes).map_err(broken);
        }
        Err(refused(&bytes))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(bool, Bytes), ClientError> {
        let mut answer = self.send(method, path, body).await?;
        let ok = answer.response.status().is_success();
        let body = Limited::new(answer.response.body_mut(), ANSWER_BYTES_MAX);
        Ok((ok, body.collect().await.map_err(broken)?.to_bytes()))
    }

    /// Sends a request and returns the answer, whose body is yet to come.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|_| ClientError::NotRunning(self.socket.clone()))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let driver = Driver(tokio::spawn(connection));
        let body = serde_json::to_vec(body).map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "nacre")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(Answer { response, driver })
    }
}

/// An answer under way.
#[derive(Debug)]
struct Answer {
    response: Response<Incoming>,
    #[expect(dead_code, reason = "drives the connection until it is dropped")]
    driver: Driver,
}

/// The task of a connection, which ends with its user.
#[derive(Debug)]
struct Driver(JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The differences of two trees, one after the other.
#[derive(Debug)]
pub struct DiffLines {
    answer: Answer,
    read: BytesMut,
    /// How much of `read` has no end of a line in it.
    searched_bytes: usize,
    /// Whether the last line was seen.
    ended: bool,
}

impl DiffLines {
    /// Returns the next line; `None` after the summary.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the daemon could not finish, [`ClientError::Connection`] when it
    /// went away before the summary.
    pub async fn next(&mut self) -> Result<Option<DiffLine>, ClientError> {
        loop {
            let rest = &self.read[self.searched_bytes..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched_bytes + end + 1);
                self.searched_bytes = 0;
                return match serde_json::from_slice(&line).map_err(broken)? {
                    DiffLine::Error(Refusal { error, code }) => {
                        Err(ClientError::Refused { error, code })
                    }
                    line => {
                        self.ended = matches!(line, DiffLine::Summary(_));
                        Ok(Some(line))
                    }
                };
            }
            self.searched_bytes = self.read.len();
            if self.read.len() > ANSWER_BYTES_MAX {
                return Err(broken("a line is too long"));
            }
            match self.answer.response.frame().await {
                None if self.ended => return Ok(None),
                None => return Err(broken("the answer ended early")),
                Some(frame) => {
                    if let Some(bytes) = frame.map_err(broken)?.data_ref() {
                        self.read.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
}

fn refused(answer: &[u8]) -> ClientError {
    match serde_json::from_slice(answer) {
        Ok(Refusal { error, code }) => ClientError::Refused { error, code },
        Err(_) => ClientError::Connection(String::from_utf8_lossy(answer).into_owned()),
    }
}

fn broken(error: impl std::fmt::Display) -> ClientError {
    ClientError::Connection(error.to_string())
}
