//! containerd's own API: what nacre makes for it goes to its content store, in the namespace and
//! under the lease of whoever asked.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{SinkExt as _, future};
use nacre_blobstore::Clock;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::error::SnapshotsError;
use super::labels::SNAPSHOT_REF;
use super::proto::containers::GetContainerRequest;
use super::proto::containers::containers_client::ContainersClient;
use super::proto::content::content_client::ContentClient;
use super::proto::content::{Info, UpdateRequest, WriteAction, WriteContentRequest};
use super::proto::images::images_client::ImagesClient;
use super::proto::images::{CreateImageRequest, Image, UpdateImageRequest};
use super::proto::leases::CreateRequest;
use super::proto::leases::leases_client::LeasesClient;
use super::proto::snapshots_client::SnapshotsClient;
use super::proto::tasks::GetRequest;
use super::proto::tasks::tasks_client::TasksClient;
use super::proto::version::version_client::VersionClient;
use super::proto::{Descriptor, PrepareSnapshotRequest, RemoveSnapshotRequest};
use crate::export::rfc3339;
use crate::oci::OciDigest;

/// How long containerd may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of content in one message.
const PIECE_BYTES: usize = 1 << 20;
/// Messages on their way.
const MESSAGES_MAX: usize = 2;
/// How long content is kept that nothing refers to yet, when whoever asked for it has no lease.
const LEASE: Duration = Duration::from_secs(3600);

/// The names of metadata.
pub(super) const NAMESPACE: &str = "containerd-namespace";
pub(super) const LEASE_ID: &str = "containerd-lease";
/// The digest of the plain tar of a compressed layer.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// When a lease ends.
const EXPIRES: &str = "containerd.io/gc.expire";

/// One namespace of a containerd.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

/// What is written to the content store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) digest: &'a OciDigest,
    pub(super) size_bytes: u64,
    /// What containerd calls it while it is written; two of one name are not written at once.
    pub(super) reference: &'a str,
    pub(super) labels: &'a HashMap<String, String>,
}

