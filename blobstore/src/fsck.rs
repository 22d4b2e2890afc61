//! Checking a whole store: every ref reaches only what is there and right.

mod metadata;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::catalog::{self, CatalogError};
use crate::pack::{HEAD, ItemKind, PackKind, PackName};
use crate::record::RECORDS_FOLDER;
use crate::refs::{self, RefError};
use crate::{
    BlobStore, ChunkIndex, Digest, GcError, Record, RecordError, RecordId, StoreError,
    UnverifiedBytes, gc,
};

/// Frames that are read at once at most.
const READS_MAX: usize = 8;

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct FsckOptions {
    /// Read every byte of every pack, and check every item.
    pub read_data: bool,
    /// Fill the local index anew from the packs themselves, restoring copies of indexes.
    pub rebuild_index: bool,
}

/// What a check found. The store is consistent when `problems` is empty.
#[derive(Debug, Default)]
pub struct FsckReport {
    /// Refs in the store.
    pub refs: u64,
    /// Records that refs name.
    pub records: u64,
    /// Packs in the store.
    pub packs: u64,
    /// Distinct items in known packs: chunks, trees and chunk lists.
    pub items: u64,
    /// Bytes of all packs.
    pub bytes: u64,
    /// Packs and records that no ref needs, and copies of indexes without a pack, by key: what an
    /// interrupted ingest or collection left. What is being written counts, too.
    pub garbage: Vec<String>,
    /// Those that collection has condemned, and that are not in `garbage` therefore.
    pub condemned: Vec<String>,
    /// Bytes of both.
    pub bytes_garbage: u64,
    /// Chunks, trees and chunk lists that are damaged, sorted.
    pub corrupt: Vec<ItemKind>,
    /// What is wrong, a line each: damage, and whatever a ref needs that is not there.
    pub problems: Vec<String>,
}

