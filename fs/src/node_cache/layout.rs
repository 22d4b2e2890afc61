//! The folders of the node cache.
//!
//! ```text
//! store/ab/cdef...     complete contents, checked; mode 0644; a data-only layer of overlayfs
//! arrivals/ab/cdef...  second names of contents that a lookup waited for; emptied after a start
//! partial/<id>         large contents with holes where chunks are missing
//! unverified/ab/cdef.. complete contents that may have lost data, not yet checked again
//! ahead/<id>           complete contents, checked, that nobody has come for; trash at a start
//! incoming/            files being written; emptied at a start
//! trash/ab/...         deleted after a start
//! clean                there while no one has the cache open, and only after an orderly close
//! session              the boot and the mount of whoever had it open last
//! lock                 locked by whoever has the cache open
//! ```
//! What of them is trusted at a start: [`super::trust`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nacre_blobstore::ContentId;
use rustix::fs::rename;

use super::rot::Check;
use super::trust;

/// Mode of the content files, so that overlayfs can open them for any user.
const CONTENT_MODE: u32 = 0o644;
/// Unit in which stat(2) counts the space of a file.
const STAT_BLOCK_BYTES: u64 = 512;
const FOLDERS: [&str; 7] = [
    "store",
    "arrivals",
    "partial",
    "unverified",
    "ahead",
    "incoming",
    "trash",
];

