//! Finding out whether a store keeps its promises on conditional writes.

use bytes::Bytes;

use super::{BlobStore, Key, StoreError};

/// Largest answer read from a probe, in bytes; the probes are shorter.
const PROBE_BYTES_MAX: u64 = 64;

/// Checks that a store honours `If-None-Match` and `If-Match`.
///
/// Some S3 servers ignore both, and every racing writer of a ref then believes it has won. So this
/// is asked once before the first shared ref is written. It writes, replaces and deletes the object
/// `probe/<nonce>`; `nonce` must be random, so that two checks at once do not meet.
///
/// # Errors
/// [`StoreError::Unsupported`] for a store that ignores a condition, or that does not return what
/// was written; otherwise what the store answers. The probe is deleted in any case that lets us.
pub async fn check(store: &dyn BlobStore, nonce: u64) -> Result<(), StoreError> {
    let key = Key::new(format!("probe/{nonce:016x}"))?;
    let outcome = probe(store, &key).await;
    let deleted = store.delete(&key).await;
    outcome?;
    deleted?;
    match store.size(&key).await {
        Err(StoreError::NotFound(_)) => Ok(()),
        Ok(_) => Err(broken(&key, "still returns an object after its deletion")),
        Err(error) => Err(error),
    }
}

async fn probe(store: &dyn BlobStore, key: &Key) -> Result<(), StoreError> {
    let [first, second, third] = [&b"first"[..], b"second", b"third"].map(Bytes::from_static);
    let stale = store.create(key, first).await?;
    match store.create(key, third.clone()).await {
        Err(StoreError::Exists(_)) => {}
        Ok(_) => {
            return Err(broken(
                key,
                "ignores If-None-Match: an object was created twice",
            ));
        }
        Err(error) => return Err(error),
    }
    let current = store.replace(key, second.clone(), &stale).await?;
    match store.replace(key, third, &stale).await {
        Err(StoreError::Conflict(_)) => {}
        Ok(_) => {
            return Err(broken(
                key,
                "ignores If-Match: a stale version was replaced",
            ));
        }
        Err(error) => return Err(error),
    }
    let (stored, version) = store.get(key, PROBE_BYTES_MAX).await?;
    if stored != second {
        return Err(broken(key, "does not return what was written last"));
    }
    if version != current {
        return Err(broken(key, "tells another version on read than on write"));
    }
    Ok(())
}

fn broken(key: &Key, what: &str) -> StoreError {
    StoreError::Unsupported(format!("{what} ({key}), so nodes cannot share refs in it"))
}

#[cfg(test)]
mod tests;
