//! Layers of what was written, given to a containerd that is none.

use std::collections::HashMap;
use std::fs;
use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener as Socket;
use std::path::Path;
use std::sync::{Arc, Mutex};

use flate2::read::GzDecoder;
use futures::stream::{self, BoxStream};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::super::proto::content::content_server::{self, ContentServer};
use super::super::proto::content::{
    UpdateRequest, UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use super::super::proto::diff::diff_client::DiffClient;
use super::super::proto::diff::{ApplyRequest, DiffRequest};
use super::super::proto::leases::leases_server::{self, LeasesServer};
use super::super::proto::leases::{CreateRequest, CreateResponse};
use super::super::proto::{Descriptor, Mount};
use super::scene::Scene;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A content store in memory.
#[derive(Clone, Default)]
struct Containerd(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    blobs: HashMap<String, (Vec<u8>, HashMap<String, String>)>,
    leases: Vec<CreateRequest>,
    /// Namespace, lease and ref of each write.
    writes: Vec<(String, String, String)>,
}

#[tonic::async_trait]
impl content_server::Content for Containerd {
    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let request = request.into_inner();
        let info = request.info.unwrap();
        let mut held = self.0.lock().unwrap();
        let (_, labels) = held.blobs.get_mut(&info.digest).unwrap();
        for path in request.update_mask.unwrap().paths {
            let key = path.strip_prefix("labels.").unwrap();
            labels.insert(key.to_owned(), info.labels[key].clone());
        }
        Ok(Response::new(UpdateResponse::default()))
    }

    type WriteStream = BoxStream<'static, Result<WriteContentResponse, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let text = |key: &str, metadata: &MetadataMap| {
            let value = metadata.get(key).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let namespace = text("containerd-namespace", request.metadata());
        let lease = text("containerd-lease", request.metadata());
        let mut messages = request.into_inner();
        let (mut bytes, mut answers, mut first) = (Vec::new(), Vec::new(), true);
        while let Some(message) = messages.message().await? {
            let mut held = self.0.lock().unwrap();
            if std::mem::take(&mut first) {
                let write = (namespace.clone(), lease.clone(), message.r#ref.clone());
                held.writes.push(write);
            }
            if held.blobs.contains_key(&message.expected) {
                return Err(Status::already_exists("there"));
            }
            assert_eq!(usize::try_from(message.offset).unwrap(), bytes.len());
            bytes.extend(&message.data);
            if message.action() == WriteAction::Commit {
                assert_eq!(usize::try_from(message.total).unwrap(), bytes.len());
                assert_eq!(message.expected, digest(&bytes));
                let blob = (bytes.clone(), message.labels);
                held.blobs.insert(message.expected, blob);
            }
            answers.push(Ok(WriteContentResponse {
                action: message.action,
                ..WriteContentResponse::default()
            }));
        }
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }
}

#[tonic::async_trait]
impl leases_server::Leases for Containerd {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        self.0.lock().unwrap().leases.push(request.into_inner());
        Ok(Response::new(CreateResponse::default()))
    }
}

impl Containerd {
    fn serve(socket: &Path) -> (Self, JoinHandle<()>) {
        let held = Self::default();
        let listener = UnixListener::bind(socket).unwrap();
        let connections = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(connection, _)| connection);
            Some((accepted, listener))
        });
        let server = Server::builder()
            .add_service(ContentServer::new(held.clone()))
            .add_service(LeasesServer::new(held.clone()));
        let served = tokio::spawn(async move {
            server.serve_with_incoming(connections).await.unwrap();
        });
        (held, served)
    }

    fn blob(&self, digest: &str) -> (Vec<u8>, HashMap<String, String>) {
        self.0.lock().unwrap().blobs[digest].clone()
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

impl Scene {
    /// Changes what a layer holds; returns the mounts before and after.
    async fn changed(&self, key: &str) -> (Vec<Mount>, Vec<Mount>) {
        self.layer("base", "", base).await;
        let right = self.prepare(key, "base", &[]).await.unwrap();
        self.with(&right, change);
        (self.view("view", "base").await.unwrap(), right)
    }

    async fn diff(
        &self,
        left: &[Mount],
        right: &[Mount],
        media_type: &str,
    ) -> Result<Descriptor, Code> {
        let mut request = Request::new(DiffRequest {
            left: left.to_vec(),
            right: right.to_vec(),
            media_type: media_type.to_owned(),
            labels: HashMap::from([("mine".to_owned(), "1".to_owned())]),
            ..DiffRequest::default()
        });
        let namespace = "tests".parse().unwrap();
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        let answer = DiffClient::new(self.channel.clone()).diff(request).await;
        let answer = answer.map_err(|status| status.code())?;
        Ok(answer.into_inner().diff.unwrap())
    }
}

/// Lists the entries of a tar, each with what it is.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let link = entry
            .link_name()
            .unwrap()
            .map(|link| link.display().to_string());
        let extensions = entry.pax_extensions().unwrap();
        let xattrs: String = (extensions.into_iter().flatten())
            .filter_map(|extension| {
                let extension = extension.unwrap();
                let name = extension.key().unwrap().strip_prefix("SCHILY.xattr.")?;
                Some(format!(" {name}={}", extension.value().unwrap()))
            })
            .collect();
        let mode = entry.header().mode().unwrap();
        let kind = entry.header().entry_type();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        format!(
            "{path} {kind:?} {mode:o} {}{text}{xattrs}",
            link.unwrap_or_default()
        )
    });
    entries.collect()
}