/// A check could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The store failed.
    #[error("check store: {0}")]
    Store(#[from] StoreError),
    /// The packs could not be made known.
    #[error("check store: {0}")]
    Catalog(#[from] CatalogError),
    /// The refs could not be read.
    #[error("check store: {0}")]
    Ref(#[from] RefError),
    /// The local index failed.
    #[error("check store: {0}")]
    Index(#[from] crate::IndexError),
}

/// Checks a store against itself, with the help of `index`, which is brought up to date.
///
/// Reads all refs, records, pack indexes and reachable trees; with
/// [`read_data`](FsckOptions::read_data) everything. Changes nothing in the store, but for copies
/// of indexes with [`rebuild_index`](FsckOptions::rebuild_index).
///
/// # Errors
/// [`FsckError`] when the check itself could not be made; damage is no error but part of the report.
pub async fn fsck(
    store: Arc<dyn BlobStore>,
    index: Arc<ChunkIndex>,
    options: FsckOptions,
) -> Result<FsckReport, FsckError> {
    let mut report = FsckReport::default();
    // Before the packs are listed: those that a record needs are there before the record is, so an
    // ingest that ends meanwhile does not look like damage.
    let records = read_records(&store, &mut report).await?;
    let unreadable = if options.rebuild_index {
        catalog::rebuild_index(&store, &index).await?
    } else {
        catalog::sync_index(&store, &index).await?
    };
    for (name, error) in unreadable {
        report.problems.push(format!("{}: {error}", name.key()));
    }
    let copies = list_sizes(&store, PackKind::index_folder).await?;
    let sizes = list_sizes(&store, PackKind::folder).await?;
    report.packs = sizes.len() as u64;
    report.bytes = sizes.values().sum();
    check_packs(&store, &index, &sizes, &mut report).await?;

    let moves = match gc::Moves::read(&*store).await {
        Ok(moves) => moves,
        Err(GcError::Store(error)) => return Err(error.into()),
        Err(error) => {
            report.problems.push(error.to_string());
            gc::Moves::default()
        }
    };
    let needed = records
        .iter()
        .flat_map(|(id, record)| moves.resolve(*id, &record.packs));
    let needed: BTreeSet<PackName> = needed.collect();
    for name in needed.iter().filter(|name| !sizes.contains_key(name)) {
        report
            .problems
            .push(format!("{}: needed by a record and not there", name.key()));
    }
    for (name, size) in sizes.iter().filter(|(name, _)| !needed.contains(name)) {
        report.garbage.push(name.key().to_string());
        report.bytes_garbage += size;
    }
    for (name, size) in copies.iter().filter(|(name, _)| !sizes.contains_key(name)) {
        report.garbage.push(name.index_key().to_string());
        report.bytes_garbage += size;
    }
    let kept: BTreeSet<RecordId> = records.iter().map(|record| record.0).collect();
    find_stray(&store, RECORDS_FOLDER, &kept, &mut report).await?;
    metadata::check(&store, &records, options.read_data, &mut report).await?;
    find_condemned(&store, &mut report).await?;
    walk::check_trees(&store, &index, &records, &mut report).await?;
    if options.read_data {
        read_all(&store, &index, &mut report).await?;
    }
    report.corrupt.sort_unstable();
    report.corrupt.dedup();
    Ok(report)
}

/// Lists the packs, or the copies of their indexes, with their lengths.
async fn list_sizes(
    store: &Arc<dyn BlobStore>,
    folder: impl Fn(PackKind) -> &'static str,
) -> Result<BTreeMap<PackName, u64>, StoreError> {
    let mut sizes = BTreeMap::new();
    for kind in PackKind::ALL {
        let mut objects = store.list(folder(kind));
        while let Some(object) = objects.try_next().await? {
            sizes.extend(PackName::from_key(&object.key).map(|name| (name, object.size_bytes)));
        }
    }
    Ok(sizes)
}

/// Checks that each pack is as long as its index says and has a copy of its index.
async fn check_packs(
    store: &Arc<dyn BlobStore>,
    index: &ChunkIndex,
    sizes: &BTreeMap<PackName, u64>,
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    let mut indexes = stream::iter(sizes)
        .map(|(name, size)| async move { (*name, *size, catalog::fetch_copy(store, *name).await) })
        .buffer_unordered(READS_MAX);
    while let Some((name, size, copy)) = indexes.next().await {
        match copy {
            Ok(packed) => {
                report.items += packed.items().count() as u64;
                let expected = packed.pack_bytes(packed.encode().1.len() as u64);
                if size != expected {
                    let key = name.key();
                    report
                        .problems
                        .push(format!("{key}: {size} bytes instead of {expected}"));
                }
            }
            // A pack without a copy is what a crash between the two writes leaves: garbage, unless
            // a record needs it, which the check of the records then tells.
            Err(CatalogError::Store(StoreError::NotFound(_))) if !index.contains(name)? => {}
            Err(CatalogError::Store(error)) if error.is_retryable() => return Err(error.into()),
            Err(error) => report
                .problems
                .push(format!("{}: {error}", name.index_key())),
        }
    }
    Ok(())
}

async fn read_records(
    store: &Arc<dyn BlobStore>,
    report: &mut FsckReport,
) -> Result<Vec<(RecordId, Record)>, FsckError> {
    let mut records = BTreeMap::new();
    for name in refs::list_roots(&**store).await? {
        report.refs += 1;
        let target = match refs::read_ref(&**store, &name).await {
            Ok(Some((target, _))) => target,
            Ok(None) => continue,
            Err(error @ RefError::Envelope { .. }) => {
                report.problems.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match Record::read(&**store, target.record).await {
            Ok(record) => drop(records.insert(target.record, record)),
            Err(RecordError::Store(error)) if error.is_retryable() => return Err(error.into()),
            Err(error) => report.problems.push(format!("ref {name}: {error}")),
        }
    }
    report.records = records.len() as u64;
    Ok(records.into_iter().collect())
}

/// Finds the objects of a folder whose id is none of `kept`.
async fn find_stray<Id: FromStr + Ord>(
    store: &Arc<dyn BlobStore>,
    folder: &str,
    kept: &BTreeSet<Id>,
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    let mut objects = store.list(folder);
    while let Some(object) = objects.try_next().await? {
        let id = object.key.as_str().rsplit('/').next();
        let id = id.and_then(|id| id.parse().ok());
        if id.is_some_and(|id: Id| !kept.contains(&id)) {
            report.bytes_garbage += object.size_bytes;
            report.garbage.push(object.key.to_string());
        }
    }
    Ok(())
}

/// Tells what is condemned from other garbage.
async fn find_condemned(
    store: &Arc<dyn BlobStore>,
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    let noted = match gc::condemned_keys(&**store).await {
        Ok(noted) => noted,
        Err(GcError::Store(error)) => return Err(error.into()),
        // Collection does not go on either, until someone has looked at it.
        Err(error) => {
            report.problems.push(error.to_string());
            return Ok(());
        }
    };
    let garbage = std::mem::take(&mut report.garbage);
    (report.condemned, report.garbage) = garbage.into_iter().partition(|key| noted.contains(key));
    Ok(())
}

/// Returns an error that tells of damage; one that may pass ends the check.
fn passing(error: CatalogError) -> Result<CatalogError, FsckError> {
    match error {
        CatalogError::Store(error) if error.is_retryable() => Err(error.into()),
        error => Ok(error),
    }
}

/// Reads every frame of every known pack and checks every item of it.
async fn read_all(
    store: &Arc<dyn BlobStore>,
    index: &ChunkIndex,
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    for name in index.packs()? {
        let key = name.key();
        let mut problem = |error: &dyn std::fmt::Display| {
            report.problems.push(format!("{key}: {error}"));
        };
        let packed = match catalog::fetch_index(store, name).await {
            Ok(packed) => packed,
            Err(error) => {
                problem(&passing(error)?);
                continue;
            }
        };
        if let Err(error) = catalog::fetch_footer(store, name).await {
            problem(&passing(error)?);
        }
        match store.get_range(&key, 0..HEAD.len() as u64).await {
            Ok(head) if *head == HEAD[..] => {}
            Ok(_) => problem(&"does not start like a pack"),
            Err(error) => problem(&passing(error.into())?),
        }
        let mut items: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (frame, number, item) in packed.items() {
            items.entry(frame).or_default().push((number, item));
        }
        let mut frames = stream::iter((0_u32..).zip(packed.frames()))
            .map(|(number, entry)| async move {
                let stored = store.get_range(&name.key(), entry.range()).await;
                (number, entry, stored)
            })
            .buffer_unordered(READS_MAX);
        while let Some((number, entry, stored)) = frames.next().await {
            let frame = match stored {
                Ok(stored) => entry.decode(UnverifiedBytes::new(stored)).ok(),
                Err(error) if error.is_retryable() => return Err(error.into()),
                Err(_) => None,
            };
            for (position, item) in &items[&number] {
                let bytes = frame.as_ref().and_then(|frame| frame.item(*position));
                let right = |b: UnverifiedBytes| Digest::of(&b.into_untrusted()) == item.hash;
                if !bytes.is_some_and(right) {
                    report.corrupt.push(item.kind);
                    report
                        .problems
                        .push(format!("{key}: {} is corrupt", item.kind));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
