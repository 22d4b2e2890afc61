//! Repacking: copying what is needed of packs that are mostly garbage.
//!
//! ```text
//! measured, live share below the threshold --live frames as stored--> new pack --secured--> notes
//! ```
//! The collector does that as any writer would: under a lease of its own, and what it relies on is
//! taken off the notes of what is condemned before a note of what moved says that it is needed.
//! From then on nothing that is marked needs the old pack, which is condemned like any other. A run
//! that dies in between leaves a new pack, which is garbage until the next run finds the same.

use std::sync::Arc;

use super::census::{self, Measured};
use super::condemned::Collected;
use super::moved::{MOVED_PACKS_MAX, MOVED_RECORDS_MAX, Moved, Moves, moved_key};
use super::rescue::secure_objects;
use super::{GcError, Run, SecureError, Secured};
use crate::crash::CrashPoint;
use crate::frame::FrameEntry;
use crate::pack::{FinishedPack, Item, PACK_BYTES_TARGET, PackBuilder, PackIndex, PackKind};
use crate::{Digest, Lease, PackName, StoreError};

/// Packs of which less than this is needed are repacked.
pub const REPACK_SHARE_PERCENT: u64 = 30;
/// Bytes that a run copies at most by default.
pub const REPACK_BYTES_MAX: u64 = 1 << 30;

/// A new pack, and the old ones whose place it takes.
struct Batch {
    kind: PackKind,
    old: Vec<Measured>,
    bytes: u64,
}

/// A frame as it is stored, and its items with their lengths.
type Copied = (bytes::Bytes, Vec<(Item, u32)>);

impl Run {
    /// Repacks what is worth it, and marks anew if that was anything.
    pub(super) async fn repack(&mut self, collector: &Lease) -> Result<(), GcError> {
        if self.options.repack_bytes == 0 {
            return Ok(());
        }
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let holder = &self.options.holder;
        // Tells it from the collector's own, which keeps nothing.
        let name = format!("repack-{:016x}", self.id);
        let lease = Lease::acquire(store, clock, &name, holder).await?;
        let done = self.repack_under([collector, &lease]).await;
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        if done? {
            self.marked = super::Marked::default();
            self.mark().await?;
        }
        Ok(())
    }

    /// Finds the packs that are worth it, the emptiest first, and what they would free.
    pub(super) async fn find_sparse(&mut self) -> Result<Vec<Measured>, GcError> {
        let moves = Moves::read(&*self.store).await?;
        let measured = census::measure(&*self.store, &self.marked, &moves, self.id).await?;
        let percent = self.options.repack_share_percent;
        let mut sparse: Vec<_> = measured
            .into_iter()
            .filter(|m| m.is_below(percent))
            .collect();
        sparse.sort_by_key(|m| (m.bytes_live * 1000 / m.bytes.max(1), m.name));
        self.report.sparse = sparse.len() as u64;
        self.report.bytes_sparse = sparse.iter().map(|m| m.bytes - m.bytes_live).sum();
        Ok(sparse)
    }

    async fn repack_under(&mut self, leases: [&Lease; 2]) -> Result<bool, GcError> {
        let sparse = self.find_sparse().await?;
        let mut moved_any = false;
        for batch in batches(sparse, self.options.repack_bytes) {
            moved_any |= self.repack_batch(batch, leases).await?;
        }
        Ok(moved_any)
    }

    /// Copies what is needed of some packs into one, and says so. Tells whether that was done.
    async fn repack_batch(
        &mut self,
        mut batch: Batch,
        leases: [&Lease; 2],
    ) -> Result<bool, GcError> {
        let moves = Moves::read(&*self.store).await?;
        let mut builder = PackBuilder::new(batch.kind);
        let mut frames = 0;
        for old in std::mem::take(&mut batch.old) {
            // One that is not right is left alone.
            let Some(copied) = self.read_live(&old).await? else {
                continue;
            };
            for (stored, items) in &copied {
                builder.push_frame(stored, items);
            }
            frames += copied.len();
            batch.old.push(old);
        }
        if frames == 0 {
            return self.note_moves(batch.old, None, moves, leases).await;
        }
        let pack = builder.finish();
        // It moved itself once: no pack may lead back to itself. Another batch will do.
        if moves.0.contains_key(&pack.name) || batch.old.iter().any(|old| old.name == pack.name) {
            return Ok(false);
        }
        match self.store_pack(pack).await {
            Ok(new) => self.note_moves(batch.old, Some(new), moves, leases).await,
            Err(SecureError::Gc(error)) => Err(error),
            // Another run will do.
            Err(error) => {
                tracing::warn!(%error, "a new pack cannot be relied on");
                Ok(false)
            }
        }
    }