fn base(root: &Path) {
    fs::create_dir_all(root.join("d/sub")).unwrap();
    for name in ["kept", "changed", "gone", "d/old", "d/sub/old", "moded"] {
        fs::write(root.join(name), name).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(0o644)).unwrap();
    }
}

fn change(root: &Path) {
    fs::write(root.join("changed"), "new").unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("d")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/new"), "in d").unwrap();
    fs::hard_link(root.join("d/new"), root.join("d/twin")).unwrap();
    symlink("kept", root.join("link")).unwrap();
    fs::set_permissions(root.join("moded"), Permissions::from_mode(0o600)).unwrap();
    let set = rustix::fs::setxattr(
        root.join("d/new"),
        "user.mark",
        b"x",
        rustix::fs::XattrFlags::empty(),
    );
    set.unwrap();
    drop(Socket::bind(root.join("socket")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_in_a_container_is_no_part_of_its_layer() {
    let scene = Scene::new().await;
    let (containerd, served) = Containerd::serve(&scene.root.path().join("containerd.sock"));
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("file"), "data").unwrap();
    let layer = scene.stored.add("data", data.path());
    let named = ("data:v1".to_owned(), layer);
    scene.stored.names.lock().unwrap().extend([named]);
    scene.layer("base", "", |_| ()).await;
    let labels = [("containerd.io/snapshot/nacre.mount.0", "data:v1:/data")];
    let right = scene.prepare("tests/1/c", "base", &labels).await.unwrap();
    scene.with(&right, |root| fs::write(root.join("own"), "own").unwrap());
    let left = scene.view("view", "base").await.unwrap();
    let made = scene.diff(&left, &right, PLAIN).await.unwrap();
    let (blob, _) = containerd.blob(&made.digest);
    let names = entries(&blob);
    let names: Vec<_> = names
        .iter()
        .filter_map(|entry| entry.split(' ').next())
        .collect();
    assert_eq!(names, ["./", "data/", "own"]);
    let root = scene.diff(&left, &right[..1], PLAIN).await;
    assert_eq!(
        root.err(),
        Some(Code::Unimplemented),
        "these are not its mounts"
    );
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_holds_what_was_written_and_hides_what_was_removed() {
    let scene = Scene::new().await;
    let (containerd, served) = Containerd::serve(&scene.root.path().join("containerd.sock"));
    let (left, right) = scene.changed("tests/1/c").await;
    let made = scene.diff(&left, &right, "").await.unwrap();
    assert_eq!(made.media_type, GZIP);
    let (blob, labels) = containerd.blob(&made.digest);
    assert_eq!(usize::try_from(made.size).unwrap(), blob.len());
    let mut tar = Vec::new();
    GzDecoder::new(&*blob).read_to_end(&mut tar).unwrap();
    assert_eq!(labels[UNCOMPRESSED], digest(&tar));
    assert_eq!(labels["mine"], "1");
    assert_eq!(
        entries(&tar),
        [
            "./ Directory 755 ",
            "changed Regular 644 new",
            "d/ Directory 755 ",
            "d/new Regular 644 in d user.mark=x",
            "d/.wh.old Regular 0 ",
            "d/.wh.sub Regular 0 ",
            "d/twin Link 644 d/new",
            ".wh.gone Regular 0 ",
            "link Symlink 777 kept",
            "moded Regular 600 moded",
        ]
    );
    // It was written under a lease that ends by itself.
    let (lease, writes) = {
        let held = containerd.0.lock().unwrap();
        (held.leases[0].clone(), held.writes.clone())
    };
    assert!(lease.labels["containerd.io/gc.expire"].ends_with('Z'));
    let (namespace, under, reference) = writes[0].clone();
    assert_eq!((namespace.as_str(), under), ("tests", lease.id));
    assert!(!reference.is_empty());

    // A second time it is there, and only labelled.
    {
        let mut held = containerd.0.lock().unwrap();
        held.blobs.get_mut(&made.digest).unwrap().1.clear();
    }
    assert_eq!(scene.diff(&left, &right, GZIP).await.unwrap(), made);
    let (_, labels) = containerd.blob(&made.digest);
    assert_eq!(labels[UNCOMPRESSED], digest(&tar));

    assert_eq!(
        fs::read_dir(scene.root.path().join("layers"))
            .unwrap()
            .count(),
        0
    );
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_says_namespace_lease_reference_and_kind() {
    let scene = Scene::new().await;
    let (containerd, served) = Containerd::serve(&scene.root.path().join("containerd.sock"));
    let (left, right) = scene.changed("tests/1/c").await;
    let ask = async |request: DiffRequest| {
        let mut request = Request::new(DiffRequest {
            left: left.clone(),
            right: right.clone(),
            media_type: ZSTD.to_owned(),
            ..request
        });
        for (key, value) in [
            ("containerd-namespace", "other"),
            ("containerd-lease", "held"),
        ] {
            request.metadata_mut().insert(key, value.parse().unwrap());
        }
        DiffClient::new(scene.channel.clone()).diff(request).await
    };
    let dated = DiffRequest {
        source_date_epoch: Some(prost_types::Timestamp::default()),
        ..DiffRequest::default()
    };
    let refused = ask(dated).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "times are as they are");
    let named = DiffRequest {
        r#ref: "mine".to_owned(),
        ..DiffRequest::default()
    };
    let made = ask(named).await.unwrap().into_inner().diff.unwrap();
    assert_eq!(made.media_type, ZSTD);
    let (blob, _) = containerd.blob(&made.digest);
    assert_eq!(blob[..4], ZSTD_MAGIC);
    {
        let held = containerd.0.lock().unwrap();
        let expected = ["other", "held", "mine"].map(str::to_owned);
        assert_eq!(held.writes, [expected.into()]);
        assert!(held.leases.is_empty());
    }
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_over_what_was_committed_leads_from_that() {
    let scene = Scene::new().await;
    let (containerd, served) = Containerd::serve(&scene.root.path().join("containerd.sock"));
    let (left, right) = scene.changed("tests/1/c").await;
    let made = scene.diff(&left, &right, PLAIN).await.unwrap();
    scene.commit("tests/2/c", "tests/1/c").await.unwrap();
    let committed = scene.view("view of c", "tests/2/c").await.unwrap();
    assert_eq!(scene.diff(&left, &committed, PLAIN).await.unwrap(), made);
    let right = scene.prepare("tests/3/c", "tests/2/c", &[]).await.unwrap();
    scene.with(&right, |root| {
        assert_eq!(fs::read_to_string(root.join("d/twin")).unwrap(), "in d");
        fs::hard_link(root.join("changed"), root.join("moved")).unwrap();
        fs::remove_file(root.join("changed")).unwrap();
    });
    let top = scene.diff(&committed, &right, PLAIN).await.unwrap();
    let (tar, _) = containerd.blob(&top.digest);
    assert_eq!(
        entries(&tar),
        [
            "./ Directory 755 ",
            ".wh.changed Regular 0 ",
            "moved Regular 644 new",
        ]
    );
    assert_eq!(
        fs::read_dir(scene.root.path().join("layers"))
            .unwrap()
            .count(),
        0
    );
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_to_the_next_differ() {
    let scene = Scene::new().await;
    scene.layer("base", "", base).await;
    scene.layer("other", "", base).await;
    let right = scene.prepare("c", "base", &[]).await.unwrap();
    let left = scene.view("view", "base").await.unwrap();
    let of_other = scene.view("view of other", "other").await.unwrap();
    let mut tuned = right.clone();
    tuned[0].options.push("volatile".to_owned());
    let mut elsewhere = right.clone();
    for option in &mut elsewhere[0].options {
        *option = option.replace("/sn/", "/ns/");
    }
    for (left, right, media_type) in [
        (&of_other, &right, ""),
        (&right, &left, ""),
        (&left, &left, ""),
        (&vec![], &right, ""),
        (&left, &vec![], ""),
        (&left, &tuned, ""),
        (&left, &elsewhere, ""),
        (&left, &right, "application/vnd.oci.image.layer.v1.tar+xz"),
    ] {
        let refused = scene.diff(left, right, media_type).await;
        assert_eq!(refused, Err(Code::Unimplemented), "{left:?} {right:?}");
    }
    // Ours, but no containerd to give it to.
    assert_eq!(scene.diff(&left, &right, "").await, Err(Code::Unavailable));
    let mut differ = DiffClient::new(scene.channel.clone());
    let applied = differ.apply(ApplyRequest::default());
    assert_eq!(applied.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_layer_of_an_image_is_all_that_it_holds() {
    let scene = Scene::new().await;
    let (containerd, served) = Containerd::serve(&scene.root.path().join("containerd.sock"));
    let right = scene.prepare("c", "", &[]).await.unwrap();
    scene.with(&right, |root| fs::write(root.join("f"), "f").unwrap());
    let empty = scene.view("nothing", "").await.unwrap();
    for left in [&[][..], &empty] {
        let made = scene.diff(left, &right, PLAIN).await.unwrap();
        let (tar, _) = containerd.blob(&made.digest);
        let found = entries(&tar);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].starts_with("f Regular"));
    }
    served.abort();
}
