//! The bytes of files that a sandbox wrote.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nacre_blobstore::{
    Chunk, Chunked, Chunker, ContentId, Digest, ItemKind, ItemStream, PackWriter, Timestamp,
    WriteError, WriteStats,
};

use super::clones::Clones;
use super::error::SnapshotError;
use super::overlay::FileContents;
use super::state::Fingerprint;
use crate::layer::{Fault, Inode};

/// Reads of a file that is written meanwhile.
const READS_MAX: usize = 3;
/// A file that changed this shortly before it was read may change again within one tick of the
/// clock that gives ctimes, and is not known again by it.
pub(super) const TICK_MAX: Duration = Duration::from_millis(50);
/// Bytes from which on a file that may be mapped is read before the freeze as well.
pub(super) const AHEAD_BYTES_MIN: u64 = 1 << 20;

/// Longest file, in bytes, holes included: as for layers. The sandbox may be frozen while it is read.
const FILE_BYTES_MAX: u64 = 128 << 30;
/// File systems in memory (`linux/magic.h`). They never write pages back, so that none is
/// write-protected again, and a store to a mapped one gives no new ctime.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Makes a writer of data packs, when the first byte has to be stored.
pub(super) type MakeWriter<'a> = Box<dyn Fn() -> PackWriter + 'a>;

/// Stores the contents of files, each that is not known from the last commit.
pub(super) struct Contents<'a> {
    make_writer: MakeWriter<'a>,
    writer: Option<(PackWriter, ItemStream)>,
    chunker: Chunker,
    /// What the last commit, or the pass before the freeze, learned.
    known: HashMap<Fingerprint, Chunked>,
    /// What this one learned, for the next.
    learned: HashMap<Fingerprint, Chunked>,
    /// Chunks and chunk lists of all files met.
    pub(super) items: HashSet<ItemKind>,
    /// Encoded chunk lists, to be stored after the data.
    pub(super) lists: Vec<(ContentId, Vec<u8>)>,
    /// Whether processes may have files mapped: a page that is dirty can change without a sign.
    mapped: bool,
    /// Files changed since then are not known again.
    settled_before: Timestamp,
    /// Large files that were passed over before the freeze, for they may change within a tick.
    unsettled: usize,
    /// Whether large files were met before the freeze.
    met_large: bool,
    clones: Clones,
    /// Files whose bytes are read after the freeze.
    cloned: Vec<Cloned>,
    /// Makes the ids that stand for contents that are not read yet. Random: no sandbox can write a
    /// file that has one of them.
    nonce: [u8; 16],
    /// Bytes that were read.
    pub(super) bytes_read: u64,
}

/// A clone, and the id that stands for its content until it is read.
struct Cloned {
    stand_in: ContentId,
    clone: File,
    path: PathBuf,
    fingerprint: Fingerprint,
}