    /// Stores a new pack, and makes sure that it stays.
    async fn store_pack(&mut self, pack: FinishedPack) -> Result<(PackName, Secured), SecureError> {
        let name = pack.name;
        self.report.bytes_repacked += pack.bytes.len() as u64;
        self.store.put(&name.key(), pack.bytes.into()).await?;
        let index = pack.index_bytes.into();
        self.store.put(&name.index_key(), index).await?;
        self.options.crash.reach(CrashPoint::RepackPut);
        let needs = [Collected::from(name)].into();
        let secured = secure_objects(&*self.store, &*self.clock, &needs).await?;
        Ok((name, secured))
    }

    /// Writes where what is needed of `packs` is: in `new`, or nowhere if nothing is.
    async fn note_moves(
        &mut self,
        packs: Vec<Measured>,
        new: Option<(PackName, Secured)>,
        mut moves: Moves,
        leases: [&Lease; 2],
    ) -> Result<bool, GcError> {
        let mut noted = false;
        for old in packs {
            for lease in leases {
                lease.check()?;
            }
            if new.is_some_and(|(_, secured)| secured.check(&*self.clock).is_err()) {
                break;
            }
            let (mut moved, seen) = match moves.0.remove(&old.name) {
                Some((moved, version)) => (moved, Some(version)),
                None => (Moved::default(), None),
            };
            moved.records.extend(old.records);
            moved.packs.extend(new.map(|(name, _)| name));
            if moved.records.len() > MOVED_RECORDS_MAX || moved.packs.len() > MOVED_PACKS_MAX {
                continue;
            }
            let (key, body) = (moved_key(old.name), moved.encode().into());
            match seen {
                Some(version) => self.store.replace(&key, body, &version).await?,
                None => self.store.create(&key, body).await?,
            };
            noted = true;
            self.report.repacked += 1;
            self.options.crash.reach(CrashPoint::RepackMoved);
        }
        Ok(noted)
    }

    /// Reads the frames of a pack with anything that is needed in them, as they are stored; `None`
    /// if one of them is not right.
    async fn read_live(&self, pack: &Measured) -> Result<Option<Vec<Copied>>, GcError> {
        let Some(index) = census::fetch_index(&*self.store, pack.name).await? else {
            return Ok(None);
        };
        let mut frames = Vec::new();
        for number in &pack.live {
            let Some(entry) = index.frames().get(*number as usize) else {
                return Ok(None);
            };
            let Some(stored) = self.read_frame(pack.name, entry).await? else {
                return Ok(None);
            };
            frames.push((stored, items_of(&index, *number)));
        }
        Ok(Some(frames))
    }

    /// Reads a frame as it is stored; `None` for one that is not right, whose pack is left alone.
    async fn read_frame(
        &self,
        pack: PackName,
        entry: &FrameEntry,
    ) -> Result<Option<bytes::Bytes>, GcError> {
        let stored = match self.store.get_range(&pack.key(), entry.range()).await {
            Err(StoreError::NotFound(_) | StoreError::Size { .. }) => return Ok(None),
            stored => stored?,
        };
        if Digest::of(&stored) != entry.hash {
            tracing::warn!(pack = %pack.key(), "a frame is damaged");
            return Ok(None);
        }
        Ok(Some(stored))
    }
}

/// Puts packs of a kind together until what is needed of them fills one, up to `bytes_max` in all.
fn batches(sparse: Vec<Measured>, bytes_max: u64) -> Vec<Batch> {
    let mut full = Vec::new();
    let mut open: Vec<Batch> = Vec::new();
    let mut left = bytes_max;
    for pack in sparse {
        if pack.bytes_live > left {
            break;
        }
        left -= pack.bytes_live;
        let kind = pack.name.kind;
        let at = open.iter().position(|batch| batch.kind == kind);
        let at = at.unwrap_or_else(|| {
            let (old, bytes) = (Vec::new(), 0);
            open.push(Batch { kind, old, bytes });
            open.len() - 1
        });
        open[at].bytes += pack.bytes_live;
        open[at].old.push(pack);
        if open[at].bytes >= PACK_BYTES_TARGET as u64 {
            full.push(open.swap_remove(at));
        }
    }
    full.extend(open);
    full
}

fn items_of(index: &PackIndex, frame: u32) -> Vec<(Item, u32)> {
    let len = |number: u32| {
        let frame = index.frames().get(frame as usize);
        let item = frame.and_then(|frame| frame.items.get(number as usize));
        item.map_or(0, |item| item.len_bytes)
    };
    let inside = index.items().filter(|(in_frame, ..)| *in_frame == frame);
    inside
        .map(|(_, number, item)| (item, len(number)))
        .collect()
}
