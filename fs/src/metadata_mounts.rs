//! The metadata images that are mounted on this node, each once for all overlays of its tree.
//!
//! ```text
//! images/TREE   the image, and after it the BLAKE3 of all before
//! mounts/TREE   where it is mounted
//! ```
//! An image is checked against its BLAKE3 before each mount, so a file torn by a power loss or
//! changed by a bad disk is never believed. Nothing else is written down: what is mounted is for the
//! kernel to say, which also keeps an image alive for as long as an overlay needs it. A mount that
//! no overlay names any more goes away with a later [`MetadataMounts::sweep`].

mod sealed;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nacre_blobstore::{Clock, MetadataImageError, TreeId};

use self::sealed::{is_right, write_sealed};
use crate::mount::{MountError, Overlay, Umount, is_metadata, metadata, overlays, shown, umount};

/// Space that images may take on the disk when they are not mounted, in bytes.
const IMAGES_BYTES_MAX: u64 = 1 << 30;
/// One for each first byte of a tree's id.
const TURNS: usize = 256;

/// Why a metadata image cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MetadataMountError {
    /// The disk refused.
    #[error("{verb} metadata image {path}: {source}")]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The image is not in its format.
    #[error(transparent)]
    Image(MetadataImageError),
}

/// Mounts metadata images below a folder. Share it behind an `Arc`; all calls block.
#[derive(Debug)]
pub struct MetadataMounts {
    images: PathBuf,
    mounts: PathBuf,
    clock: Arc<dyn Clock>,
    /// Held while an image of the trees whose ids begin with a byte is written, checked, mounted or
    /// taken away. What the others have does not wait for it.
    turns: [Mutex<()>; TURNS],
    /// When each mount was last asked for.
    used: Mutex<HashMap<TreeId, Duration>>,
    /// How often each tree is held.
    held: Mutex<HashMap<TreeId, usize>>,
}

impl MetadataMounts {
    /// How long a mount stays that nothing uses: its overlay may be about to be made.
    pub const UNUSED_GRACE: Duration = Duration::from_secs(60);

    /// Opens or creates the folders. What is mounted there already stays and counts as used now.
    ///
    /// # Errors
    /// [`MetadataMountError::Io`].
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, MetadataMountError> {
        create_folder(folder).map_err(failed("create", folder))?;
        // As overlays of this folder will be shown.
        let folder = &folder.canonicalize().map_err(failed("find", folder))?;
        let (images, mounts) = (folder.join("images"), folder.join("mounts"));
        for path in [&images, &mounts] {
            create_folder(path).map_err(failed("create", path))?;
        }
        let now = clock.elapsed();
        let names = names(&mounts).map_err(failed("list", &mounts))?;
        let used = names.into_iter().map(|tree| (tree, now)).collect();
        Ok(Self {
            images,
            mounts,
            clock,
            turns: std::array::from_fn(|_| Mutex::default()),
            used: Mutex::new(used),
            held: Mutex::default(),
        })
    }

    /// Returns where the image of `tree` is mounted, mounting it first if the disk has it.
    /// `None` when it has to be [brought](Self::mount).
    ///
    /// # Errors
    /// [`MetadataMountError`] when it is there and cannot be mounted.
    pub fn mounted(&self, tree: TreeId) -> Result<Option<PathBuf>, MetadataMountError> {
        let _turn = self.turn(tree);
        let target = self.mounts.join(tree.to_string());
        if !is_metadata(&target) {
            let image = self.images.join(tree.to_string());
            if !is_right(&image) {
                return Ok(None);
            }
            mount_at(&image, &target)?;
        }
        lock(&self.used).insert(tree, self.clock.elapsed());
        Ok(Some(target))
    }

    /// Puts the image of `tree`, which `write` writes, on the disk and mounts it, unless it is
    /// mounted.
    ///
    /// # Errors
    /// [`MetadataMountError`]; what was written is dropped.
    pub fn mount(
        &self,
        tree: TreeId,
        write: impl FnOnce(&mut dyn Write) -> Result<(), MetadataImageError>,
    ) -> Result<PathBuf, MetadataMountError> {
        let _turn = self.turn(tree);
        let target = self.mounts.join(tree.to_string());
        if !is_metadata(&target) {
            let path = self.images.join(tree.to_string());
            if let Err(error) = write_sealed(&path, write) {
                drop(fs::remove_file(&path));
                return Err(match error {
                    MetadataImageError::Write(source) => failed("write", &path)(source),
                    error => MetadataMountError::Image(error),
                });
            }
            mount_at(&path, &target)?;
        }
        lock(&self.used).insert(tree, self.clock.elapsed());
        Ok(target)
    }