impl<'a> Contents<'a> {
    pub(super) fn new(
        make_writer: MakeWriter<'a>,
        known: HashMap<Fingerprint, Chunked>,
        mapped: bool,
        now_ms: u64,
        clones: Clones,
    ) -> Result<Self, SnapshotError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| SnapshotError::Io {
            verb: "read",
            path: "random numbers".into(),
            source: io::Error::other(error.to_string()),
        })?;
        Ok(Self {
            make_writer,
            writer: None,
            chunker: Chunker::default(),
            known,
            learned: HashMap::new(),
            items: HashSet::new(),
            lists: Vec::new(),
            mapped,
            settled_before: settled_before(now_ms),
            unsettled: 0,
            met_large: false,
            clones,
            cloned: Vec::new(),
            nonce,
            bytes_read: 0,
        })
    }

    /// Tells whether what was passed over must be read in the freeze, unless it is given the time to
    /// settle before.
    pub(super) const fn should_wait(&self) -> bool {
        self.unsettled > self.clones.left()
    }

    /// Takes it for `now_ms`, some time later than before, with all that was passed over to come again.
    pub(super) fn settle(&mut self, now_ms: u64) {
        self.settled_before = settled_before(now_ms);
        self.unsettled = 0;
    }

    /// Tells whether files may have to be cloned in the freeze.
    pub(super) const fn may_clone(&self) -> bool {
        self.met_large && self.clones.left() > 0
    }

    /// Writes the bytes of a large file that will be cloned to the disk: a clone waits for them.
    /// Tells whether it is one.
    pub(super) fn flush(&self, inode: &Inode) -> bool {
        if inode.size_bytes() < AHEAD_BYTES_MIN || self.known.contains_key(&fingerprint(inode)) {
            return false;
        }
        let flushed = inode.open_data().and_then(|file| Ok(file.sync_data()?));
        if let Err(error) = flushed {
            tracing::debug!(%error, "flush a file before it is cloned");
        }
        true
    }

    /// Reads a large file before the freeze, so that it need not be read in it unless it changes.
    /// What cannot be read is left to the freeze.
    pub(super) fn read_ahead(&mut self, inode: &Inode) -> Result<(), SnapshotError> {
        let fingerprint = fingerprint(inode);
        let wanted = inode.size_bytes() >= AHEAD_BYTES_MIN;
        self.met_large |= wanted;
        if !wanted || self.known.contains_key(&fingerprint) {
            return Ok(());
        }
        if !self.is_settled(inode.ctime()) {
            self.unsettled += 1;
            return Ok(());
        }
        // Pages that are clean are write-protected: the next store to one gives a new ctime.
        let Ok(file) = inode.open_data() else {
            return Ok(());
        };
        if is_in_memory(&file) || file.sync_data().is_err() {
            return Ok(());
        }
        match self.store(inode) {
            Ok(chunked) => {
                self.known.insert(fingerprint, chunked);
                Ok(())
            }
            Err(Stored::Fault(_)) => Ok(()),
            Err(Stored::Other(error)) => Err(error),
        }
    }

    /// Clones a large file that a frozen sandbox wrote.
    fn clone_of(&mut self, path: &Path, inode: &Inode) -> Option<(ContentId, u64)> {
        if !self.mapped || inode.size_bytes() < AHEAD_BYTES_MIN {
            return None;
        }
        let before = inode.now().ok()?;
        let clone = self.clones.take(&inode.open_data().ok()?)?;
        // Somebody outside of the sandbox may write, too.
        if inode.now().ok()? != before || before.size_bytes != inode.size_bytes() {
            return None;
        }
        let mut text = self.nonce.to_vec();
        text.extend((self.cloned.len() as u64).to_le_bytes());
        let stand_in = ContentId::new(Digest::of(&text));
        self.cloned.push(Cloned {
            stand_in,
            clone,
            path: path.to_owned(),
            fingerprint: fingerprint(inode),
        });
        Some((stand_in, before.size_bytes))
    }

    /// Returns how many files were cloned.
    pub(super) const fn clones_taken(&self) -> u64 {
        self.clones.taken as u64
    }

    /// Reads and stores what was cloned; returns what each stand-in stands for.
    pub(super) fn read_clones(&mut self) -> Result<HashMap<ContentId, ContentId>, SnapshotError> {
        let mut contents = HashMap::new();
        for cloned in std::mem::take(&mut self.cloned) {
            let path = &cloned.path;
            let size_bytes = cloned.fingerprint.size_bytes;
            let chunked = self.cut(&mut cloned.clone.take(size_bytes));
            let chunked = chunked.map_err(|error| error.at(path))?;
            if chunked.size_bytes != size_bytes {
                return Err(SnapshotError::Changed(cloned.path));
            }
            self.note(&chunked)?;
            contents.insert(cloned.stand_in, chunked.content);
            // Its pages were clean when it was cloned: the next store to one gave a new ctime.
            if self.is_settled(cloned.fingerprint.ctime) {
                self.learned.insert(cloned.fingerprint, chunked);
            }
        }
        Ok(contents)
    }

    fn read(&mut self, path: &Path, inode: &Inode) -> Result<Chunked, SnapshotError> {
        for _ in 1..READS_MAX {
            match self.store(inode) {
                Err(Stored::Fault(Fault::Changed)) => {}
                other => return other.map_err(|error| error.at(path)),
            }
        }
        self.store(inode).map_err(|error| error.at(path))
    }

    /// Reads a file once; [`Fault::Changed`] when it was written meanwhile.
    fn store(&mut self, inode: &Inode) -> Result<Chunked, Stored> {
        let before = inode.now()?;
        Fault::check_limit(before.size_bytes, FILE_BYTES_MAX, "bytes in a file")?;
        // No further than it was long: one that grows all the time has no end.
        let mut file = inode.open_data()?.take(before.size_bytes.saturating_add(1));
        let chunked = self.cut(&mut file)?;
        if inode.now()? != before || chunked.size_bytes != before.size_bytes {
            return Err(Stored::Fault(Fault::Changed));
        }
        Ok(chunked)
    }

    /// Cuts and stores bytes.
    fn cut(&mut self, bytes: &mut impl Read) -> Result<Chunked, Stored> {
        let (make_writer, writer) = (&self.make_writer, &mut self.writer);
        let (_, stream) = writer.get_or_insert_with(|| {
            let writer = make_writer();
            let stream = writer.stream();
            (writer, stream)
        });
        let chunked = self.chunker.cut(bytes, |chunk: Chunk| {
            stream.add_chunk(&chunk).map_err(Stored::from)
        })?;
        self.bytes_read += chunked.size_bytes;
        Ok(chunked)
    }

    /// Notes what a content needs to be read again.
    fn note(&mut self, chunked: &Chunked) -> Result<(), SnapshotError> {
        let chunks = chunked.chunks.iter().map(|(id, _)| ItemKind::Chunk(*id));
        self.items.extend(chunks);
        if let Some(list) = chunked.list()
            && self.items.insert(ItemKind::ChunkList(chunked.content))
        {
            self.lists.push((chunked.content, list.encode()?));
        }
        Ok(())
    }

    fn is_settled(&self, ctime: Timestamp) -> bool {
        ctime < self.settled_before
    }

    /// Waits until the data is durable; returns what was stored and what was learned.
    pub(super) fn finish(
        self,
    ) -> Result<(WriteStats, HashMap<Fingerprint, Chunked>), SnapshotError> {
        let Some((writer, mut stream)) = self.writer else {
            return Ok((WriteStats::default(), self.learned));
        };
        stream.flush()?;
        drop(stream);
        Ok((writer.finish()?, self.learned))
    }
}

