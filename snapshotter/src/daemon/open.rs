//! Making images readable on the node.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::{
    Hints, MetadataImage, MetadataImageError, Reader, RecordId, TreeId, fetch_metadata_image,
    in_span, load_packs,
};
use nacre_fs::erofs::{ErofsError, SmallContents, metadata_image};
use nacre_fs::mount::Lower;
use nacre_fs::{MetadataMountError, MetadataMounts};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, oneshot};
use tracing::field::Empty;

use super::api::{MountMode, OpenedImage, OpenedVolume};
use super::mountable::{Located, Mountable};
use super::node::{GATE_FOLDER, Node, NodeError};
use super::stored_hints::stored_hints;
use crate::image::Image;

/// Images whose record is kept in memory; it is immutable, and its name is looked up each time.
const RECORDS_MAX: usize = 256;
/// Locks for opening trees, shared by the trees whose id starts alike: who comes second finds
/// what the first fetched.
const OPEN_LOCKS: usize = 64;

/// How long what this machine can open by itself waits for its image's record, which is in the store.
const RECORD_DEADLINE: Duration = Duration::from_secs(3);

/// What opening images shares.
#[derive(Debug)]
pub(super) struct Opening {
    /// The mounts of metadata, or why trees are served by FUSE.
    pub(super) metadata: Result<Arc<MetadataMounts>, String>,
    images: Mutex<HashMap<RecordId, Arc<OnceCell<Arc<Mountable>>>>>,
    locks: [AsyncMutex<()>; OPEN_LOCKS],
}

impl Opening {
    pub(super) fn new(metadata: Result<Arc<MetadataMounts>, String>) -> Self {
        Self {
            metadata,
            images: Mutex::default(),
            locks: std::array::from_fn(|_| AsyncMutex::default()),
        }
    }
}

impl Node {
    /// Makes an image readable: its packs are awaited afterwards, if they were not known before, and
    /// with [`MountMode::Kernel`] its metadata image is mounted. Costs one request for the name; for
    /// the first of an image on this node two more, for its record and its metadata. The indexes of
    /// its packs come behind the answer, with one request for each pack that no image before had;
    /// who reads what is in one waits for it. With no mode given it is the kernel's where that works.
    ///
    /// # Errors
    /// [`NodeError`]; [`NodeError::Mode`] when the wanted mode is not to be had.
    pub async fn open_image(
        &self,
        name: &str,
        wanted: Option<MountMode>,
    ) -> Result<OpenedImage, NodeError> {
        let span = tracing::debug_span!("mount", image = name, otel.status_code = Empty);
        in_span(span, self.open_named(name, wanted)).await
    }

    async fn open_named(
        &self,
        name: &str,
        wanted: Option<MountMode>,
    ) -> Result<OpenedImage, NodeError> {
        let located = self.locate(name).await?;
        let image = self.read_image(name, located.record).await?;
        let tree = image
            .tree()
            .ok_or_else(|| NodeError::NoTree(name.to_owned()))?;
        let (mode, lower) = self.open_tree(name, &image, tree, wanted).await?;
        Ok(OpenedImage {
            image: image.id.to_string(),
            tree: tree.to_string(),
            config: image.config.clone(),
            mode,
            view: self.below("trees", tree),
            lower,
            volume: opened_volume(located, &image),
        })
    }

