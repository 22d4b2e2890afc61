//! Keeping the local index equal to the packs of a store.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::pack::{INDEX_BYTES_MAX, PackIndex, PackIndexError, PackKind, PackName, TRAILER_BYTES};
use crate::pack_loader::AWAITED_PACKS_MAX;
use crate::{BlobStore, ChunkIndex, GcError, IndexError, StoreError, gc};

/// Indexes that are fetched at once at most.
pub(crate) const FETCHES_MAX: usize = 32;

/// Packs that are looked at for one that is gone.
const FOLLOWED_MAX: usize = 256;

/// Why packs could not be made known.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store failed.
    #[error("read pack index: {0}")]
    Store(#[from] StoreError),
    /// The local index failed.
    #[error("update index: {0}")]
    Index(#[from] IndexError),
    /// Neither the pack nor the copy of its index can be read rightly.
    #[error("pack {name:?}: {source}")]
    Corrupt {
        /// The pack.
        name: PackName,
        /// What is wrong with its own index.
        source: PackIndexError,
    },
    /// The indexes of packs did not come in time.
    #[error("pack indexes did not come within {seconds} s")]
    Waited {
        /// The time.
        seconds: u64,
    },
    /// Too many packs are awaited.
    #[error("{AWAITED_PACKS_MAX} pack indexes are awaited already")]
    Full,
    /// The process is shutting down.
    #[error("read pack index: stopped")]
    Stopped,
}

/// Makes `packs` known to `index`; those that are known already cost nothing.
///
/// # Errors
/// [`CatalogError`] for the first pack whose index cannot be had; others may be known by then.
pub async fn load_packs(
    store: &Arc<dyn BlobStore>,
    index: &Arc<ChunkIndex>,
    packs: &BTreeSet<PackName>,
) -> Result<(), CatalogError> {
    let mut unknown = Vec::new();
    for name in packs {
        if !index.contains(*name)? {
            unknown.push(*name);
        }
    }
    let mut fetched = stream::iter(unknown)
        .map(|name| async move {
            Ok::<_, CatalogError>((name, fetch_indexes(store, name, ready(())).await?))
        })
        .buffer_unordered(FETCHES_MAX);
    while let Some((name, packed)) = fetched.try_next().await? {
        let index = Arc::clone(index);
        let inserted = tokio::task::spawn_blocking(move || insert_for(&index, name, &packed));
        inserted.await.map_err(|_| CatalogError::Stopped)??;
    }
    Ok(())
}

/// Adds what was fetched for a pack: its own index, or those of the packs that it moved to.
pub(crate) fn insert_for(
    index: &ChunkIndex,
    name: PackName,
    packed: &[(PackName, PackIndex)],
) -> Result<(), IndexError> {
    for (found, packed) in packed {
        index.insert(*found, packed)?;
    }
    if packed.iter().all(|(found, _)| *found != name) {
        index.note_moved(name)?;
    }
    Ok(())
}

/// Reads the index of a pack, or if that is gone, those of the packs that hold what was needed of
/// it. What came is decoded when `calm` is done.
///
/// # Errors
/// [`CatalogError`]; [`StoreError::NotFound`] inside when neither is there.
pub(crate) async fn fetch_indexes(
    store: &Arc<dyn BlobStore>,
    name: PackName,
    calm: impl Future<Output = ()> + Send,
) -> Result<Vec<(PackName, PackIndex)>, CatalogError> {
    match fetch_index_then(store, name, calm).await {
        Err(error @ CatalogError::Store(StoreError::NotFound(_))) => {
            let found = fetch_moved(store, name).await?;
            found.ok_or(error)
        }
        fetched => Ok(vec![(name, fetched?)]),
    }
}

/// Reads the indexes of the packs that hold what was needed of a pack that is gone; `None` when
/// nothing is known of them.
pub(crate) async fn fetch_moved(
    store: &Arc<dyn BlobStore>,
    name: PackName,
) -> Result<Option<Vec<(PackName, PackIndex)>>, CatalogError> {
    let mut seen = BTreeSet::from([name]);
    let mut pending = vec![name];
    let mut found = Vec::new();
    let mut lost = 0;
    while let Some(gone) = pending.pop() {
        let successors = match gc::successors(&**store, gone).await {
            Ok(successors) => successors,
            Err(GcError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "follow a pack that moved");
                None
            }
        };
        let Some(successors) = successors else {
            lost += 1;
            continue;
        };
        for next in successors {
            if !seen.insert(next) || seen.len() > FOLLOWED_MAX {
                continue;
            }
            match fetch_index(store, next).await {
                Err(CatalogError::Store(StoreError::NotFound(_))) => pending.push(next),
                fetched => found.push((next, fetched?)),
            }
        }
    }
    Ok((lost == 0 || !found.is_empty()).then_some(found))
}

/// Makes `index` know exactly the packs that the store has with copies of their indexes.
///
/// An index that knows packs which are gone is filled anew, so that nobody relies on them; a copy
/// without its pack does not count. Returns the packs whose index cannot be read; what they hold
/// is then stored again when needed.
///
/// # Errors
/// [`CatalogError`] when the store or the index fails.
pub async fn sync_index(
    store: &Arc<dyn BlobStore>,
    index: &ChunkIndex,
) -> Result<Vec<(PackName, CatalogError)>, CatalogError> {
    // Asked first: what a writer of this process adds from here on is stored but not listed.
    let known = index.packs()?;
    // In this order no pack that is being written has a copy listed and itself not.
    let copies = list_packs(store, PackKind::index_folder).await?;
    let packs = list_packs(store, PackKind::folder).await?;
    let stored: BTreeSet<_> = copies.intersection(&packs).copied().collect();
    if !known.is_subset(&stored) {
        index.clear()?;
    }
    insert_all(store, index, stored).await
}