    /// Checks the images on the disk of trees whose ids begin with the byte `shard`; removes the bad ones
    /// and returns their trees. Where one is mounted it stays so until its last overlay is gone.
    ///
    /// # Errors
    /// [`MetadataMountError::Io`].
    pub fn verify_shard(&self, shard: u8) -> Result<Vec<TreeId>, MetadataMountError> {
        let trees = names(&self.images).map_err(failed("list", &self.images))?;
        let in_shard = trees.into_iter().filter(|tree| tree.as_bytes()[0] == shard);
        let is_bad = |tree: &TreeId| {
            // Nobody writes it meanwhile.
            let _turn = self.turn(*tree);
            let image = self.images.join(tree.to_string());
            image.exists() && !is_right(&image)
        };
        Ok(in_shard.filter(is_bad).collect())
    }

    /// Returns how many images are mounted.
    pub fn count(&self) -> usize {
        lock(&self.used).len()
    }

    /// Keeps the mount of a tree from being swept until it was [released](Self::release) as often as
    /// it was held: somebody was told to make an overlay of it, and may do so at any time.
    pub fn hold(&self, tree: TreeId) {
        *lock(&self.held).entry(tree).or_default() += 1;
    }

    /// Lets go of a mount that was held.
    pub fn release(&self, tree: TreeId) {
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&tree) {
            *count -= 1;
            if *count == 0 {
                held.remove(&tree);
            }
        }
    }

    /// Lets go of all.
    pub fn release_all(&self) {
        lock(&self.held).clear();
    }

    /// Takes away the mounts that are not held, were not asked for within `grace`, and that no
    /// overlay of this mount namespace uses, and then the oldest images that are not mounted, down to 1 GiB.
    ///
    /// # Errors
    /// [`MetadataMountError`] when the folders or the list of mounts cannot be read.
    pub fn sweep(&self, grace: Duration) -> Result<(), MetadataMountError> {
        let overlays = overlays()?;
        let trees: Vec<_> = lock(&self.used).keys().copied().collect();
        for tree in trees {
            self.sweep_tree(tree, grace, &overlays);
        }
        self.prune().map_err(failed("prune", &self.images))
    }

    fn sweep_tree(&self, tree: TreeId, grace: Duration, overlays: &[Overlay]) {
        // Whose turn it is uses it.
        let Some(_turn) = self.try_turn(tree) else {
            return;
        };
        let last = lock(&self.used).get(&tree).copied();
        let idle = last.map(|last| self.clock.elapsed().saturating_sub(last));
        if idle.is_none_or(|idle| idle < grace) || lock(&self.held).contains_key(&tree) {
            return;
        }
        let target = self.mounts.join(tree.to_string());
        let name = shown(&target).map_or_else(|| tree.to_string(), str::to_owned);
        if overlays
            .iter()
            .any(|overlay| overlay.options.contains(&name))
        {
            return;
        }
        if is_metadata(&target)
            && let Err(error) = umount(&target, Umount::IfIdle)
        {
            tracing::debug!(%tree, %error, "keep a metadata mount");
            return;
        }
        drop(fs::remove_dir(&target));
        lock(&self.used).remove(&tree);
    }

    fn prune(&self) -> io::Result<()> {
        let mut images = Vec::new();
        let mut bytes = 0;
        for tree in names(&self.images)? {
            let path = self.images.join(tree.to_string());
            // One that was bad is gone by now.
            if let Ok(metadata) = fs::metadata(&path)
                && !self.is_used(tree)
            {
                bytes += metadata.len();
                images.push((metadata.modified()?, metadata.len(), tree, path));
            }
        }
        images.sort();
        for (_, len, tree, path) in images {
            if bytes <= IMAGES_BYTES_MAX {
                break;
            }
            // Whose turn it is uses it.
            let Some(_turn) = self.try_turn(tree) else {
                continue;
            };
            if !self.is_used(tree) && path.exists() {
                fs::remove_file(path)?;
            }
            bytes -= len;
        }
        Ok(())
    }

    fn is_used(&self, tree: TreeId) -> bool {
        lock(&self.used).contains_key(&tree)
    }

    fn turn(&self, tree: TreeId) -> MutexGuard<'_, ()> {
        lock(&self.turns[usize::from(tree.as_bytes()[0])])
    }

    fn try_turn(&self, tree: TreeId) -> Option<MutexGuard<'_, ()>> {
        match self.turns[usize::from(tree.as_bytes()[0])].try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed<'a>(
    verb: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> MetadataMountError + 'a {
    move |source| MetadataMountError::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

fn mount_at(image: &Path, target: &Path) -> Result<(), MetadataMountError> {
    create_folder(target).map_err(failed("create", target))?;
    Ok(metadata(image, target)?)
}

/// Returns the trees that entries of a folder are called after.
fn names(folder: &Path) -> io::Result<Vec<TreeId>> {
    let mut trees = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        trees.extend(name.to_str().and_then(|name| name.parse::<TreeId>().ok()));
    }
    Ok(trees)
}

#[cfg(test)]
mod tests;
