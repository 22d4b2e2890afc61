//! The epoch: tells a writer whether anything was deleted since it looked.
//!
//! ```text
//! gc/epoch: envelope "GCEP": number u64
//! ```
//! Odd while a collector deletes, even while none does; it only grows. Written only by the holder
//! of the collector's lease. One that died while deleting leaves it odd until the next run ends.

use crate::envelope;
use crate::wire::{Put, Wire};
use crate::{BlobStore, Key, StoreError, Version};

use super::GcError;

const EPOCH_KEY: &str = "gc/epoch";
const EPOCH_BYTES_MAX: u64 = 4096;

/// Where collection stood at some moment. Whoever begins to rely on what is in the store remembers
/// it, before it looks what is there, for [`secure`](crate::secure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    /// Tells whether nothing can have been deleted between two moments.
    pub(super) const fn nothing_deleted_until(self, later: Self) -> bool {
        self.0 == later.0 && self.0.is_multiple_of(2)
    }
}

/// Reads where collection stands. One request.
///
/// # Errors
/// [`GcError`] when the store fails or the epoch is damaged.
pub async fn read_epoch(store: &dyn BlobStore) -> Result<Epoch, GcError> {
    Ok(read(store).await?.0)
}

async fn read(store: &dyn BlobStore) -> Result<(Epoch, Option<Version>), GcError> {
    let key = key()?;
    let (bytes, version) = match store.get(&key, EPOCH_BYTES_MAX).await {
        Ok(found) => found,
        Err(StoreError::NotFound(_)) => return Ok((Epoch(0), None)),
        Err(error) => return Err(error.into()),
    };
    let number = || {
        let (_, body) = envelope::open(*b"GCEP", &bytes)?;
        let mut wire = Wire::new(body);
        let number = wire.u64()?;
        wire.finish()?;
        Ok(number)
    };
    let number = number().map_err(|source| GcError::Envelope { key, source })?;
    Ok((Epoch(number), Some(version)))
}

/// Says that deletions begin (`deleting`) or have ended. Every call that says so is a new epoch.
pub(super) async fn advance(store: &dyn BlobStore, deleting: bool) -> Result<(), GcError> {
    let (Epoch(old), version) = read(store).await?;
    let even = old.is_multiple_of(2);
    let step = if even == deleting { 1 } else { 2 };
    let mut body = Vec::new();
    body.put_u64(old.saturating_add(step));
    let body = envelope::seal(*b"GCEP", &body).1.into();
    let key = key()?;
    match version {
        Some(version) => store.replace(&key, body, &version).await?,
        None => store.create(&key, body).await?,
    };
    Ok(())
}

fn key() -> Result<Key, StoreError> {
    Key::new(EPOCH_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_store;

    #[tokio::test]
    async fn is_odd_while_deleting_and_never_repeats() {
        let store = memory_store();
        let mut seen = vec![read_epoch(&*store).await.unwrap()];
        assert_eq!(seen[0], Epoch(0));
        for deleting in [true, true, false, false, true, false] {
            advance(&*store, deleting).await.unwrap();
            let epoch = read_epoch(&*store).await.unwrap();
            assert_eq!(epoch.0 % 2 == 1, deleting);
            assert!(epoch.0 > seen.last().unwrap().0);
            assert!(!seen.iter().any(|old| old.nothing_deleted_until(epoch)));
            assert_eq!(epoch.nothing_deleted_until(epoch), !deleting);
            seen.push(epoch);
        }
    }

    #[tokio::test]
    async fn damage_is_told() {
        let store = memory_store();
        store.put(&key().unwrap(), "x".into()).await.unwrap();
        let error = read_epoch(&*store).await.unwrap_err();
        assert!(matches!(error, GcError::Envelope { .. }));
    }
}
