//! Which frames to fetch without knowing what will be read: those near many that were.
//!
//! Files that are read together were mostly written together. For each frame that is read for the
//! first time, the frames around it in its pack that were read before are counted, and as many
//! following frames (half as many before, when it was not there yet) are fetched. Those that somebody
//! had asked for ahead, or that were read while it was known what would be read, are not counted:
//! whoever knew did not name the frames around them. What this costs is bounded: bytes that were
//! fetched ahead and not read are at most a given share of those that
//! were read, plus a fixed amount. `docs/FORMAT.md` has the measurements.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fetch::FrameKey;

/// How far around a frame those are counted that were read.
const NEAR_FRAMES: u32 = 16;
/// Most frames that one read fetches ahead.
const WINDOW_FRAMES_MAX: u32 = 16;
/// Frames of a pack whose reads are remembered: more than fit its index.
const FRAMES_MAX: u32 = 1 << 20;
/// Packs whose reads are remembered; beyond them all is forgotten.
const PACKS_MAX: usize = 1024;
/// Bytes that may be fetched ahead in vain before any was read.
const UNREAD_BYTES_MIN: u64 = 4 << 20;
/// Read bytes at which they and the unread ones are halved, so that old successes do not excuse
/// new waste.
const READ_BYTES_MAX: u64 = 256 << 20;

/// What was read of which pack, and what fetching ahead has cost.
#[derive(Debug)]
pub(super) struct ReadAhead {
    unread_percent_max: u64,
    /// How many want it to rest.
    suspended: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The frames that were read.
    read: Frames,
    /// Those of which it was known that they would be read.
    foretold: Frames,
    /// Frames fetched ahead that nobody has read, with their stored bytes.
    unread: HashMap<FrameKey, u32>,
    unread_bytes: u64,
    read_bytes: u64,
}

/// Frames of one pack that may be worth fetching, nearest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) pack: u32,
    pub(super) frames: Vec<u32>,
}