/// Fills `index` anew from the packs themselves and restores missing or damaged copies of their
/// indexes. Returns the packs whose own index cannot be read.
///
/// # Errors
/// [`CatalogError`] when the store or the index fails.
pub async fn rebuild_index(
    store: &Arc<dyn BlobStore>,
    index: &ChunkIndex,
) -> Result<Vec<(PackName, CatalogError)>, CatalogError> {
    index.clear()?;
    let mut bad = Vec::new();
    for name in list_packs(store, PackKind::folder).await? {
        let packed = match fetch_footer(store, name).await {
            Ok(packed) => packed,
            Err(CatalogError::Corrupt { .. }) => match fetch_copy(store, name).await {
                Ok(packed) => packed,
                Err(error) => {
                    bad.push((name, error));
                    continue;
                }
            },
            Err(error) => return Err(error),
        };
        if fetch_copy(store, name).await.is_err() {
            store
                .put(&name.index_key(), packed.encode().1.into())
                .await?;
        }
        index.insert(name, &packed)?;
    }
    Ok(bad)
}

/// Lists the packs that have an object in one of their two folders.
pub(crate) async fn list_packs(
    store: &Arc<dyn BlobStore>,
    folder: impl Fn(PackKind) -> &'static str,
) -> Result<BTreeSet<PackName>, StoreError> {
    let mut names = BTreeSet::new();
    for kind in PackKind::ALL {
        let mut objects = store.list(folder(kind));
        while let Some(object) = objects.try_next().await? {
            names.extend(PackName::from_key(&object.key));
        }
    }
    Ok(names)
}

async fn insert_all(
    store: &Arc<dyn BlobStore>,
    index: &ChunkIndex,
    packs: BTreeSet<PackName>,
) -> Result<Vec<(PackName, CatalogError)>, CatalogError> {
    let known = index.packs()?;
    let mut bad = Vec::new();
    let mut fetched = stream::iter(packs.difference(&known).copied())
        .map(|name| async move { (name, fetch_index(store, name).await) })
        .buffer_unordered(FETCHES_MAX);
    while let Some((name, result)) = fetched.next().await {
        match result {
            Ok(packed) => index.insert(name, &packed)?,
            Err(error @ CatalogError::Corrupt { .. }) => bad.push((name, error)),
            // Deleted since it was listed.
            Err(CatalogError::Store(StoreError::NotFound(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bad)
}

/// Reads the index of a pack: the copy, or the pack's own if the copy is missing or damaged.
pub(crate) async fn fetch_index(
    store: &Arc<dyn BlobStore>,
    name: PackName,
) -> Result<PackIndex, CatalogError> {
    fetch_index_then(store, name, ready(())).await
}

async fn fetch_index_then(
    store: &Arc<dyn BlobStore>,
    name: PackName,
    calm: impl Future<Output = ()> + Send,
) -> Result<PackIndex, CatalogError> {
    match fetch_copy_then(store, name, calm).await {
        Err(CatalogError::Corrupt { .. } | CatalogError::Store(StoreError::NotFound(_))) => {
            fetch_footer(store, name).await
        }
        fetched => fetched,
    }
}

pub(crate) async fn fetch_copy(
    store: &Arc<dyn BlobStore>,
    name: PackName,
) -> Result<PackIndex, CatalogError> {
    fetch_copy_then(store, name, ready(())).await
}

async fn fetch_copy_then(
    store: &Arc<dyn BlobStore>,
    name: PackName,
    calm: impl Future<Output = ()> + Send,
) -> Result<PackIndex, CatalogError> {
    let (bytes, _) = store.get(&name.index_key(), INDEX_BYTES_MAX).await?;
    calm.await;
    decode(name, bytes).await
}

/// Decodes on a thread for it: an index may have hundreds of thousands of items.
async fn decode(name: PackName, bytes: Bytes) -> Result<PackIndex, CatalogError> {
    let decoded = tokio::task::spawn_blocking(move || PackIndex::decode(name, &bytes));
    let decoded = decoded.await.map_err(|_| CatalogError::Stopped)?;
    decoded.map_err(|source| CatalogError::Corrupt { name, source })
}

/// Reads the index at the end of a pack.
pub(crate) async fn fetch_footer(
    store: &Arc<dyn BlobStore>,
    name: PackName,
) -> Result<PackIndex, CatalogError> {
    let corrupt = |source| CatalogError::Corrupt { name, source };
    let key = name.key();
    let size = store.size(&key).await?;
    let end = size
        .checked_sub(TRAILER_BYTES)
        .ok_or(PackIndexError::Malformed("pack is cut off"));
    let end = end.map_err(corrupt)?;
    let trailer = store.get_range(&key, end..size).await?;
    let length = PackIndex::length_in_trailer(&trailer, size).map_err(corrupt)?;
    let bytes = store.get_range(&key, end - length..end).await?;
    let index = decode(name, bytes).await?;
    if index.pack_bytes(length) == size {
        Ok(index)
    } else {
        Err(corrupt(PackIndexError::Malformed(
            "pack has another length than its index says",
        )))
    }
}
