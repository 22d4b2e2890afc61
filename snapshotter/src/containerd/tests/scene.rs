//! A server with a client, and layers that are in a store that is none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{
    ChunkIndex, Digest, Origin, Reader, ReaderOptions, RecordId, SystemClock, TreeId,
};
use nacre_fs::mount::{Lower, Umount, mounts_below, umount};
use rustix::mount::{MountFlags, mount_bind_recursive, mount_remount};
use tokio::sync::{Barrier, Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::super::counters::Counters;
use super::super::differ::Differ;
use super::super::error::SnapshotsError;
use super::super::lazy::{LazyLayers, Wanted};
use super::super::mounts::OpenedLayer;
use super::super::proto::snapshots_client::SnapshotsClient;
use super::super::proto::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, Mount, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    UsageRequest, UsageResponse, ViewSnapshotRequest,
};
use super::super::record::RemoteLayer;
use super::super::server::{bind, serve};
use super::super::service::Service;
use super::super::snapshots::Snapshots;
use crate::daemon::MountMode;

/// Layers that are in the store: a directory for each tree.
#[derive(Debug, Default)]
pub(super) struct Stored {
    layers: Mutex<HashMap<String, (RemoteLayer, PathBuf)>>,
    /// How often each tree is held.
    pub(super) held: Mutex<HashMap<TreeId, i64>>,
    /// Makes callers of `find` wait for each other.
    pub(super) meet: Mutex<Option<Arc<Barrier>>>,
    /// Told of each caller of `find`.
    pub(super) asked: Notify,
    /// What was to be made ready before a container needs it.
    pub(super) ahead: Mutex<Vec<RemoteLayer>>,
    /// In which mode each layer was to be opened.
    pub(super) modes: Mutex<Vec<Option<MountMode>>>,
    /// Reads nothing: no layer here has a tree.
    reader: std::sync::OnceLock<(tempfile::TempDir, Arc<Reader>)>,
    /// The store does not answer.
    pub(super) down: std::sync::atomic::AtomicBool,
    /// What names stand for.
    pub(super) names: Mutex<HashMap<String, RemoteLayer>>,
    /// containerd mounts nothing below a root.
    pub(super) is_old: std::sync::atomic::AtomicBool,
}

impl Stored {
    /// Adds a layer whose whole file system is a directory.
    pub(super) fn add(&self, chain_id: &str, tree: &Path) -> RemoteLayer {
        let layer = RemoteLayer {
            image: RecordId::new(Digest::of(b"image")),
            tree: TreeId::new(Digest::of(chain_id.as_bytes())),
        };
        let added = (layer, tree.to_owned());
        self.layers
            .lock()
            .unwrap()
            .insert(chain_id.to_owned(), added);
        layer
    }

    pub(super) fn held(&self) -> i64 {
        self.held.lock().unwrap().values().sum()
    }
}

#[async_trait]
impl LazyLayers for Stored {
    async fn find(
        &self,
        chain_id: &str,
        _: &Wanted<'_>,
    ) -> Result<Option<RemoteLayer>, SnapshotsError> {
        self.asked.notify_one();
        let meet = self.meet.lock().unwrap().clone();
        if let Some(meet) = meet {
            meet.wait().await;
        }
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(SnapshotsError::Unavailable("down".to_owned()));
        }
        let layers = self.layers.lock().unwrap();
        Ok(layers.get(chain_id).map(|(layer, _)| *layer))
    }

    async fn named(&self, name: &str) -> Result<Option<RemoteLayer>, SnapshotsError> {
        Ok(self.names.lock().unwrap().get(name).copied())
    }

    async fn check_targets(&self) -> Result<(), SnapshotsError> {
        if self.is_old.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(SnapshotsError::Precondition("old".to_owned()));
        }
        Ok(())
    }

    async fn open(
        &self,
        layer: RemoteLayer,
        wanted: Option<MountMode>,
    ) -> Result<OpenedLayer, SnapshotsError> {
        self.modes.lock().unwrap().push(wanted);
        let layers = self.layers.lock().unwrap();
        let (_, tree) = layers.values().find(|(found, _)| *found == layer).unwrap();
        Ok(OpenedLayer {
            lower: Lower::directory(tree.clone()),
            view: tree.clone(),
        })
    }

    fn open_ahead(&self, layer: RemoteLayer) {
        self.ahead.lock().unwrap().push(layer);
    }

    fn mode(&self) -> MountMode {
        MountMode::Fuse
    }

    async fn reader(&self, _: Option<RemoteLayer>) -> Result<Arc<Reader>, SnapshotsError> {
        let (_, reader) = self.reader.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let index = Arc::new(ChunkIndex::open(folder.path()).unwrap());
            let origin = Arc::new(Origin::new(memory_store()));
            let reader = Reader::new(index, vec![origin], ReaderOptions::default());
            (folder, Arc::new(reader))
        });
        Ok(Arc::clone(reader))
    }

    fn hold(&self, tree: TreeId) {
        *self.held.lock().unwrap().entry(tree).or_default() += 1;
    }

    fn release(&self, tree: TreeId) {
        *self.held.lock().unwrap().entry(tree).or_default() -= 1;
    }
}