impl ReadAhead {
    /// Fetches ahead until `unread_percent_max` percent of what was read is fetched in vain; with
    /// 0, never.
    pub(super) fn new(unread_percent_max: u64) -> Self {
        Self {
            unread_percent_max,
            suspended: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }

    /// Fetches nothing ahead until as many [`resume`](Self::resume) as suspended.
    pub(super) fn suspend(&self) {
        self.suspended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resume(&self) {
        self.suspended.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn is_off(&self) -> bool {
        self.unread_percent_max == 0 || self.suspended.load(Ordering::Relaxed) > 0
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that frames will be read, for they are asked for ahead. Whether they are is not seen here:
    /// they are no guesses any more, nor will be.
    pub(super) fn foretell(&self, frames: impl Iterator<Item = FrameKey>) {
        let mut state = self.state();
        for key in frames {
            state.foretold.insert(key.0, key.1);
            let bytes = state.unread.remove(&key).unwrap_or_default();
            state.unread_bytes = state.unread_bytes.saturating_sub(bytes.into());
        }
    }

    pub(super) fn is_foretold(&self, (pack, frame): FrameKey) -> bool {
        self.state().foretold.contains(pack, frame)
    }

    /// Notes that a frame is read, which is in memory or has to be fetched (`missing`), and returns
    /// what to fetch ahead. Of a frame that was read before this is nothing.
    pub(super) fn note(&self, (pack, frame): FrameKey, missing: bool) -> Option<Candidates> {
        let mut state = self.state();
        if !state.read.insert(pack, frame) {
            return None;
        }
        if self.is_off() {
            state.foretold.insert(pack, frame);
        }
        if let Some(bytes) = state.unread.remove(&(pack, frame)) {
            state.unread_bytes = state.unread_bytes.saturating_sub(bytes.into());
            state.count_read(bytes);
        }
        if self.is_off() || state.foretold.contains(pack, frame) {
            return None;
        }
        let is_read = |frame| state.read.contains(pack, frame);
        let counts = |frame| is_read(frame) && !state.foretold.contains(pack, frame);
        let around = frame.saturating_sub(NEAR_FRAMES)..=frame.saturating_add(NEAR_FRAMES);
        let near = around.filter(|near| counts(*near)).count();
        let near = u32::try_from(near).unwrap_or(WINDOW_FRAMES_MAX);
        let ahead = near.min(WINDOW_FRAMES_MAX);
        let behind = if missing { ahead / 2 } else { 0 };
        let following = (1..=ahead).filter_map(|n| frame.checked_add(n));
        let preceding = (1..=behind).filter_map(|n| frame.checked_sub(n));
        let frames: Vec<u32> = following
            .chain(preceding)
            .filter(|candidate| !is_read(*candidate))
            .filter(|candidate| !state.unread.contains_key(&(pack, *candidate)))
            .collect();
        (!frames.is_empty()).then_some(Candidates { pack, frames })
    }

    /// Counts bytes that a reader had to wait for.
    pub(super) fn missed(&self, stored_bytes: u32) {
        self.state().count_read(stored_bytes);
    }

    /// Asks whether a frame may be fetched ahead, and if so counts it as unread.
    pub(super) fn admit(&self, key: FrameKey, stored_bytes: u32) -> bool {
        let mut state = self.state();
        if state.read.contains(key.0, key.1) || state.foretold.contains(key.0, key.1) {
            return false;
        }
        let limit = UNREAD_BYTES_MIN + state.read_bytes * self.unread_percent_max / 100;
        let admitted = !self.is_off()
            && state.unread_bytes + u64::from(stored_bytes) <= limit
            && !state.unread.contains_key(&key);
        if admitted {
            state.unread.insert(key, stored_bytes);
            state.unread_bytes += u64::from(stored_bytes);
        }
        admitted
    }

    /// Takes back that frames were counted as unread: they did not come.
    pub(super) fn forget(&self, keys: &[FrameKey]) {
        let mut state = self.state();
        for key in keys {
            let bytes = state.unread.remove(key).unwrap_or_default();
            state.unread_bytes = state.unread_bytes.saturating_sub(bytes.into());
        }
    }
}

impl State {
    fn count_read(&mut self, stored_bytes: u32) {
        self.read_bytes += u64::from(stored_bytes);
        if self.read_bytes > READ_BYTES_MAX {
            // What is unread since long never will be.
            self.read_bytes /= 2;
            self.unread_bytes /= 2;
            self.unread.clear();
        }
    }
}

/// Some frames of each pack, a bit for each.
#[derive(Debug, Default)]
struct Frames(HashMap<u32, Vec<u64>>);

impl Frames {
    /// Adds a frame. `false` when it was there, or cannot be remembered.
    fn insert(&mut self, pack: u32, frame: u32) -> bool {
        if frame >= FRAMES_MAX {
            return false;
        }
        if self.0.len() >= PACKS_MAX && !self.0.contains_key(&pack) {
            self.0.clear();
        }
        let bits = self.0.entry(pack).or_default();
        let (word, mask) = place(frame);
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let new = bits[word] & mask == 0;
        bits[word] |= mask;
        new
    }

    fn contains(&self, pack: u32, frame: u32) -> bool {
        let (word, mask) = place(frame);
        let word = self.0.get(&pack).and_then(|bits| bits.get(word));
        word.is_some_and(|word| word & mask != 0)
    }
}

const fn place(frame: u32) -> (usize, u64) {
    ((frame / 64) as usize, 1 << (frame % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(candidates: Option<Candidates>) -> Vec<u32> {
        candidates.map(|c| c.frames).unwrap_or_default()
    }

    #[test]
    fn the_window_grows_with_what_was_read_nearby() {
        let ahead = ReadAhead::new(100);
        assert_eq!(frames(ahead.note((0, 100), true)), [101]);
        assert_eq!(ahead.note((0, 100), true), None, "once for each frame");
        assert_eq!(frames(ahead.note((0, 103), true)), [104, 105, 102]);
        assert_eq!(frames(ahead.note((0, 200), true)), [201], "far from all");
        assert_eq!(frames(ahead.note((1, 101), true)), [102], "another pack");
        for frame in 0..64 {
            ahead.note((2, frame * 2), false);
        }
        let window = frames(ahead.note((2, 65), false));
        assert_eq!(window.first(), Some(&67), "what was read is left out");
        assert!(window.iter().all(|frame| *frame <= 65 + WINDOW_FRAMES_MAX));
    }

    #[test]
    fn the_first_and_last_numbers_are_no_trouble() {
        let ahead = ReadAhead::new(100);
        assert_eq!(frames(ahead.note((0, 0), true)), [1]);
        assert_eq!(frames(ahead.note((0, 1), true)), [2, 3]);
    }

    #[test]
    fn unread_bytes_are_bounded_by_what_was_read() {
        let ahead = ReadAhead::new(50);
        let frame_bytes = 1 << 20;
        let admitted = |ahead: &ReadAhead, pack| {
            (0..1000)
                .filter(|f| ahead.admit((pack, *f), frame_bytes))
                .count()
        };
        assert_eq!(admitted(&ahead, 0), 4, "the fixed amount");
        assert_eq!(admitted(&ahead, 1), 0);
        // Reading both frees their room and adds half as much.
        ahead.note((0, 0), false);
        ahead.note((0, 1), false);
        assert_eq!(admitted(&ahead, 2), 3);
        ahead.missed(4 * frame_bytes);
        assert_eq!(admitted(&ahead, 3), 2);
        assert!(!ahead.admit((0, 0), 1), "it was read");
        assert_eq!(admitted(&ReadAhead::new(0), 0), 0, "switched off");
        let ahead = ReadAhead::new(50);
        ahead.suspend();
        assert_eq!(ahead.note((0, 0), true), None);
        assert_eq!(admitted(&ahead, 0), 0);
        ahead.resume();
        assert_eq!(frames(ahead.note((0, 1), true)), [2], "0 was foretold");
        assert_eq!(frames(ahead.note((0, 3), true)), [4, 5, 2]);
        assert!(!ahead.admit((0, 0), 1), "it was read");
    }

    #[test]
    fn what_is_asked_for_is_no_guess() {
        let ahead = ReadAhead::new(0);
        assert!(!ahead.admit((0, 0), 1), "switched off");
        let ahead = ReadAhead::new(50);
        let most = u32::try_from(UNREAD_BYTES_MIN).unwrap();
        assert!(ahead.admit((0, 0), most) && !ahead.admit((0, 1), 1));
        ahead.foretell(std::iter::once((0, 0)));
        assert!(ahead.is_foretold((0, 0)) && !ahead.is_foretold((0, 1)));
        assert!(!ahead.admit((0, 0), 1), "it comes anyway");
        assert!(ahead.admit((0, 1), most), "there is room again");
    }

    #[test]
    fn frames_that_were_asked_for_tell_nothing_of_those_around_them() {
        let ahead = ReadAhead::new(100);
        ahead.foretell((0..8).map(|frame| (0, frame)));
        for frame in 0..8 {
            assert_eq!(ahead.note((0, frame), true), None);
        }
        assert_eq!(frames(ahead.note((0, 8), true)), [9], "the only one");
        assert_eq!(frames(ahead.note((0, 10), true)), [11, 12, 9]);
    }
}
