//! Finding contents that went bad on the disk.
//!
//! Files are read past the page cache where the file system can do that: it is the disk that is
//! checked, and pages that were not there do not come to be, which would look like a use.
//!
//! A bad content is unlinked and fetched again when it is next needed. Who has it open, or mapped,
//! goes on with the bad file: there is no way to take it from them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::ContentId;

use super::NodeCache;
use super::fetch::Inner;
use super::local::off_reactor;

/// Contents that one check reads at most.
const CHECK_CONTENTS: usize = 64;
/// Bytes after which a check takes no further content.
const CHECK_BYTES: u64 = 4 << 20;
/// Bytes of one read.
const PIECE_BYTES: usize = 1 << 20;
/// Between two reads in the background: at most 8 MiB a second.
const PIECE_PAUSE: Duration = Duration::from_millis(125);
/// Alignment of reads past the page cache, enough for every device.
const ALIGNMENT: usize = 4096;

impl NodeCache {
    /// How often [`NodeCache::recheck_some`] is to be called.
    pub const RECHECK_EVERY: Duration = Duration::from_secs(5);

    /// Checks a few contents, from the slot that the call before returned, and drops the bad ones.
    /// Right ones are trusted, if they were not.
    /// Reads at a rate that leaves the disk to others.
    pub async fn recheck_some(&self, mut slot: usize) -> usize {
        let mut left_bytes = CHECK_BYTES;
        for _ in 0..CHECK_CONTENTS {
            let next = self.inner.quota.with(|table| table.next(slot));
            let Some((content, after)) = next else {
                return 0;
            };
            slot = after;
            let checked_bytes = self.recheck(content).await;
            left_bytes = left_bytes.saturating_sub(checked_bytes);
            if left_bytes == 0 {
                break;
            }
        }
        slot
    }

    /// Checks one content slowly, and returns its length.
    async fn recheck(&self, content: ContentId) -> u64 {
        let inner = Arc::clone(&self.inner);
        let opened = off_reactor(move || inner.layout.open_check(content)).await;
        // Partial contents are checked where they are read.
        let Some(Ok(mut check)) = opened else {
            return 0;
        };
        let size_bytes = check.left_bytes;
        loop {
            let read = move || {
                let more = check.read_piece();
                (check, more)
            };
            let Some((rest, more)) = off_reactor(read).await else {
                return size_bytes;
            };
            check = rest;
            if let Ok(true) = more {
                self.inner.clock.sleep(PIECE_PAUSE).await;
                continue;
            }
            let right = more.is_ok() && check.is(content);
            self.settle_check(content, right).await;
            return size_bytes;
        }
    }

    async fn settle_check(&self, content: ContentId, right: bool) {
        self.inner.counters.rechecked();
        if right {
            let inner = Arc::clone(&self.inner);
            off_reactor(move || inner.trust(content)).await;
        } else {
            self.drop_rotten(content).await;
        }
    }

    /// Checks a complete local content again and drops it when it is bad. One that was not trusted
    /// is, if it is right. `None` when there is none.
    pub async fn verify(&self, content: ContentId) -> Option<bool> {
        let inner = Arc::clone(&self.inner);
        let right = off_reactor(move || inner.verify(content)).await.flatten()?;
        if !right {
            self.drop_rotten(content).await;
        }
        Some(right)
    }

    async fn drop_rotten(&self, content: ContentId) {
        tracing::warn!(%content, "a cached content is not right any more");
        self.inner.counters.rotten();
        self.inner.forget_local(content).await;
    }
}

impl Inner {
    /// Checks a content, and trusts it if it is right. Blocks.
    fn verify(&self, content: ContentId) -> Option<bool> {
        let mut check = match self.layout.open_check(content) {
            Ok(check) => check,
            Err(error) => return (error.kind() != io::ErrorKind::NotFound).then_some(false),
        };
        let right = loop {
            match check.read_piece() {
                Ok(true) => {}
                Ok(false) => break check.is(content),
                Err(_) => break false,
            }
        };
        if right {
            self.trust(content);
        }
        Some(right)
    }

    /// Moves a content that is right to the store, unless it is there or gone.
    fn trust(&self, content: ContentId) {
        let _names = self.names.lock(content);
        drop(self.layout.trust(content));
    }
}

/// A file that is being hashed.
#[derive(Debug)]
pub(super) struct Check {
    file: File,
    left_bytes: u64,
    hasher: Box<blake3::Hasher>,
    buffer: Vec<u8>,
}

impl Check {
    /// Opens a file to hash it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        let direct = options.custom_flags(libc::O_DIRECT).open(path);
        let file = match direct {
            // Some file systems have no reads past the page cache.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path)?,
            opened => opened?,
        };
        Ok(Self {
            left_bytes: file.metadata()?.len(),
            file,
            hasher: Box::default(),
            buffer: vec![0; PIECE_BYTES + ALIGNMENT],
        })
    }

    /// Reads a piece, and tells whether there is more.
    fn read_piece(&mut self) -> io::Result<bool> {
        let start = self.buffer.as_ptr().align_offset(ALIGNMENT);
        let piece = &mut self.buffer[start..start + PIECE_BYTES];
        let mut filled = 0;
        while filled < PIECE_BYTES && self.left_bytes > 0 {
            let read = self.file.read(&mut piece[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            self.left_bytes = self.left_bytes.saturating_sub(read as u64);
        }
        self.hasher.update(&piece[..filled]);
        Ok(self.left_bytes > 0)
    }

    /// Tells whether what was read is the content.
    fn is(&self, content: ContentId) -> bool {
        self.hasher.finalize().as_bytes() == content.as_bytes()
    }
}
