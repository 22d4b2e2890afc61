//! Gathering compressed frames into packs and writing those to the store.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::{Shared, WriteError, lock};
use crate::BlobStore;
use crate::crash::{CrashHook, CrashPoint};
use crate::pack::{FinishedPack, Item, PackBuilder, PackKind};

/// Packs that are being written at once at most; each holds its bytes in memory.
pub(super) const UPLOADS_MAX: u32 = 3;

/// The open pack of a writer and its uploads.
pub(super) struct Assembler {
    kind: PackKind,
    open: Mutex<PackBuilder>,
    upload: Arc<Upload>,
    runtime: Handle,
    permits: Arc<Semaphore>,
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
            open: Mutex::new(PackBuilder::new(kind)),
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

    /// Appends a frame; blocks while too many packs are being written.
    pub(super) fn push(&self, stored: &[u8], items: &[(Item, u32)]) {
        let full = {
            let mut open = lock(&self.open);
            open.push_frame(stored, items);
            let full = open.is_full();
            full.then(|| std::mem::replace(&mut *open, PackBuilder::new(self.kind)))
        };
        if let Some(pack) = full {
            self.start_upload(pack);
        }
    }

    /// Writes the open pack and waits for all uploads.
    pub(super) fn finish(&self) {
        let pack = std::mem::replace(&mut *lock(&self.open), PackBuilder::new(self.kind));
        if !pack.is_empty() {
            self.start_upload(pack);
        }
        let all = self.permits.acquire_many(UPLOADS_MAX);
        if self.runtime.block_on(all).is_err() {
            self.fail(WriteError::Stopped);
        }
    }

    fn start_upload(&self, pack: PackBuilder) {
        let permit = self
            .runtime
            .block_on(Arc::clone(&self.permits).acquire_owned());
        let upload = Arc::clone(&self.upload);
        let pack = pack.finish();
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
