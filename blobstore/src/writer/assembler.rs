//! Gathering compressed frames into packs and writing those to the store.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::{Affinity, Shared, WriteError, lock};
use crate::BlobStore;
use crate::crash::{CrashHook, CrashPoint};
use crate::pack::{FinishedPack, Item, PACK_BYTES_TARGET, PackBuilder, PackKind};

/// Packs that are being written at once at most; each holds its bytes in memory.
pub(super) const UPLOADS_MAX: u32 = 3;

/// The open pack of a writer and its uploads.
pub(super) struct Assembler {
    kind: PackKind,
    open: Mutex<OpenPack>,
    upload: Arc<Upload>,
    runtime: Handle,
    permits: Arc<Semaphore>,
}

/// Where a frame belongs in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FrameOrder {
    pub(super) affinity: Affinity,
    pub(super) stream: u32,
    pub(super) number: u32,
}

/// Compressed frames that will be a pack.
#[derive(Default)]
struct OpenPack {
    frames: Vec<StoredFrame>,
    stored_bytes: usize,
}

/// A compressed frame, and its items with their plain lengths.
struct StoredFrame {
    order: FrameOrder,
    stored: Vec<u8>,
    items: Vec<(Item, u32)>,
}

impl OpenPack {
    fn build(mut self, kind: PackKind) -> FinishedPack {
        self.frames.sort_by_key(|frame| frame.order);
        let mut pack = PackBuilder::new(kind);
        for frame in self.frames {
            pack.push_frame(&frame.stored, &frame.items);
        }
        pack.finish()
    }
}

/// What an upload needs.
struct Upload {
    store: Arc<dyn BlobStore>,
    shared: Arc<Shared>,
    crash: CrashHook,
}

impl Assembler {
    pub(super) fn new(
        kind: PackKind,
        store: Arc<dyn BlobStore>,
        shared: Arc<Shared>,
        runtime: Handle,
        crash: CrashHook,
    ) -> Self {
        Self {
            kind,
            open: Mutex::default(),
            upload: Arc::new(Upload {
                store,
                shared,
                crash,
            }),
            runtime,
            permits: Arc::new(Semaphore::new(UPLOADS_MAX as usize)),
        }
    }

    pub(super) fn fail(&self, error: WriteError) {
        self.upload.shared.fail(error);
    }

    /// Adds a frame; blocks while too many packs are being written.
    pub(super) fn push(&self, order: FrameOrder, stored: Vec<u8>, items: Vec<(Item, u32)>) {
        let full = {
            let mut open = lock(&self.open);
            open.stored_bytes += stored.len();
            open.frames.push(StoredFrame {
                order,
                stored,
                items,
            });
            let full = open.stored_bytes >= PACK_BYTES_TARGET;
            full.then(|| std::mem::take(&mut *open))
        };
        if let Some(pack) = full {
            self.start_upload(pack);
        }
    }

    /// Writes the open pack and waits for all uploads.
    pub(super) fn finish(&self) {
        let pack = std::mem::take(&mut *lock(&self.open));
        if !pack.frames.is_empty() {
            self.start_upload(pack);
        }
        let all = self.permits.acquire_many(UPLOADS_MAX);
        if self.runtime.block_on(all).is_err() {
            self.fail(WriteError::Stopped);
        }
    }

    fn start_upload(&self, pack: OpenPack) {
        let permit = self
            .runtime
            .block_on(Arc::clone(&self.permits).acquire_owned());
        let upload = Arc::clone(&self.upload);
        let pack = pack.build(self.kind);
        self.runtime.spawn(async move {
            if let Err(error) = upload.run(pack).await {
                upload.shared.fail(error);
            }
            drop(permit);
        });
    }
}

impl Upload {
    async fn run(&self, pack: FinishedPack) -> Result<(), WriteError> {
        let FinishedPack {
            name,
            bytes,
            index,
            index_bytes,
        } = pack;
        let bytes_stored = (bytes.len() + index_bytes.len()) as u64;
        self.crash.reach(CrashPoint::PackPutBefore);
        self.store.put(&name.key(), bytes.into()).await?;
        self.crash.reach(CrashPoint::PackPutAfter);
        self.store
            .put(&name.index_key(), index_bytes.into())
            .await?;
        self.crash.reach(CrashPoint::IndexPutAfter);
        self.shared.index.insert(name, &index)?;
        let mut taken = lock(&self.shared.taken);
        for (_, _, item) in index.items() {
            taken.remove(&item.kind);
        }
        drop(taken);
        let mut stats = lock(&self.shared.stats);
        stats.bytes_stored += bytes_stored;
        stats.packs += 1;
        Ok(())
    }
}

impl fmt::Debug for Assembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Assembler({:?})", self.kind)
    }
}
