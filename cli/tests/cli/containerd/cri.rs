//! The calls by which Kubernetes runs containers: what these tests need of `runtime.v1` (CRI).

mod snapshots;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::scene::until;

pub(super) use snapshots::snapshot_names;

/// `NamespaceMode.NODE`: the host's.
const NODE: i32 = 2;
/// A call that takes longer fails.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `AuthConfig`.
#[derive(Clone, PartialEq, Message)]
struct Credentials {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    /// The reference of an image, or the id of a pod or container.
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
    #[prost(int32, tag = "3")]
    ipc: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodSecurity {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(message, optional, tag = "2")]
    security: Option<PodSecurity>,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<Pod>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pod_config: Option<Pod>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodsResponse {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<Named>,
}

/// A connection to containerd's CRI.
#[derive(Debug)]
pub(super) struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

const HOST: NamespaceOption = NamespaceOption {
    network: NODE,
    pid: 1,
    ipc: 0,
};

impl Cri {
    pub(super) fn connect(socket: &Path) -> Self {
        let (runtime, channel) = connect(socket);
        Self { runtime, channel }
    }

    fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            client.ready().await.unwrap();
            let path = PathAndQuery::from_static(path);
            let codec = ProstCodec::default();
            let mut request = Request::new(request);
            request.set_timeout(CALL_DEADLINE);
            let answer = client.unary(request, path, codec).await?;
            Ok(answer.into_inner())
        })
    }

    pub(super) fn pull(&self, image: &str) -> Result<(), Status> {
        self.pull_with(image, None)
    }

    /// Pulls an image with a name and a password that containerd alone is told.
    pub(super) fn pull_as(
        &self,
        image: &str,
        (user, password): (&str, &str),
    ) -> Result<(), Status> {
        let credentials = Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        self.pull_with(image, Some(credentials))
    }

    fn pull_with(&self, image: &str, credentials: Option<Credentials>) -> Result<(), Status> {
        let image = Some(ImageSpec {
            image: image.to_owned(),
        });
        let request = PullImageRequest { image, credentials };
        self.call("/runtime.v1.ImageService/PullImage", request)
            .map(|_: Named| ())
    }

    /// Takes an image out of containerd's list.
    pub(super) fn remove_image(&self, image: &str) -> Result<(), Status> {
        let image = Some(ImageSpec {
            image: image.to_owned(),
        });
        let credentials = None;
        let request = PullImageRequest { image, credentials };
        self.call("/runtime.v1.ImageService/RemoveImage", request)
            .map(|_: Empty| ())
    }

    /// Starts a pod on the host's network.
    pub(super) fn pod(&self, name: &str, logs: &Path) -> (String, Pod) {
        let pod = Pod {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "default".to_owned(),
            }),
            log_directory: logs.display().to_string(),
            labels: HashMap::new(),
            linux: Some(LinuxPod {
                security: Some(PodSecurity {
                    namespaces: Some(HOST),
                }),
            }),
        };
        let request = RunPodRequest {
            config: Some(pod.clone()),
        };
        let started: Named = self
            .call("/runtime.v1.RuntimeService/RunPodSandbox", request)
            .unwrap();
        (started.id, pod)
    }

    /// Starts a container in a pod; its output goes to a file of its name in the pod's logs.
    pub(super) fn start(
        &self,
        pod: &(String, Pod),
        name: &str,
        image: &str,
        command: &[&str],
    ) -> String {
        self.try_start(pod, name, image, command).unwrap()
    }

    pub(super) fn try_start(
        &self,
        (pod, config): &(String, Pod),
        name: &str,
        image: &str,
        command: &[&str],
    ) -> Result<String, Status> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: name.to_owned(),
            linux: Some(LinuxContainer {
                security: Some(ContainerSecurity {
                    namespaces: Some(HOST),
                }),
            }),
        };
        let request = CreateContainerRequest {
            pod: pod.clone(),
            config: Some(container),
            pod_config: Some(config.clone()),
        };
        let created: Named = self.call("/runtime.v1.RuntimeService/CreateContainer", request)?;
        let _: Empty = self.call("/runtime.v1.RuntimeService/StartContainer", created.clone())?;
        Ok(created.id)
    }

    /// Removes a container, which has ended or is killed.
    pub(super) fn remove(&self, container: &str) -> Result<(), Status> {
        let container = Named {
            id: container.to_owned(),
        };
        self.call("/runtime.v1.RuntimeService/RemoveContainer", container)
            .map(|_: Empty| ())
    }

    /// Returns the ids of all pods.
    pub(super) fn pods(&self) -> Vec<String> {
        let path = "/runtime.v1.RuntimeService/ListPodSandbox";
        let listed: ListPodsResponse = self.call(path, Empty {}).unwrap();
        listed.pods.into_iter().map(|pod| pod.id).collect()
    }

    /// Stops and removes a pod with its containers.
    pub(super) fn remove_pod(&self, pod: &str) {
        let call = |path: &'static str| -> Result<Empty, Status> {
            self.call(path, Named { id: pod.to_owned() })
        };
        // As the kubelet does: a container that ends just then may end its shim before the answer
        // (containerd 1.6), and the call is for being made again.
        until("the pod stops", || {
            match call("/runtime.v1.RuntimeService/StopPodSandbox") {
                Err(error) if error.message().contains("ttrpc: closed") => false,
                stopped => stopped.map(|_| true).unwrap(),
            }
        });
        call("/runtime.v1.RuntimeService/RemovePodSandbox").unwrap();
    }
}

/// Connects to a socket.
fn connect(socket: &Path) -> (tokio::runtime::Runtime, Channel) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connector = Connector(socket.to_owned());
    let endpoint = Endpoint::from_static("http://localhost");
    let connected = endpoint.connect_with_connector(connector);
    let channel = runtime.block_on(connected).unwrap();
    (runtime, channel)
}

#[derive(Clone)]
struct Connector(PathBuf);

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