impl Client {
    /// Connects to the socket of a containerd.
    ///
    /// # Errors
    /// [`SnapshotsError::Unavailable`]; [`SnapshotsError::Invalid`] for what is no namespace.
    pub(super) async fn connect(socket: &Path, namespace: &str) -> Result<Self, SnapshotsError> {
        let fail = |error: &dyn std::fmt::Display| {
            let socket = socket.display();
            SnapshotsError::Unavailable(format!("reach containerd at {socket}: {error}"))
        };
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()));
        let endpoint = endpoint.map_err(|error| fail(&error))?;
        let endpoint = endpoint.connect_timeout(CONNECT_DEADLINE);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| fail(&source(&error)))?;
        let invalid = |_| SnapshotsError::Invalid(format!("{namespace:?} is no namespace"));
        Ok(Self {
            channel,
            namespace: namespace.parse().map_err(invalid)?,
            lease: None,
        })
    }

    /// Returns the version of containerd, such as `v2.4.2`.
    ///
    /// # Errors
    /// [`SnapshotsError`] when it does not answer.
    pub(super) async fn version(&self) -> Result<String, SnapshotsError> {
        let mut versions = VersionClient::new(self.channel.clone());
        let answer = versions.version(self.request(())).await;
        let answer = answer.map_err(|status| refused("tell its version", &status))?;
        Ok(answer.into_inner().version)
    }

    /// Puts what is made under a lease: a given one, or else one that is made and ends by itself.
    ///
    /// # Errors
    /// [`SnapshotsError`] when none can be made.
    pub(super) async fn under(
        self,
        lease: Option<MetadataValue<Ascii>>,
        clock: &dyn Clock,
    ) -> Result<Self, SnapshotsError> {
        let lease = match lease {
            Some(lease) => lease,
            None => self.make_lease(clock).await?,
        };
        let lease = Some(lease);
        Ok(Self { lease, ..self })
    }

    async fn make_lease(&self, clock: &dyn Clock) -> Result<MetadataValue<Ascii>, SnapshotsError> {
        let keep_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let expires = rfc3339(clock.now_ms().saturating_add(keep_ms));
        let id = format!("nacre-{:016x}", random()?);
        let request = CreateRequest {
            id: id.clone(),
            labels: [(EXPIRES.to_owned(), expires)].into(),
        };
        let mut leases = LeasesClient::new(self.channel.clone());
        let made = leases.create(self.request(request)).await;
        made.map_err(|status| refused("make a lease", &status))?;
        id.parse()
            .map_err(|_| SnapshotsError::Internal("a lease without a name".to_owned()))
    }

    /// Writes content. What is there already gets the labels that it has not got.
    ///
    /// # Errors
    /// [`SnapshotsError`]; what was written until then is containerd's to remove.
    pub(super) async fn write(
        &self,
        content: Content<'_>,
        bytes: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SnapshotsError> {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let mut contents = ContentClient::new(self.channel.clone());
        let receive = async {
            let answers = contents.write(self.request(messages)).await;
            let mut answers = answers?.into_inner();
            let mut is_committed = false;
            while let Some(answer) = answers.message().await? {
                is_committed |= answer.action() == WriteAction::Commit;
            }
            Ok::<_, Status>(is_committed)
        };
        let (sent, received) = future::join(send(sender, content, bytes), receive).await;
        match received {
            Ok(true) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => self.label(content).await,
            Err(status) => Err(refused("write content", &status)),
            // It took all that it was sent, which was not all.
            Ok(false) => Err(match sent {
                Err(error) => SnapshotsError::disk("read a layer", &error),
                Ok(()) => SnapshotsError::Internal("containerd commits no content".to_owned()),
            }),
        }
    }

    async fn label(&self, content: Content<'_>) -> Result<(), SnapshotsError> {
        let paths = content.labels.keys().map(|key| format!("labels.{key}"));
        let paths: Vec<String> = paths.collect();
        if paths.is_empty() {
            return Ok(());
        }
        let request = UpdateRequest {
            info: Some(Info {
                digest: content.digest.to_string(),
                labels: content.labels.clone(),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let mut contents = ContentClient::new(self.channel.clone());
        let labelled = contents.update(self.request(request)).await;
        labelled.map_err(|status| refused("label content", &status))?;
        Ok(())
    }

    /// Has a snapshotter of containerd attach a layer; what is attached already stays.
    ///
    /// # Errors
    /// [`SnapshotsError::Precondition`] when it would have the layer unpacked.
    pub(super) async fn attach(
        &self,
        snapshotter: &str,
        chain_id: &str,
        parent: &str,
    ) -> Result<(), SnapshotsError> {
        let key = format!("attach-{:016x} {chain_id}", random()?);
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: [(SNAPSHOT_REF.to_owned(), chain_id.to_owned())].into(),
        };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        match snapshots.prepare(self.request(request)).await {
            Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
            Err(status) => return Err(refused("prepare a layer", &status)),
            Ok(_) => {}
        }
        let request = RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key,
        };
        if let Err(status) = snapshots.remove(self.request(request)).await {
            tracing::warn!(%status, "a snapshot that was made in vain stays");
        }
        Err(SnapshotsError::Precondition(format!(
            "snapshotter {snapshotter:?} of containerd does not find layer {chain_id}: it uses \
             another store, or the policy `never`"
        )))
    }

    /// Gives an image a name, taking that from whatever has it.
    ///
    /// # Errors
    /// [`SnapshotsError`].
    pub(super) async fn name_image(
        &self,
        name: &str,
        target: Descriptor,
    ) -> Result<(), SnapshotsError> {
        let image = Some(Image {
            name: name.to_owned(),
            target: Some(target),
            ..Image::default()
        });
        let mut images = ImagesClient::new(self.channel.clone());
        let request = CreateImageRequest {
            image: image.clone(),
        };
        match images.create(self.request(request)).await {
            Err(status) if status.code() == Code::AlreadyExists => {}
            created => {
                created.map_err(|status| refused("name an image", &status))?;
                return Ok(());
            }
        }
        let updated = images
            .update(self.request(UpdateImageRequest { image }))
            .await;
        updated.map_err(|status| refused("name an image", &status))?;
        Ok(())
    }

    /// Returns the key of the snapshot of a container; `None` if there is no such container.
    ///
    /// # Errors
    /// [`SnapshotsError`].
    pub(super) async fn container(&self, id: &str) -> Result<Option<String>, SnapshotsError> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = GetContainerRequest { id: id.to_owned() };
        let found = containers.get(self.request(request)).await;
        let found = found_or_none("look for a container", found)?;
        Ok(found.and_then(|found| Some(found.container?.snapshot_key)))
    }

    /// Returns the first process of a container; `None` if none runs.
    ///
    /// # Errors
    /// [`SnapshotsError`].
    pub(super) async fn process(&self, container: &str) -> Result<Option<u32>, SnapshotsError> {
        let mut tasks = TasksClient::new(self.channel.clone());
        let request = GetRequest {
            container_id: container.to_owned(),
        };
        let found = tasks.get(self.request(request)).await;
        let found = found_or_none("look for a task", found)?;
        let process = found.and_then(|found| Some(found.process?.pid));
        Ok(process.filter(|process| *process > 0))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert(LEASE_ID, lease.clone());
        }
        request
    }
}

