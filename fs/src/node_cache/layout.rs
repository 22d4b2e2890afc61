//! The folders of the node cache, and what of them is trusted at a start.
//!
//! ```text
//! store/ab/cdef...     complete contents, checked; mode 0644; a data-only layer of overlayfs
//! arrivals/ab/cdef...  second names of contents that a lookup waited for; emptied at a start
//! partial/<id>         large contents with holes where chunks are missing
//! unverified/ab/cdef.. complete contents of before an unclean stop, not yet checked again
//! incoming/            files being written; emptied at a start
//! clean                there while no one has the cache open, and only after an orderly close
//! lock                 locked by whoever has the cache open
//! ```
//! Contents are published by rename without an fsync, since a fetch can always repeat. What may
//! be wrong after a crash is therefore everything in `store` and `arrivals`, and because overlayfs
//! reads those without asking, a start that finds no `clean` moves them whole to `unverified`:
//! at most 512 renames, whatever they hold. The first read of a content checks it and moves it back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nacre_blobstore::ContentId;
use rustix::fs::rename;
use rustix::io::Errno;

/// Mode of the content files, so that overlayfs can open them for any user.
const CONTENT_MODE: u32 = 0o644;
/// Unit in which stat(2) counts the space of a file.
const STAT_BLOCK_BYTES: u64 = 512;
const FOLDERS: [&str; 5] = ["store", "arrivals", "partial", "unverified", "incoming"];

/// The folders of an open node cache.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
    _lock: File,
}

