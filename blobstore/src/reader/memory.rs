//! Frames in memory: as stored, and the few that are in use decompressed.

use std::sync::{Arc, Mutex, Weak};

use super::fetch::{FrameKey, Shared};
use super::lock;
use crate::frame::{Frame, FrameEntry};
use crate::{Tier, UnverifiedBytes};

/// Entries for held frames at which those that nobody holds any more are taken out.
const HELD_SWEEP: usize = 1024;

/// A frame and where it came from.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) frame: Frame,
    pub(super) tier: Tier,
}

/// A frame as stored, not checked yet.
#[derive(Debug)]
pub(super) struct Packed {
    entry: FrameEntry,
    stored: UnverifiedBytes,
    tier: Tier,
    /// Held by who decompresses it; others that want it wait, which takes no longer.
    unpacking: Mutex<()>,
}

impl Shared {
    /// Keeps a frame with those that are in use.
    pub(super) fn keep(&self, key: FrameKey, frame: Frame, tier: Tier) -> Arc<Arrived> {
        let size_bytes = frame.plain_bytes();
        let arrived = Arc::new(Arrived { frame, tier });
        lock(&self.frames).insert(key, Arc::clone(&arrived), size_bytes);
        arrived
    }

    /// Lets a frame be found for as long as somebody holds it.
    pub(super) fn hold(&self, key: FrameKey, frame: Frame, tier: Tier) -> Arc<Arrived> {
        let arrived = Arc::new(Arrived { frame, tier });
        let mut held = lock(&self.held);
        if held.len() >= HELD_SWEEP {
            held.retain(|_, frame| frame.strong_count() > 0);
        }
        held.insert(key, Arc::downgrade(&arrived));
        arrived
    }

    /// Keeps a frame as it is stored.
    pub(super) fn pack(
        &self,
        key: FrameKey,
        entry: &FrameEntry,
        stored: UnverifiedBytes,
        tier: Tier,
    ) {
        let size_bytes = entry.stored_bytes as usize;
        let packed = Packed {
            entry: entry.clone(),
            stored,
            tier,
            unpacking: Mutex::default(),
        };
        lock(&self.packed).insert(key, Arc::new(packed), size_bytes);
    }

    /// Returns a frame that is in memory. One that is there as stored is decompressed, which takes
    /// half a millisecond; one that is not right is dropped.
    pub(super) fn get(&self, key: FrameKey) -> Option<Arc<Arrived>> {
        if let Some(frame) = self.get_plain(key) {
            return Some(frame);
        }
        // To be read is no use that keeps it: what was read is on the node's disk now, and would
        // displace what came ahead and is read later. To be asked for ahead again is one.
        let packed = lock(&self.packed).peek(&key)?;
        let _turn = lock(&packed.unpacking);
        if let Some(frame) = self.get_plain(key) {
            return Some(frame);
        }
        match packed.entry.decode(packed.stored.clone()) {
            Ok(frame) => Some(self.keep(key, frame, packed.tier)),
            Err(error) => {
                // Who needs it asks each tier for it and reports what is wrong.
                tracing::debug!(%error, "decode frame ahead");
                drop(lock(&self.packed).remove(&key));
                None
            }
        }
    }

    /// Returns where a frame that is in memory came from.
    pub(super) fn tier_of(&self, key: FrameKey) -> Option<Tier> {
        let packed = || lock(&self.packed).peek(&key).map(|packed| packed.tier);
        self.get_plain(key).map(|frame| frame.tier).or_else(packed)
    }

    pub(super) fn is_here(&self, key: FrameKey) -> bool {
        self.get_plain(key).is_some() || lock(&self.packed).contains(&key)
    }

    fn get_plain(&self, key: FrameKey) -> Option<Arc<Arrived>> {
        if let Some(frame) = lock(&self.frames).get(&key) {
            return Some(frame);
        }
        lock(&self.held).get(&key).and_then(Weak::upgrade)
    }
}