impl FileContents for Contents<'_> {
    /// Returns the content of a file and stores it, unless it is known. Of a large file that is
    /// cloned, it is a stand-in until [`read_clones`](Self::read_clones).
    fn content(&mut self, path: &Path, inode: &Inode) -> Result<(ContentId, u64), SnapshotError> {
        let fingerprint = fingerprint(inode);
        // Only a file that was read ahead is known not to change under a mapping.
        let may_be_known = !self.mapped || inode.size_bytes() >= AHEAD_BYTES_MIN;
        let known = self.known.get(&fingerprint).filter(|_| may_be_known);
        let known = known.cloned();
        let was_known = known.is_some();
        let chunked = match known {
            Some(chunked) => chunked,
            None => match self.clone_of(path, inode) {
                Some(stands_for) => return Ok(stands_for),
                None => self.read(path, inode)?,
            },
        };
        let named = (chunked.content, chunked.size_bytes);
        self.note(&chunked)?;
        if was_known || (!self.mapped && self.is_settled(inode.ctime())) {
            self.learned.insert(fingerprint, chunked);
        }
        Ok(named)
    }
}

impl std::fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("bytes_read", &self.bytes_read)
            .finish_non_exhaustive()
    }
}

fn fingerprint(inode: &Inode) -> Fingerprint {
    Fingerprint {
        inode: inode.id().2,
        size_bytes: inode.size_bytes(),
        ctime: inode.ctime(),
    }
}

/// Tells whether a file is in a file system without a disk; one that cannot be asked may be.
fn is_in_memory(file: &File) -> bool {
    let asked = rustix::fs::fstatfs(file);
    let Ok(Ok(kind)) = asked.map(|found| u64::try_from(found.f_type)) else {
        return true;
    };
    IN_MEMORY.contains(&kind)
}

fn settled_before(now_ms: u64) -> Timestamp {
    let tick_ms = u64::try_from(TICK_MAX.as_millis()).unwrap_or(u64::MAX);
    let settled_ms = now_ms.saturating_sub(tick_ms);
    Timestamp {
        seconds: i64::try_from(settled_ms / 1000).unwrap_or(i64::MAX),
        nanoseconds: u32::try_from(settled_ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Why a content is not stored: the file's fault, or not.
enum Stored {
    Fault(Fault),
    Other(SnapshotError),
}

impl Stored {
    fn at(self, path: &Path) -> SnapshotError {
        match self {
            Self::Fault(fault) => SnapshotError::at(path)(fault),
            Self::Other(error) => error,
        }
    }
}

impl From<Fault> for Stored {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stored {
    fn from(error: io::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<WriteError> for Stored {
    fn from(error: WriteError) -> Self {
        Self::Other(error.into())
    }
}
