//! Making room: what goes, and what gets a second chance.
//!
//! Files that are complete are opened without our knowledge, and overlayfs leaves no trace of it
//! but the pages that are then in the page cache. A content that is about to be evicted is
//! therefore looked at, by cachestat(2): a read that must not wait would bring the page there. If
//! its pages are there they are dropped, and it goes another round: pages that are there at its
//! end were read since, or are mapped, so could not be dropped. Pages of a file written within
//! [`CLEAN_AFTER`] say nothing, as they are those that we wrote.
//!
//! Eviction unlinks. A file that is open or known to a mount goes on being read; its space comes
//! back when no one holds it, at the latest when the sandboxes end that opened it. The kernel
//! offers no cheap way to count that space, so it is counted as free; where it is not, writing
//! finds the disk full, and the quota is lowered to what fits.

use std::fs::File;
use std::io;
use std::time::Duration;

use nacre_blobstore::ContentId;
use rustix::fs::{Advice, fadvise};

use super::LOCALS_MAX;
use super::fetch::Inner;
use super::quota::{Refusal, Reservation};
use super::table::{Candidate, Moment};
use crate::sys::cached_pages;

/// Candidates that one eviction spares because they are in use, before it takes the next
/// whether its pages are there or not.
const SPARED_MAX: usize = 16;
/// By when the kernel has written a file back: its `dirty_expire_centisecs` is 30 s, and it looks
/// every 5 s.
const CLEAN_AFTER: Duration = Duration::from_secs(60);
/// How long a write waits for the walk that counts what is there.
pub(super) const LOAD_WAIT: Duration = Duration::from_secs(2);
/// A full disk costs one part in this many of what is on it.
const FULL_SHARE: u64 = 32;

impl Inner {
    /// Returns the time as the table counts it.
    pub(super) fn now(&self) -> Moment {
        Moment::at(self.clock.elapsed())
    }

    /// Runs a write of at most `bytes` that makes `files` new contents, with room for it. Where
    /// the disk is full below the quota, evicts some and tries once more. Blocks.
    pub(super) fn storing<T>(
        &self,
        bytes: u64,
        files: u64,
        write: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let room = self.make_room(bytes, files)?;
        let written = write();
        if written.as_ref().is_err_and(is_full) {
            let level = self.quota.level();
            let mut missing = bytes.max(level.bytes / FULL_SHARE);
            while missing > 0
                && let Some(evicted) = self.evict_one(true)
            {
                missing = missing.saturating_sub(evicted);
            }
            self.quota.lower(bytes, self.now());
            return write().inspect_err(|_| self.quota.lower(0, self.now()));
        }
        drop(room);
        written
    }

    /// Evicts until there is room. Blocks.
    fn make_room(&self, bytes: u64, files: u64) -> io::Result<Reservation<'_>> {
        let mut evicted_bytes = 0;
        let mut waited = false;
        loop {
            match self.quota.reserve(bytes, files, evicted_bytes, self.now()) {
                Ok(room) => return Ok(room),
                Err(Refusal::Loading) if !waited => {
                    self.quota.wait_loaded(LOAD_WAIT);
                    waited = true;
                }
                Err(Refusal::Full) => {
                    let evicted = self.evict_one(true).ok_or(Refusal::Full)?;
                    evicted_bytes += evicted;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Evicts the content that is least likely to be used again, and returns its bytes. `None`
    /// when all are in use. Blocks.
    pub(super) fn evict_one(&self, second_chances: bool) -> Option<u64> {
        let (chances, rounds) = if second_chances {
            (SPARED_MAX, 2 * SPARED_MAX)
        } else {
            (0, 2 * LOCALS_MAX)
        };
        for round in 0..rounds {
            let candidate = self.quota.choose(self.now())?;
            if round < chances && self.spare_used(&candidate) {
                continue;
            }
            if let Some(bytes) = self.evict(candidate.content) {
                return Some(bytes);
            }
        }
        None
    }

    /// Gives a candidate another round if its pages say that it is used.
    fn spare_used(&self, candidate: &Candidate) -> bool {
        if candidate.quiet < CLEAN_AFTER {
            return false;
        }
        let file = self.layout.open_any(candidate.content);
        let Some(file) = file.filter(is_resident) else {
            return false;
        };
        let in_use = candidate.aged;
        // The next round shows whether it is read.
        let aged = fadvise(&file, 0, None, Advice::DontNeed).is_ok();
        self.quota
            .with(|table| table.spare(candidate.content, in_use, aged));
        true
    }

    /// Evicts a candidate, unless it is being read or was used since it was chosen.
    pub(super) fn evict(&self, content: ContentId) -> Option<u64> {
        let _names = self.names.lock(content);
        if !self.locals.remove_idle(content) {
            self.quota.with(|table| table.spare(content, true, false));
            return None;
        }
        let now = self.now();
        let bytes = self.quota.with(|table| table.take(content, now))?;
        self.ahead.take(content);
        self.layout.drop_content(content);
        self.counters.evicted(bytes);
        Some(bytes)
    }
}

/// Tells whether pages of a file are in the page cache. A kernel that cannot tell opens no file of
/// the cache by itself: kernel mode needs the same release, Linux 6.5.
fn is_resident(file: &File) -> bool {
    cached_pages(file).is_ok_and(|pages| pages > 0)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