    /// Makes a layer of an image readable, with all layers below it. When this was done before on
    /// this machine, no network is needed for it: then the record, which says where the bytes are, is
    /// waited for briefly only, for the index has these packs already.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn open_layer(
        &self,
        id: RecordId,
        tree: TreeId,
        wanted: Option<MountMode>,
    ) -> Result<(Lower, PathBuf), NodeError> {
        let span = tracing::debug_span!("mount", image = %id, %tree, otel.status_code = Empty);
        in_span(span, self.open_prefix(id, tree, wanted)).await
    }

    async fn open_prefix(
        &self,
        id: RecordId,
        tree: TreeId,
        wanted: Option<MountMode>,
    ) -> Result<(Lower, PathBuf), NodeError> {
        let name = id.to_string();
        let view = self.below("trees", tree);
        let here = self.on_disk(tree, wanted).await?;
        let is_kept = self.kept.as_ref().is_some_and(|kept| kept.has(tree));
        let read = self.read_image(&name, id);
        let read = if here.is_some() || is_kept {
            let read = tokio::time::timeout(RECORD_DEADLINE, read).await;
            read.unwrap_or(Err(NodeError::Late(id)))
        } else {
            read.await
        };
        let lower = match (read, here) {
            (Ok(image), Some(lower)) => {
                let packs = &image.record.packs;
                let trace = self.traces.opening(tree, image.kin(&name, tree));
                self.loader.expect(packs).await?;
                if let Some(trace) = trace {
                    let no_hints = std::future::ready(None);
                    self.traces.opened(trace, packs.clone(), no_hints);
                }
                lower
            }
            (Ok(image), None) => self.open_tree(&name, &image, tree, wanted).await?.1,
            (Err(error), Some(lower)) => {
                tracing::warn!(%tree, %error, "mount without the record");
                lower
            }
            // Such as one that has to be served by FUSE, which its trees tell.
            (Err(error), None) if is_kept => match self.open_kept(tree, wanted).await {
                Ok(lower) => lower,
                Err(_) => return Err(error),
            },
            (Err(error), None) => return Err(error),
        };
        self.keep_tree(&lower, tree);
        Ok((lower, view))
    }

    /// Returns the lower side of a tree if the disk has what that takes: the metadata image, or by
    /// FUSE the root of the tree.
    async fn on_disk(
        &self,
        tree: TreeId,
        wanted: Option<MountMode>,
    ) -> Result<Option<Lower>, NodeError> {
        if wanted != Some(MountMode::Fuse)
            && let Ok(mounts) = &self.opening.metadata
        {
            let mounted = off_reactor(mounts, move |mounts| mounts.mounted(tree)).await?;
            return Ok(mounted.map(|mounted| self.over_data(mounted)));
        }
        let is_kept = self.kept.as_ref().is_some_and(|kept| kept.has(tree));
        Ok(is_kept.then(|| Lower::directory(self.below("lower", tree))))
    }

    /// Opens a tree in kernel mode by what the disk has of it, without its metadata image.
    async fn open_kept(&self, tree: TreeId, wanted: Option<MountMode>) -> Result<Lower, NodeError> {
        let metadata = match &self.opening.metadata {
            Ok(mounts) => self.mount_built(mounts, tree, wanted).await?,
            Err(_) => None,
        };
        Ok(match metadata {
            Some(mounted) => self.over_data(mounted),
            None => Lower::directory(self.below("lower", tree)),
        })
    }

    /// Has the trees of what FUSE serves kept on the disk.
    fn keep_tree(&self, lower: &Lower, tree: TreeId) {
        if let Some(kept) = &self.kept
            && lower.data.is_empty()
        {
            kept.want(tree);
        }
    }

    /// Makes one tree of an image readable; see [`open_image`](Self::open_image).
    async fn open_tree(
        &self,
        name: &str,
        image: &Mountable,
        tree: TreeId,
        wanted: Option<MountMode>,
    ) -> Result<(MountMode, Lower), NodeError> {
        let lock = &self.opening.locks[usize::from(tree.as_bytes()[0]) % OPEN_LOCKS];
        let turn = lock.lock().await;
        let trace = self.traces.opening(tree, image.kin(name, tree));
        let mounts = match (wanted, &self.opening.metadata) {
            (Some(MountMode::Fuse), _) => None,
            (_, Ok(mounts)) => Some(mounts),
            (None, Err(_)) => None,
            (Some(MountMode::Kernel), Err(reason)) => return Err(NodeError::Mode(reason.clone())),
        };
        let packs = &image.record.packs;
        let (told, hints) = oneshot::channel();
        let unmounted = image.record.metadata_images.get(&tree).copied();
        let unmounted = unmounted.filter(|_| mounts.is_none());
        let store = Arc::clone(&self.options.store);
        let hints = async move {
            match unmounted {
                Some(id) => stored_hints(store, tree, id).await,
                None => hints.await.ok(),
            }
        };
        let expected = async {
            self.loader.expect(packs).await?;
            if let Some(trace) = trace {
                self.traces.opened(trace, packs.clone(), hints);
            }
            Ok::<_, NodeError>(())
        };
        let metadata = match mounts {
            None => {
                expected.await?;
                None
            }
            Some(mounts) => {
                let stored = self.mount_stored(mounts, image, tree, told);
                let (expected, stored) = tokio::join!(expected, stored);
                expected?;
                match stored? {
                    Some(mounted) => Some(mounted),
                    None => self.mount_built(mounts, tree, wanted).await?,
                }
            }
        };
        drop(turn);
        Ok(match metadata {
            Some(mounted) => (MountMode::Kernel, self.over_data(mounted)),
            None => (MountMode::Fuse, Lower::directory(self.below("lower", tree))),
        })
    }

    /// Returns what reads trees and files; those of an image, if one is given, can then be found.
    ///
    /// # Errors
    /// [`NodeError`] when its record or its packs are not to be had.
    pub(crate) async fn reader_of(
        &self,
        image: Option<RecordId>,
    ) -> Result<Arc<Reader>, NodeError> {
        if let Some(id) = image {
            let image = self.read_image(&id.to_string(), id).await?;
            let packs = &image.record.packs;
            self.loader.expect(packs).await?;
            self.loader.settled(packs).await;
            load_packs(&self.store, &self.index, packs).await?;
        }
        Ok(Arc::clone(&self.reader))
    }

    /// Returns where a folder of the content mount has a tree.
    fn below(&self, folder: &str, tree: TreeId) -> PathBuf {
        self.mount_point().join(folder).join(tree.to_string())
    }

    /// Returns how trees are served unless someone wants it otherwise.
    pub(crate) fn mount_mode(&self) -> MountMode {
        match self.opening.metadata {
            Ok(_) => MountMode::Kernel,
            Err(_) => MountMode::Fuse,
        }
    }

    /// Keeps the mount of a tree's metadata; see [`MetadataMounts::hold`].
    pub(crate) fn hold_tree(&self, tree: TreeId) {
        if let Ok(mounts) = &self.opening.metadata {
            mounts.hold(tree);
        }
    }

    /// Lets go of a mount that was held.
    pub(crate) fn release_tree(&self, tree: TreeId) {
        if let Ok(mounts) = &self.opening.metadata {
            mounts.release(tree);
        }
    }

    /// Checks metadata images; returns the trees of the bad ones. See [`MetadataMounts::verify_shard`].
    pub(super) async fn verify_metadata(&self, shard: u8) -> Result<Vec<String>, NodeError> {
        let Ok(mounts) = &self.opening.metadata else {
            return Ok(Vec::new());
        };
        let bad = off_reactor(mounts, move |mounts| mounts.verify_shard(shard)).await?;
        Ok(bad.iter().map(ToString::to_string).collect())
    }

    /// Finds an image, a snapshot or a volume by its name or id.
    pub(super) async fn find_image(&self, name: &str) -> Result<Arc<Mountable>, NodeError> {
        let located = self.locate(name).await?;
        self.read_image(name, located.record).await
    }

    /// Finds the record of an image, a snapshot or a volume by its name or id, and its file system.
    ///
    /// # Errors
    /// [`NodeError`]; [`NodeError::NoTree`] for one without a file system.
    pub(crate) async fn find_tree(&self, name: &str) -> Result<(RecordId, TreeId), NodeError> {
        let found = self.find_image(name).await?;
        let tree = found.tree();
        let tree = tree.ok_or_else(|| NodeError::NoTree(name.to_owned()))?;
        Ok((found.id, tree))
    }

    /// Finds what a name stands for on this node: what is pending here comes before what the store
    /// has under the name, unless that is an image. What is pending is found without the store.
    async fn locate(&self, name: &str) -> Result<Located, NodeError> {
        let Some(record) = self.pending.find(name) else {
            return Mountable::locate(&*self.options.store, name).await;
        };
        let is_volume = false;
        let pending = Located { record, is_volume };
        match Image::locate(&*self.options.store, name).await {
            Ok(record) => Ok(Located { record, is_volume }),
            Err(error) => {
                tracing::debug!(%error, "use a pending snapshot");
                Ok(pending)
            }
        }
    }

    /// Reads the record that was found for `name`, once, however many want it at the same time.
    pub(crate) async fn read_image(
        &self,
        name: &str,
        id: RecordId,
    ) -> Result<Arc<Mountable>, NodeError> {
        let image = {
            let images = self.opening.images.lock();
            let mut images = images.unwrap_or_else(PoisonError::into_inner);
            if images.len() >= RECORDS_MAX && !images.contains_key(&id) {
                images.clear();
            }
            Arc::clone(images.entry(id).or_default())
        };
        let find = async || {
            let found = Mountable::read(&*self.store, name, id).await?;
            Ok::<_, NodeError>(Arc::new(found))
        };
        image.get_or_try_init(find).await.cloned()
    }

    /// Mounts the metadata image of `tree` that the disk or the store has. `None` where neither has
    /// a right one. The hints of one from the store are `told`.
    async fn mount_stored(
        &self,
        mounts: &Arc<MetadataMounts>,
        image: &Mountable,
        tree: TreeId,
        told: oneshot::Sender<Hints>,
    ) -> Result<Option<PathBuf>, NodeError> {
        let here = off_reactor(mounts, move |mounts| mounts.mounted(tree)).await?;
        if here.is_some() {
            return Ok(here);
        }
        let Some(id) = image.record.metadata_images.get(&tree) else {
            return Ok(None);
        };
        let id = *id;
        // The indexes come at the same time. The first reads wait for both.
        let urgent = self.loader.put_off_inserts();
        let bytes = match fetch_metadata_image(&*self.options.store, id).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%tree, %error, "build a metadata image anew");
                return Ok(None);
            }
        };
        // Checking and decompressing takes longer than mounting.
        let mounted = off_reactor(mounts, move |mounts| {
            let mount = || {
                let image = MetadataImage::open(tree, id, bytes);
                let image = image.map_err(MetadataMountError::Image)?;
                // Before the mount, whose first reads they are for. With a trace nobody waits.
                if !told.is_closed() {
                    match image.hints() {
                        Ok(hints) => drop(told.send(hints)),
                        Err(error) => tracing::warn!(%tree, %error, "start without hints"),
                    }
                }
                mounts.mount(tree, |out| image.write_to(out)).map(Some)
            };
            mount().or_else(|error| match error {
                MetadataMountError::Image(error) => {
                    tracing::warn!(%tree, %error, "build a metadata image anew");
                    Ok(None)
                }
                error => Err(error),
            })
        });
        let mounted = mounted.await;
        drop(urgent);
        mounted
    }

    /// Builds the metadata image from the tree alone, without the bytes of small files, and mounts it.
    /// `None` for a tree that only FUSE can serve.
    async fn mount_built(
        &self,
        mounts: &Arc<MetadataMounts>,
        tree: TreeId,
        wanted: Option<MountMode>,
    ) -> Result<Option<PathBuf>, NodeError> {
        match metadata_image(tree, &*self.reader, &SmallContents::default()).await {
            Ok(bytes) => {
                let write = move |out: &mut dyn Write| {
                    out.write_all(&bytes).map_err(MetadataImageError::Write)
                };
                off_reactor(mounts, move |mounts| mounts.mount(tree, write))
                    .await
                    .map(Some)
            }
            Err(error @ ErofsError::Unrepresentable { .. }) if wanted.is_none() => {
                tracing::warn!(%tree, %error, "serve a tree by FUSE");
                Ok(None)
            }
            Err(error) => Err(NodeError::Erofs(error)),
        }
    }

    /// Puts the data-only layers of this node below a metadata image.
    fn over_data(&self, metadata: PathBuf) -> Lower {
        let [store, arrivals] = self.cache.layers();
        Lower {
            layers: vec![metadata],
            data: vec![
                store,
                self.mount_point().join(GATE_FOLDER),
                arrivals,
                self.mount_point().join("missing"),
            ],
        }
    }
}

/// Says which version of a volume a name stood for.
fn opened_volume(located: Located, image: &Mountable) -> Option<OpenedVolume> {
    let version = image.volume.as_ref().filter(|_| located.is_volume)?;
    Some(OpenedVolume {
        id: version.id.clone(),
        version: version.number,
    })
}

/// Runs what blocks on a thread for it.
async fn off_reactor<T: Send + 'static>(
    mounts: &Arc<MetadataMounts>,
    work: impl FnOnce(&MetadataMounts) -> Result<T, MetadataMountError> + Send + 'static,
) -> Result<T, NodeError> {
    let mounts = Arc::clone(mounts);
    let done = tokio::task::spawn_blocking(move || work(&mounts)).await;
    Ok(done.map_err(|_| NodeError::Stopped)??)
}