/// Where a content is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layers {
    /// For lookups to come.
    Store,
    /// Also in the arrivals, for a lookup that waits.
    Both,
}

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
        trust::begin(&layout.folder)?;
        layout.discard_ahead()?;
        Ok(layout)
    }

    /// Says that all there is may be trusted at the next start. Nothing may be written after.
    pub(super) fn close(&self) -> io::Result<()> {
        trust::end(&self.folder)
    }

    /// Opens the cache's folder itself.
    pub(super) fn open_folder(&self) -> io::Result<File> {
        File::open(&self.folder)
    }

    /// Returns the data-only layers of overlayfs: store and arrivals.
    pub(super) fn layers(&self) -> [PathBuf; 2] {
        [self.folder.join("store"), self.folder.join("arrivals")]
    }

    fn partial(&self, content: ContentId) -> PathBuf {
        self.folder.join("partial").join(content.to_string())
    }

    fn incoming(&self, content: ContentId) -> PathBuf {
        self.folder.join("incoming").join(content.to_string())
    }

    fn ahead(&self, content: ContentId) -> PathBuf {
        self.folder.join("ahead").join(content.to_string())
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

    /// Moves a checked content into the store.
    fn move_to_store(&self, from: &Path, content: ContentId) -> io::Result<()> {
        in_shard(&self.sharded("store", content), |to| rename(from, to))
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

    /// Opens whatever there is of a content, unchecked.
    pub(super) fn open_any(&self, content: ContentId) -> Option<File> {
        let open = |path: PathBuf| File::open(path).ok();
        open(self.sharded("store", content))
            .or_else(|| open(self.partial(content)))
            .or_else(|| open(self.sharded("unverified", content)))
    }

    /// Opens and checks a content that may have lost data, if there is one. One that is bad is
    /// removed.
    pub(super) fn open_unverified(&self, content: ContentId, size_bytes: u64) -> Option<File> {
        let path = self.sharded("unverified", content);
        let mut file = File::open(&path).ok()?;
        let right = file
            .metadata()
            .is_ok_and(|metadata| metadata.len() == size_bytes)
            && is_content(&mut file, content);
        if right {
            return Some(file);
        }
        tracing::info!(%content, "drop a cached content that is not right");
        remove(&path);
        None
    }

    /// Moves a content that was checked from the unverified ones to the store.
    pub(super) fn trust(&self, content: ContentId) -> io::Result<()> {
        self.move_to_store(&self.sharded("unverified", content), content)
    }

    /// Gives a content in the store its second name in the arrivals, for a kernel that has looked
    /// into the store already.
    pub(super) fn link_arrival(&self, content: ContentId) -> io::Result<()> {
        let store = self.sharded("store", content);
        let linked = in_shard(&self.sharded("arrivals", content), |arrival| {
            fs::hard_link(&store, arrival)
        });
        match linked {
            // Both names are taken away together, so this is the same file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }

    /// Tells whether a content has its second name.
    pub(super) fn is_arrival(&self, content: ContentId) -> bool {
        self.sharded("arrivals", content).exists()
    }

    /// Takes the second name of a content away; an only name becomes one in the store.
    pub(super) fn unlink_arrival(&self, content: ContentId) -> io::Result<()> {
        let arrival = self.sharded("arrivals", content);
        self.move_to_store(&arrival, content)?;
        // Of two names of one file, a rename leaves both.
        remove(&arrival);
        Ok(())
    }

    /// Writes a content to where no one looks for it.
    pub(super) fn write_incoming(&self, content: ContentId, bytes: &[u8]) -> io::Result<File> {
        write_content(&self.incoming(content), bytes)
    }

    /// Writes a content to where no one looks for it until it is settled.
    pub(super) fn write_ahead(&self, content: ContentId, bytes: &[u8]) -> io::Result<File> {
        write_content(&self.ahead(content), bytes)
    }

    /// Moves a content that is ahead to the store.
    pub(super) fn settle_ahead(&self, content: ContentId) -> io::Result<()> {
        let path = self.ahead(content);
        self.move_to_store(&path, content)
            .inspect_err(|_| remove(&path))
    }

    /// Removes a content that is ahead.
    pub(super) fn remove_ahead(&self, content: ContentId) {
        remove(&self.ahead(content));
    }

    /// Makes what was ahead in the last run trash. Blocks for a few renames.
    fn discard_ahead(&self) -> io::Result<()> {
        let trash = self.folder.join("trash").join("00");
        create_folder(&trash)?;
        let (ahead, discarded) = (self.folder.join("ahead"), trash.join("ahead"));
        if rename(&ahead, &discarded).is_err() {
            // The last run ended before it had taken out the trash.
            fs::remove_dir_all(&discarded)?;
            rename(&ahead, &discarded)?;
        }
        create_folder(&ahead)
    }

    /// Moves a content that was written to the incoming ones into the store.
    pub(super) fn publish(&self, content: ContentId) -> io::Result<()> {
        let path = self.incoming(content);
        self.move_to_store(&path, content)
            .inspect_err(|_| remove(&path))
    }

    /// Tells whether a partial content that has all its chunks is right.
    pub(super) fn check_partial(&self, content: ContentId) -> io::Result<bool> {
        Ok(is_content(&mut File::open(self.partial(content))?, content))
    }

    /// Moves a partial content that is right into the store.
    pub(super) fn complete(&self, content: ContentId) -> io::Result<()> {
        self.move_to_store(&self.partial(content), content)
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
        remove(&self.ahead(content));
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

    /// Lists what is ahead with its bytes on disk.
    pub(super) fn list_ahead(&self) -> io::Result<Vec<(ContentId, u64)>> {
        list_files(&self.folder.join("ahead"), "")
    }

    /// Deletes one shard of the trash.
    pub(super) fn empty_trash(&self, shard: u8) -> io::Result<()> {
        let folder = self.folder.join("trash").join(format!("{shard:02x}"));
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens a complete content to check it, trusted or not.
    pub(super) fn open_check(&self, content: ContentId) -> io::Result<Check> {
        match Check::open(&self.sharded("store", content)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Check::open(&self.sharded("unverified", content))
            }
            opened => opened,
        }
    }
}

/// Returns what an open file takes on the disk; nothing where the disk does not tell.
pub(super) fn bytes_on_disk(file: &File) -> u64 {
    file.metadata()
        .map_or(0, |metadata| metadata.blocks() * STAT_BLOCK_BYTES)
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

/// Writes a whole content, or leaves nothing.
fn write_content(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let written = create_content(path).and_then(|mut file| {
        io::Write::write_all(&mut file, bytes)?;
        Ok(file)
    });
    if written.is_err() {
        remove(path);
    }
    written
}

fn create_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Makes a name in a shard. Shards are made when first needed: making all of them at the start
/// takes a third of a second on ext4.
fn in_shard<E: Into<io::Error>>(
    to: &Path,
    name: impl Fn(&Path) -> Result<(), E>,
) -> io::Result<()> {
    match name(to).map_err(Into::into) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            to.parent().map_or(Ok(()), create_folder)?;
            name(to).map_err(Into::into)
        }
        named => named,
    }
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