impl Layout {
    /// Opens or creates the folders and settles what is trusted. Blocks.
    ///
    /// # Errors
    /// `WouldBlock` when another process has the cache open; any other of the file system.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        for name in FOLDERS {
            create_folder(&folder.join(name))?;
        }
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock()?;
        let layout = Self {
            folder: folder.to_path_buf(),
            _lock: lock,
        };
        for file in fs::read_dir(layout.folder.join("incoming"))? {
            fs::remove_file(file?.path())?;
        }
        let clean = layout.folder.join("clean");
        let was_clean = clean.exists();
        if was_clean {
            fs::remove_file(clean)?;
            layout.sync_folder()?;
        }
        for shard in (0..=u8::MAX).map(|byte| format!("{byte:02x}")) {
            let [store, arrivals, unverified] =
                ["store", "arrivals", "unverified"].map(|f| layout.folder.join(f).join(&shard));
            if was_clean {
                move_files(&arrivals, &store)?;
            } else {
                move_files(&store, &unverified)?;
                move_files(&arrivals, &unverified)?;
            }
        }
        Ok(layout)
    }

    /// Says that all there is may be trusted at the next start. Nothing may be written after.
    pub(super) fn close(&self) -> io::Result<()> {
        rustix::fs::syncfs(File::open(&self.folder)?)?;
        File::create(self.folder.join("clean"))?.sync_all()?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Returns the data-only layers of overlayfs: store and arrivals.
    pub(super) fn layers(&self) -> [PathBuf; 2] {
        [self.folder.join("store"), self.folder.join("arrivals")]
    }

    pub(super) fn partial(&self, content: ContentId) -> PathBuf {
        self.folder.join("partial").join(content.to_string())
    }

    fn sharded(&self, folder: &str, content: ContentId) -> PathBuf {
        let hex = content.to_string();
        let (shard, rest) = hex.split_at(2);
        [
            &self.folder,
            Path::new(folder),
            Path::new(shard),
            Path::new(rest),
        ]
        .iter()
        .collect()
    }

    /// Moves a checked content into the store. Shards are made when first needed: making all of
    /// them at the start takes a third of a second on ext4.
    fn move_to_store(&self, from: &Path, content: ContentId) -> io::Result<()> {
        let to = self.sharded("store", content);
        match rename(from, &to) {
            Err(Errno::NOENT) => {
                create_folder(to.parent().unwrap_or(&self.folder))?;
                Ok(rename(from, &to)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Opens a complete content that is trusted, if it has the right length. One that has not is
    /// removed.
    pub(super) fn open_complete(&self, content: ContentId, size_bytes: u64) -> Option<File> {
        ["store", "arrivals"].iter().find_map(|folder| {
            let path = self.sharded(folder, content);
            let file = File::open(&path).ok()?;
            if file
                .metadata()
                .is_ok_and(|metadata| metadata.len() == size_bytes)
            {
                return Some(file);
            }
            remove(&path);
            None
        })
    }

    /// Checks a content of before an unclean stop, if there is one, and moves it to the store.
    /// One that is bad is removed.
    pub(super) fn open_unverified(&self, content: ContentId, size_bytes: u64) -> Option<File> {
        let path = self.sharded("unverified", content);
        let mut file = File::open(&path).ok()?;
        let right = file
            .metadata()
            .is_ok_and(|metadata| metadata.len() == size_bytes)
            && is_content(&mut file, content);
        if !right {
            tracing::info!(%content, "drop a cached content that is not right");
            remove(&path);
            return None;
        }
        // Where it cannot be moved it is checked again another time.
        self.move_to_store(&path, content).ok()?;
        Some(file)
    }

    /// Gives a complete content its second name in the arrivals, for a kernel that has looked into
    /// the store already. `false` when there is no right copy.
    pub(super) fn place(&self, content: ContentId, size_bytes: u64) -> io::Result<bool> {
        let found = self.open_complete(content, size_bytes);
        let found = found.or_else(|| self.open_unverified(content, size_bytes));
        if found.is_none() {
            return Ok(false);
        }
        let [store, arrival] = ["store", "arrivals"].map(|folder| self.sharded(folder, content));
        let linked = match fs::hard_link(&store, &arrival) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_folder(arrival.parent().unwrap_or(&self.folder))?;
                fs::hard_link(&store, &arrival)
            }
            linked => linked,
        };
        match linked {
            // Both names are taken away together, so this is the same file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            linked => linked.map(|()| true),
        }
    }

    /// Writes a complete content into the store and returns it open.
    pub(super) fn publish(&self, content: ContentId, bytes: &[u8]) -> io::Result<File> {
        let path = self.folder.join("incoming").join(content.to_string());
        let written = create_content(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, bytes)?;
            self.move_to_store(&path, content)?;
            Ok(file)
        });
        if written.is_err() {
            remove(&path);
        }
        written
    }

    /// Checks a partial content that has all its chunks and moves it into the store. `false` when
    /// the chunks do not make the content; the file is removed then.
    pub(super) fn complete(&self, content: ContentId) -> io::Result<bool> {
        let path = self.partial(content);
        let right = is_content(&mut File::open(&path)?, content);
        if right {
            self.move_to_store(&path, content)?;
        } else {
            remove(&path);
        }
        Ok(right)
    }

    /// Opens a partial content for reading and writing, with holes for what is missing. Tells
    /// whether it was there before.
    pub(super) fn open_partial(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> io::Result<(File, bool)> {
        let path = self.partial(content);
        if let Ok(file) = File::options().read(true).write(true).open(&path) {
            if file.metadata()?.len() == size_bytes {
                return Ok((file, true));
            }
            remove(&path);
        }
        let file = create_content(&path)?;
        file.set_len(size_bytes)?;
        Ok((file, false))
    }

    /// Removes every local copy of a content. Who has it open goes on reading.
    pub(super) fn drop_content(&self, content: ContentId) {
        for folder in ["store", "arrivals", "unverified"] {
            remove(&self.sharded(folder, content));
        }
        remove(&self.partial(content));
    }

    /// Lists one shard of a folder: contents with their bytes on disk. What is no content's name
    /// is left out, and so is what goes away meanwhile.
    pub(super) fn list(&self, folder: &str, shard: u8) -> io::Result<Vec<(ContentId, u64)>> {
        let shard = format!("{shard:02x}");
        list_files(&self.folder.join(folder).join(&shard), &shard)
    }

    /// Lists the partial contents with their bytes on disk.
    pub(super) fn list_partial(&self) -> io::Result<Vec<(ContentId, u64)>> {
        list_files(&self.folder.join("partial"), "")
    }

    /// Checks a complete content again; `None` when there is none.
    pub(super) fn check(&self, content: ContentId) -> Option<bool> {
        let mut files = ["store", "arrivals"]
            .iter()
            .filter_map(|folder| File::open(self.sharded(folder, content)).ok());
        files.next().map(|mut file| is_content(&mut file, content))
    }
}

fn is_content(file: &mut File, content: ContentId) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .is_ok_and(|hasher| hasher.finalize().as_bytes() == content.as_bytes())
}

fn create_content(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // Not by `mode` above, from which the umask is taken.
    file.set_permissions(fs::Permissions::from_mode(CONTENT_MODE))?;
    Ok(file)
}

fn create_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Moves all files of one shard to another: by one rename where the other is not there or empty.
fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() || fs::read_dir(from)?.next().is_none() || rename(from, to).is_ok() {
        return Ok(());
    }
    for file in fs::read_dir(from)? {
        let file = file?;
        rename(file.path(), to.join(file.file_name()))?;
        // Of two names of one file a rename leaves both.
        remove(&file.path());
    }
    Ok(())
}

fn list_files(folder: &Path, prefix: &str) -> io::Result<Vec<(ContentId, u64)>> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut contents = Vec::new();
    for file in files {
        let file = file?;
        let id = format!("{prefix}{}", file.file_name().to_string_lossy()).parse();
        if let (Ok(id), Ok(metadata)) = (id, file.metadata()) {
            contents.push((id, metadata.blocks() * STAT_BLOCK_BYTES));
        }
    }
    Ok(contents)
}

/// Removes a file that may be gone already. One that cannot be removed is never trusted: every
/// way to it checks it.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "remove a cached file");
        }
        _ => {}
    }
}
