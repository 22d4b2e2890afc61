//! Marking: what the refs of a store reach.
//!
//! A record lists all packs that its trees need, so marking reads refs and records and no tree.
//! Marks only accumulate: a set that was made of several looks at the refs is what any of them
//! reached, and keeps too much rather than too little.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use super::GcError;
use super::condemned::{Collected, CollectedKind};
use super::moved::Moves;
use crate::refs::{self, RefError};
use crate::trace::TRACES_NAMESPACE;
use crate::{BlobStore, Digest, Record, RecordError, RecordId, Ref, RefName, StoreError};

/// Objects that can be marked at most; some 60 bytes of memory each.
const MARKED_MAX: usize = 8 << 20;
/// Refs that are read at once at most.
const READS_MAX: usize = 16;

/// The objects that refs reach.
#[derive(Debug, Default)]
pub(super) struct Marked {
    objects: HashSet<Collected>,
    /// Trees that roots other than traces name.
    pub(super) trees: HashSet<Digest>,
    /// What moved, as it was when the refs were last followed.
    pub(super) moves: Moves,
}

impl Marked {
    /// Returns the records that refs name.
    pub(super) fn records(&self) -> Vec<RecordId> {
        let records = self
            .objects
            .iter()
            .filter(|o| o.kind == CollectedKind::Record);
        records.map(|object| RecordId::new(object.id)).collect()
    }

    pub(super) fn contains(&self, object: &Collected) -> bool {
        self.objects.contains(object)
    }

    /// Follows all refs as they are now, and shows each to `seen`.
    ///
    /// A root that cannot be followed ends the marking: what it needs is not known. Only a trace
    /// may have lost its record, for it is not needed.
    pub(super) async fn follow_refs(
        &mut self,
        store: &dyn BlobStore,
        mut seen: impl FnMut(RefName, Ref),
    ) -> Result<u64, GcError> {
        self.moves = Moves::read(store).await?;
        let names = refs::list_roots(store).await?;
        let mut targets = stream::iter(names)
            .map(|name| async move {
                let found = refs::read_ref(store, &name).await?;
                Ok::<_, RefError>(found.map(|(target, _)| (name, target)))
            })
            .buffered(READS_MAX);
        let mut roots = 0;
        while let Some(found) = targets.try_next().await? {
            // `None`: deleted since it was listed.
            let Some((name, target)) = found else {
                continue;
            };
            roots += 1;
            self.follow(store, &name, target).await?;
            seen(name, target);
        }
        Ok(roots)
    }

    async fn follow(
        &mut self,
        store: &dyn BlobStore,
        name: &RefName,
        target: Ref,
    ) -> Result<(), GcError> {
        if self.contains(&target.record.into()) {
            return Ok(());
        }
        let record = match Record::read(store, target.record).await {
            Ok(record) => record,
            Err(RecordError::Store(StoreError::NotFound(_))) if is_trace(name) => return Ok(()),
            Err(source) => {
                return Err(GcError::Record {
                    name: name.to_string(),
                    source,
                });
            }
        };
        self.objects
            .extend(Collected::of_record(target.record, &record, &self.moves));
        if !is_trace(name) {
            self.trees
                .extend(record.trees.iter().map(|tree| *tree.digest()));
        }
        if self.objects.len() > MARKED_MAX {
            return Err(GcError::TooMany(MARKED_MAX));
        }
        Ok(())
    }
}

/// Tells whether a ref names a trace.
pub(super) fn is_trace(name: &RefName) -> bool {
    traced(name).is_some()
}

/// Returns the digest of what a trace's ref is for.
pub(super) fn traced(name: &RefName) -> Option<&str> {
    let (namespace, of) = name.as_str().split_once('/')?;
    (namespace == TRACES_NAMESPACE).then_some(of)
}