/// Sends content in pieces. Stops without an error when nobody takes them any more.
async fn send(
    mut messages: mpsc::Sender<WriteContentRequest>,
    content: Content<'_>,
    mut bytes: impl AsyncRead + Unpin,
) -> std::io::Result<()> {
    let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
    let mut offset = 0_u64;
    while offset < content.size_bytes {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        let left = (content.size_bytes - offset).min(PIECE_BYTES as u64);
        let read = (&mut bytes).take(left).read_to_end(&mut data).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut message = message(content, WriteAction::Write, number(offset));
        message.data = data;
        offset += read as u64;
        if messages.send(message).await.is_err() {
            return Ok(());
        }
    }
    let mut commit = message(content, WriteAction::Commit, number(offset));
    commit.labels = content.labels.clone();
    // Who has gone away has said why.
    drop(messages.send(commit).await);
    Ok(())
}

fn message(content: Content<'_>, action: WriteAction, offset: i64) -> WriteContentRequest {
    // With each message that says what is expected, containerd looks whether it is there.
    let is_told = offset == 0 || action == WriteAction::Commit;
    WriteContentRequest {
        action: action.into(),
        r#ref: content.reference.to_owned(),
        total: i64::try_from(content.size_bytes).unwrap_or(i64::MAX),
        expected: if is_told {
            content.digest.to_string()
        } else {
            String::new()
        },
        offset,
        ..WriteContentRequest::default()
    }
}

/// Returns a number that nobody else has.
pub(super) fn random() -> Result<u64, SnapshotsError> {
    getrandom::u64().map_err(|error| SnapshotsError::Internal(error.to_string()))
}

fn found_or_none<T>(
    what: &str,
    answer: Result<Response<T>, Status>,
) -> Result<Option<T>, SnapshotsError> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refused(what, &status)),
        Ok(found) => Ok(Some(found.into_inner())),
    }
}

/// Says what containerd refuses.
fn refused(what: &str, status: &Status) -> SnapshotsError {
    let text = format!("containerd: {what}: {}", status.message());
    match status.code() {
        Code::Unavailable => SnapshotsError::Unavailable(text),
        _ => SnapshotsError::Internal(text),
    }
}

/// Returns the first cause of an error: tonic tells the others of a transport only.
fn source(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