/// Another name of the socket.
const FORMER: &str = "former.sock";

/// A server on a root of its own.
pub(super) struct Scene {
    pub(super) root: tempfile::TempDir,
    pub(super) stored: Arc<Stored>,
    pub(super) counters: Arc<Counters>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>, Service)>,
    pub(super) client: SnapshotsClient<Channel>,
    pub(super) channel: Channel,
    mounted: std::cell::Cell<u32>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (stored, counters) = (Arc::<Stored>::default(), Arc::<Counters>::default());
        let (running, channel) = start(root.path(), &stored, &counters).await;
        Self {
            root,
            stored,
            counters,
            running: Some(running),
            client: SnapshotsClient::new(channel.clone()),
            channel,
            mounted: 0.into(),
        }
    }

    /// Ends the server and starts another one on the same root; `between` happens in between.
    pub(super) async fn restart(&mut self, between: impl FnOnce(&Path)) {
        self.stop().await;
        between(self.root.path());
        self.stored.held.lock().unwrap().clear();
        let (running, channel) = start(self.root.path(), &self.stored, &self.counters).await;
        self.running = Some(running);
        self.client = SnapshotsClient::new(channel.clone());
        self.channel = channel;
    }

    /// Has no record of a snapshot written until what is returned is dropped.
    pub(super) fn hold_records(&self) -> std::sync::mpsc::SyncSender<()> {
        let (_, _, service) = self.running.as_ref().unwrap();
        service.opened().unwrap().hold_records()
    }

    async fn stop(&mut self) {
        if let Some((stop, ended, service)) = self.running.take() {
            stop.send(()).unwrap();
            ended.await.unwrap();
            if let Some(snapshots) = service.opened().cloned() {
                let close = move || snapshots.close();
                tokio::task::spawn_blocking(close).await.unwrap();
            }
        }
    }

    pub(super) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Code> {
        let request = PrepareSnapshotRequest {
            snapshotter: "nacre".to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: map(labels),
        };
        let answer = self.client.clone().prepare(request).await;
        code(answer).map(|answer| answer.mounts)
    }

    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Code> {
        let request = ViewSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        code(self.client.clone().view(request).await).map(|answer| answer.mounts)
    }

    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Code> {
        let request = MountsRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        code(self.client.clone().mounts(request).await).map(|answer| answer.mounts)
    }

    pub(super) async fn commit(&self, name: &str, key: &str) -> Result<(), Code> {
        self.commit_as(name, key, "", &[]).await
    }

    pub(super) async fn commit_as(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<(), Code> {
        let request = CommitSnapshotRequest {
            name: name.to_owned(),
            key: key.to_owned(),
            labels: map(labels),
            parent: parent.to_owned(),
            ..Default::default()
        };
        code(self.client.clone().commit(request).await)
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.client.clone().remove(request).await.map(drop)
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Info, Code> {
        let request = StatSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        code(self.client.clone().stat(request).await).map(|answer| answer.info.unwrap())
    }

    pub(super) async fn update(&self, info: Info, paths: Option<&[&str]>) -> Result<Info, Code> {
        let paths = paths.map(|paths| paths.iter().map(|p| (*p).to_owned()).collect());
        let request = UpdateSnapshotRequest {
            info: Some(info),
            update_mask: paths.map(|paths| prost_types::FieldMask { paths }),
            ..Default::default()
        };
        code(self.client.clone().update(request).await).map(|answer| answer.info.unwrap())
    }

    /// Returns the pages of a list.
    pub(super) async fn pages(&self, filters: &[&str]) -> Result<Vec<Vec<Info>>, Code> {
        let request = ListSnapshotsRequest {
            filters: filters.iter().map(|f| (*f).to_owned()).collect(),
            ..Default::default()
        };
        let mut stream = code(self.client.clone().list(request).await)?;
        let mut pages = Vec::new();
        while let Some(page) = stream.message().await.unwrap() {
            pages.push(page.info);
        }
        Ok(pages)
    }

    pub(super) async fn names(&self, filters: &[&str]) -> Vec<String> {
        let pages = self.pages(filters).await.unwrap();
        pages.into_iter().flatten().map(|info| info.name).collect()
    }

    pub(super) async fn usage(&self, key: &str) -> Result<UsageResponse, Code> {
        let request = UsageRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        code(self.client.clone().usage(request).await)
    }

    pub(super) async fn cleanup(&self) {
        let request = CleanupRequest::default();
        self.client.clone().cleanup(request).await.unwrap();
    }

    /// Returns how many directories of snapshots are there.
    pub(super) fn directories(&self) -> usize {
        let folder = self.root.path().join("sn");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Mounts what was answered, as containerd does, somewhere.
    pub(super) fn mount(&self, mounts: &[Mount]) -> PathBuf {
        let number = self.mounted.get() + 1;
        self.mounted.set(number);
        let root = self.root.path().join(format!("m{number}"));
        std::fs::create_dir(&root).unwrap();
        for (position, mount) in mounts.iter().enumerate() {
            assert_eq!(mount.target.is_empty(), position == 0, "{mount:?}");
            self.mount_at(mount, &root.join(mount.target.trim_start_matches('/')));
        }
        root
    }

    fn mount_at(&self, described: &Mount, target: &Path) {
        let option = |name| described.options.iter().any(|option| option == name);
        if described.r#type == "overlay" {
            // Longer options are shortened by containerd, who changes to the folder of the layers.
            let folder = self.root.path().join("sn").canonicalize().unwrap();
            let prefix = format!("{}/", folder.display());
            let options = described.options.join(",");
            let options = if options.len() > 3500 {
                options.replace(&prefix, "")
            } else {
                options
            };
            let status = std::process::Command::new("mount")
                .args(["-i", "-n", "-t", "overlay", "overlay", "-o", &options])
                .arg(target)
                .current_dir(&folder)
                .status()
                .unwrap();
            assert!(status.success(), "{options}");
        } else {
            assert!(option("rbind"));
            mount_bind_recursive(&*described.source, target).unwrap();
            if option("ro") {
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                mount_remount(target, flags, c"").unwrap();
            }
        }
    }

    /// Mounts, does `work` there, unmounts.
    pub(super) fn with<T>(&self, mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> T {
        let target = self.mount(mounts);
        let done = work(&target);
        // Processes that other tests start have it for a moment.
        umount(&target, Umount::Detach).unwrap();
        done
    }

    /// Commits a layer that `write` makes.
    pub(super) async fn layer(&self, name: &str, parent: &str, write: impl FnOnce(&Path)) {
        let key = format!("extract {name}");
        let mounts = self.prepare(&key, parent, &[]).await.unwrap();
        self.with(&mounts, write);
        self.commit(name, &key).await.unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let root = self.root.path().canonicalize().unwrap();
        for point in mounts_below(&root).unwrap() {
            umount(&point, Umount::Detach).unwrap();
        }
    }
}

async fn start(
    root: &Path,
    stored: &Arc<Stored>,
    counters: &Arc<Counters>,
) -> ((oneshot::Sender<()>, JoinHandle<()>, Service), Channel) {
    let socket = root.join("snapshotter.sock");
    let (stored, counters) = (Arc::clone(stored), Arc::clone(counters));
    let (index, folder) = (root.join("index"), root.join("sn"));
    let lazy = Arc::clone(&stored) as _;
    let open = move || {
        let lazy = Arc::clone(&stored) as Arc<dyn LazyLayers>;
        let clock = Arc::new(SystemClock::new());
        Snapshots::open(&index, &folder, lazy, clock, Arc::clone(&counters))
    };
    let service = Service::new(Arc::new(open));
    let (stop, stopped) = oneshot::channel::<()>();
    let served = service.clone();
    let differ = Differ::new(
        service.clone(),
        lazy,
        root.join("containerd.sock"),
        root.join("layers"),
        Arc::new(SystemClock::new()),
    );
    let listener = bind(&socket, &root.join(FORMER)).unwrap();
    let ended = tokio::spawn(async move {
        serve(served, differ, listener, async move { drop(stopped.await) })
            .await
            .unwrap();
    });
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    ((stop, ended, service), channel)
}

pub(super) fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn code<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Code> {
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}
