//! A store in a local directory.
//!
//! One object is one file, written by [`publish`](crate::publish), so it is there wholly or not at
//! all and survives a power loss once the call returns. `replace` and `delete` exclude one another,
//! between processes too, by an exclusive `flock` of the file `#lock` in the store's directory; the
//! kernel drops it when its holder dies. A version is the BLAKE3 of the bytes.
//!
//! `object_store`'s own `LocalFileSystem` is not used: it has no conditional replace, its versions
//! come from the modification time, and nothing sweeps what a killed writer leaves behind.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{BlobStore, Key, ObjectInfo, StoreError, Version, check_prefix};
use crate::{Digest, publish, publish_new, sync_directory};

mod list;

/// File whose lock makes `replace` and `delete` exclusive. Not a key, so it is never listed.
const LOCK_FILE: &str = "#lock";

/// A [`BlobStore`] in a directory of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Folders whose own names this process has made durable; a few hundred, as keys fan out by
    /// two digits.
    durable_folders: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens the store in `root`, creating the directory if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`] when it cannot be created.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let root = create_root(&root).map_err(|error| {
            let target = root.display().to_string();
            match error.kind() {
                io::ErrorKind::PermissionDenied => StoreError::Denied(target),
                _ => StoreError::unavailable("create directory", target, error),
            }
        })?;
        let durable_folders = Mutex::default();
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                durable_folders,
            }),
        })
    }

    /// Runs `work` on the pool of blocking threads. It runs to its end even if the caller is
    /// dropped.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &Key,
        work: impl FnOnce(&Shared, &Key) -> Result<T, LocalError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let owned = key.clone();
        match tokio::task::spawn_blocking(move || work(&shared, &owned)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(LocalError::Store(error))) => Err(error),
            Ok(Err(LocalError::Io(error))) => Err(from_io(operation, key, &error)),
            Err(error) => Err(StoreError::unavailable(operation, key, error)),
        }
    }
}

#[async_trait::async_trait]
impl BlobStore for LocalStore {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        self.run("get", key, move |shared, key| {
            let bytes = shared.read(key, limit_bytes)?;
            let version = version_of(&bytes);
            Ok((bytes, version))
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.run("get range of", key, move |shared, key| {
            let file = shared.open_object(key)?;
            let actual = file.metadata()?.len();
            if range.end > actual {
                return Err(size_error(key, range.end, actual));
            }
            // The file holds that many bytes, so the allocation is bounded by it.
            let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        self.run("get part of", key, move |shared, key| {
            let file = shared.open_object(key)?;
            let actual = file.metadata()?.len();
            if range.start >= actual {
                return Err(size_error(key, range.start.saturating_add(1), actual));
            }
            // The file holds that many bytes, so the allocation is bounded by it.
            let wanted = range.end.min(actual).saturating_sub(range.start);
            let mut bytes = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok((bytes.into(), actual))
        })
        .await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.run("get size of", key, |shared, key| {
            Ok(shared.open_object(key)?.metadata()?.len())
        })
        .await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.run("put", key, move |shared, key| {
            Ok(shared.write(key, |path| publish(path, &body))?)
        })
        .await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.run("create", key, move |shared, key| {
            match shared.write(key, |path| publish_new(path, &body)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Err(StoreError::Exists(key.clone()).into())
                }
                outcome => Ok(outcome.map(|()| version_of(&body))?),
            }
        })
        .await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        let expected = expected.clone();
        self.run("replace", key, move |shared, key| {
            let _lock = shared.lock()?;
            if shared.version(key)?.as_ref() != Some(&expected) {
                return Err(StoreError::Conflict(key.clone()).into());
            }
            shared.write(key, |path| publish(path, &body))?;
            Ok(version_of(&body))
        })
        .await
    }

    /// Durable when it returns: a ref that came back after a power loss would point at packs that
    /// were deleted after it.
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.run("delete", key, |shared, key| {
            let _lock = shared.lock()?;
            let path = shared.path(key);
            match std::fs::remove_file(&path) {
                Ok(()) => Ok(path.parent().map_or(Ok(()), sync_directory)?),
                Err(error) if is_absent(&error) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Also removes the staging files of dead writers that it meets.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        match check_prefix(prefix) {
            Ok(()) => list::list(&self.shared.root, prefix).boxed(),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }
}

impl Shared {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn open_object(&self, key: &Key) -> Result<File, LocalError> {
        match File::open(self.path(key)) {
            Ok(file) if file.metadata()?.is_file() => Ok(file),
            Ok(_) => Err(StoreError::NotFound(key.clone()).into()),
            Err(error) if is_absent(&error) => Err(StoreError::NotFound(key.clone()).into()),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, LocalError> {
        let file = self.open_object(key)?;
        let actual = file.metadata()?.len();
        if actual > limit_bytes {
            return Err(size_error(key, limit_bytes, actual));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(actual).map_err(io::Error::other)?);
        file.take(actual).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// The version of an object, or `None` if it is not there. Hashes it in pieces: what is
    /// replaced is small, but nothing here depends on it.
    fn version(&self, key: &Key) -> Result<Option<Version>, LocalError> {
        let file = match self.open_object(key) {
            Ok(file) => file,
            Err(LocalError::Store(StoreError::NotFound(_))) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        Ok(Some(Version(digest.to_string())))
    }

    /// Runs `publish` on the object's path after its folder exists durably.
    fn write(&self, key: &Key, publish: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        if !self.durable_folders().contains(folder) {
            self.create_folder(folder)?;
            self.durable_folders().insert(folder.to_owned());
        }
        let outcome = publish(&path);
        if outcome
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            // Somebody removed the folder; the next attempt makes it anew.
            self.durable_folders().remove(folder);
        }
        outcome
    }

    /// Creates a folder and syncs every directory that names one on the way from the root: also
    /// those that exist already, as another process may have made them and not yet synced.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| match error.kind() {
            // An object is in the way; it must not look as if the object to be written existed.
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        folder
            .ancestors()
            .skip(1)
            .take_while(|directory| directory.starts_with(&self.root))
            .try_for_each(sync_directory)
    }

    fn durable_folders(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the exclusive lock; it is held until the file is dropped. Every caller opens the
    /// file anew, so that threads of one process exclude one another too.
    fn lock(&self) -> io::Result<File> {
        let path = self.root.join(LOCK_FILE);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

/// Creates the store's directory durably, if it is missing, and returns its absolute path.
fn create_root(root: &Path) -> io::Result<PathBuf> {
    let root = std::path::absolute(root)?;
    let missing = root
        .ancestors()
        .take_while(|directory| !directory.exists())
        .count();
    std::fs::create_dir_all(&root)?;
    root.ancestors()
        .skip(1)
        .take(missing)
        .try_for_each(sync_directory)?;
    Ok(root)
}

/// What the blocking work of one call ends with; [`from_io`] needs the call to translate the rest.
enum LocalError {
    Store(StoreError),
    Io(io::Error),
}

impl From<StoreError> for LocalError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for LocalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn from_io(operation: &'static str, key: &Key, error: &io::Error) -> StoreError {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            StoreError::NoSpace(key.clone())
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            StoreError::Denied(format!("{key} ({operation}: {error})"))
        }
        Kind::InvalidFilename => StoreError::InvalidKey(key.to_string()),
        Kind::NotADirectory | Kind::IsADirectory => {
            StoreError::Unsupported(format!("{operation} {key}: a folder and an object collide"))
        }
        _ => StoreError::unavailable(operation, key, error),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn size_error(key: &Key, expected: u64, actual: u64) -> LocalError {
    StoreError::Size {
        key: key.clone(),
        expected,
        actual,
    }
    .into()
}

fn version_of(bytes: &[u8]) -> Version {
    Version(Digest::of(bytes).to_string())
}

#[cfg(test)]
mod tests;
