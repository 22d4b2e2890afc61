//! What each root alone keeps alive.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt;

use super::GcError;
use super::condemned::Collected;
use super::mark::is_trace;
use super::moved::Moves;
use crate::refs::list_roots;
use crate::{BlobStore, Record, RecordError, RecordId, RefName, StoreError, read_ref};

/// What one ref keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootUsage {
    /// The ref.
    pub name: RefName,
    /// The record that it names.
    pub record: RecordId,
    /// Bytes of all objects that it reaches.
    pub bytes: u64,
    /// Those of them that only refs of the same record reach: what collection frees when these go.
    pub bytes_alone: u64,
}

/// What a store holds, by ref.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The refs, by name; those of traces are left out.
    pub roots: Vec<RootUsage>,
}

/// Measures what each ref reaches, in whole packs. Costs a listing of the store, a request for each
/// ref, and one for each record.
///
/// # Errors
/// [`GcError`]. A ref whose record is missing reaches nothing.
pub async fn usage(store: &Arc<dyn BlobStore>) -> Result<Usage, GcError> {
    let mut reached: BTreeMap<RecordId, BTreeSet<Collected>> = BTreeMap::new();
    let mut named = Vec::new();
    let moves = Moves::read(&**store).await?;
    for name in list_roots(&**store).await? {
        let Some((target, _)) = read_ref(&**store, &name).await? else {
            continue;
        };
        let id = target.record;
        if let Entry::Vacant(unread) = reached.entry(id) {
            unread.insert(objects_of(&**store, &name, id, &moves).await?);
        }
        named.push((name, id));
    }
    let mut records_of: BTreeMap<Collected, u64> = BTreeMap::new();
    for object in reached.values().flatten() {
        *records_of.entry(*object).or_default() += 1;
    }
    let mut sizes: BTreeMap<Collected, u64> = BTreeMap::new();
    for folder in Collected::folders() {
        let mut objects = store.list(&folder);
        while let Some(object) = objects.try_next().await? {
            let found = Collected::from_key(&object.key);
            if let Some(found) = found.filter(|found| records_of.contains_key(found)) {
                *sizes.entry(found).or_default() += object.size_bytes;
            }
        }
    }
    let size = |object: &Collected| sizes.get(object).copied().unwrap_or(0);
    let of = |(name, record): (RefName, RecordId)| {
        let objects = &reached[&record];
        let alone = objects.iter().filter(|object| records_of[*object] == 1);
        RootUsage {
            name,
            record,
            bytes: objects.iter().map(size).sum(),
            bytes_alone: alone.map(size).sum(),
        }
    };
    let roots = named.into_iter().filter(|(name, _)| !is_trace(name));
    Ok(Usage {
        roots: roots.map(of).collect(),
    })
}

/// Returns what a record keeps.
async fn objects_of(
    store: &dyn BlobStore,
    name: &RefName,
    id: RecordId,
    moves: &Moves,
) -> Result<BTreeSet<Collected>, GcError> {
    match Record::read(store, id).await {
        Ok(record) => Ok(Collected::of_record(id, &record, moves)),
        Err(RecordError::Store(StoreError::NotFound(_))) => Ok(BTreeSet::new()),
        Err(source) => Err(GcError::Record {
            name: name.to_string(),
            source,
        }),
    }
}
