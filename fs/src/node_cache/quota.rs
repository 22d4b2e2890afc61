//! How much is on the disk, how much may be, and who is about to write.
//!
//! Room is reserved before it is written to, so the quota holds at every moment, up to what a file
//! system adds for its own extents. Until the walk at the start has counted what is there
//! ([`super::load`]), all that the file system holds counts as the cache's: too much, never too
//! little.
//!
//! A disk may be full below the quota. The quota in force is then lowered to what fitted, and
//! rises again by [`RISE_SHARE`] each [`RISE_EVERY`] while there is space.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::ContentId;

use super::options::Disk;
use super::table::{Candidate, Moment, Table};

/// One content may take one part in this many of the quota: it cannot be evicted while it is read.
const CONTENT_SHARE: u64 = 2;
/// The quota in force rises by one part in this many of the quota.
const RISE_SHARE: u64 = 64;
/// Between two rises.
const RISE_EVERY: Duration = Duration::from_secs(10);
/// Unit in which space is reserved: what file systems allocate.
const ALLOCATION_BYTES: u64 = 4096;

/// Why room was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something must be evicted first.
    Full,
    /// What is there is not counted yet, and by all that the file system holds it is too much.
    Loading,
    /// It would never fit.
    TooLarge,
}

/// What is on the disk and what may be.
#[derive(Debug)]
pub(super) struct Quota {
    folder: File,
    bytes_max: u64,
    files_max: u64,
    state: Mutex<State>,
    counted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    loaded: bool,
    reserved_bytes: u64,
    reserved_files: u64,
    lowered: Option<Lowered>,
}

/// A quota in force that is below the one wanted.
#[derive(Debug, Clone, Copy)]
struct Lowered {
    bytes: u64,
    since: Moment,
}

/// Figures of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) contents: u64,
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
    pub(super) files_max: u64,
    pub(super) bytes_in_force: u64,
    pub(super) loaded: bool,
}

/// Room to write to, until it is dropped.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    quota: &'a Quota,
    bytes: u64,
    files: u64,
}

impl Quota {
    /// Limits a cache on the file system of `folder`.
    pub(super) fn new(folder: File, bytes_max: u64, files_max: u64) -> Self {
        Self {
            folder,
            bytes_max,
            files_max,
            state: Mutex::default(),
            counted: Condvar::new(),
        }
    }

    /// Reserves room for a write of `bytes` and for `files` new contents. `evicted_bytes` were
    /// evicted for it, and may be written again where the file system has less free than it should.
    pub(super) fn reserve(
        &self,
        bytes: u64,
        files: u64,
        evicted_bytes: u64,
        now: Moment,
    ) -> Result<Reservation<'_>, Refusal> {
        let bytes = bytes.next_multiple_of(ALLOCATION_BYTES);
        // Where the disk cannot tell, the write will.
        let disk = Disk::of(&self.folder).ok();
        let mut state = self.state();
        self.rise(&mut state, disk, now);
        let limit = self.in_force(&state);
        if bytes > self.bytes_max || files > self.files_max {
            return Err(Refusal::TooLarge);
        }
        let (held_bytes, held_files) = match disk.filter(|_| !state.loaded) {
            Some(disk) => (disk.used_bytes, disk.used_files),
            None => (state.table.bytes(), state.table.len()),
        };
        let fits = held_bytes + state.reserved_bytes + bytes <= limit
            && held_files + state.reserved_files + files <= self.files_max;
        let spare = evicted_bytes >= bytes || disk.is_none_or(|disk| disk.free_bytes >= bytes);
        if !fits || !spare {
            return Err(if state.loaded {
                Refusal::Full
            } else {
                Refusal::Loading
            });
        }
        state.reserved_bytes += bytes;
        state.reserved_files += files;
        Ok(Reservation {
            quota: self,
            bytes,
            files,
        })
    }

    /// Lowers the quota in force to what is there now and `bytes` more: the disk is full.
    pub(super) fn lower(&self, bytes: u64, now: Moment) {
        let mut state = self.state();
        let bytes = self.bytes_max.min(state.table.bytes() + bytes);
        tracing::debug!(bytes, "the disk of the node cache is full");
        state.lowered = Some(Lowered { bytes, since: now });
    }

    /// Raises a lowered quota a little if it is time and there is space.
    fn rise(&self, state: &mut State, disk: Option<Disk>, now: Moment) {
        let step = self.bytes_max / RISE_SHARE;
        let Some(lowered) = &mut state.lowered else {
            return;
        };
        let due = now.since(lowered.since) >= RISE_EVERY;
        if due && disk.is_none_or(|disk| disk.free_bytes > step) {
            lowered.bytes = lowered.bytes.saturating_add(step.max(ALLOCATION_BYTES));
            lowered.since = now;
            if lowered.bytes >= self.bytes_max {
                state.lowered = None;
            }
        }
    }

    fn in_force(&self, state: &State) -> u64 {
        state
            .lowered
            .map_or(self.bytes_max, |lowered| lowered.bytes)
    }

    /// Tells whether more is there than may be.
    pub(super) fn is_exceeded(&self) -> bool {
        let state = self.state();
        state.table.bytes() > self.in_force(&state) || state.table.len() > self.files_max
    }

    /// Tells whether a content may grow by `bytes`.
    pub(super) fn may_grow(&self, content: ContentId, bytes: u64) -> bool {
        let held = self.state().table.bytes_of(content).unwrap_or(0);
        held + bytes <= self.bytes_max / CONTENT_SHARE
    }

    /// Chooses what to evict next.
    pub(super) fn choose(&self, now: Moment) -> Option<Candidate> {
        let mut state = self.state();
        let in_force = self.in_force(&state);
        state.table.choose(in_force, now)
    }

    /// Does something with the table.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        f(&mut self.state().table)
    }

    /// Says that all that is on the disk is in the table.
    pub(super) fn loaded(&self) {
        self.state().loaded = true;
        self.counted.notify_all();
    }

    /// Tells whether nothing of a content is on the disk for certain, without a look at the disk.
    pub(super) fn is_absent(&self, content: ContentId) -> bool {
        let state = self.state();
        state.loaded && state.table.bytes_of(content).is_none()
    }

    /// Waits for [`Quota::loaded`], and tells whether it came in time. Blocks.
    pub(super) fn wait_loaded(&self, deadline: Duration) -> bool {
        let waited = self
            .counted
            .wait_timeout_while(self.state(), deadline, |state| !state.loaded);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.loaded
    }

    pub(super) fn level(&self) -> Level {
        let state = self.state();
        Level {
            contents: state.table.len(),
            bytes: state.table.bytes(),
            bytes_max: self.bytes_max,
            files_max: self.files_max,
            bytes_in_force: self.in_force(&state),
            loaded: state.loaded,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.quota.state();
        state.reserved_bytes -= self.bytes;
        state.reserved_files -= self.files;
    }
}

impl From<Refusal> for io::Error {
    fn from(_: Refusal) -> Self {
        Self::new(
            io::ErrorKind::StorageFull,
            "the quota of the node cache is full",
        )
    }
}
