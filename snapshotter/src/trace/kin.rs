//! What is like a file system that was never started: it borrows the traces of those that were.
//!
//! Thousands of images differ in their top layers only, and most are started once. So a trace is
//! found by more than its tree: by the image at the start of a line of snapshots, by the image's
//! name without its tag, and by each of its layers. A ref for each of these names the record of a
//! trace that was stored lately.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use nacre_blobstore::{
    BlobStore, Clock, Digest, PackName, Ref, RefError, StoredTrace, Trace, TreeId, read_ref,
    trace_ref, write_ref,
};

use super::merge::merge;
use crate::image::ImageLayer;

/// Layers that are kin, the topmost; what is below them is little of an image.
const LAYERS_MAX: usize = 16;
/// Refs that are read or written at once.
const REFS_AT_ONCE: usize = 16;
/// Traces that are borrowed together.
const BORROWED_MAX: usize = 2;
/// How long a ref that was moved stays as it is: nodes that start thousands of images with one layer
/// do not all move its ref.
const LENT_FOR: Duration = Duration::from_secs(60);

/// The names by which a tree finds the traces of others, and others find its trace: those of whoever
/// is most alike first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kin(Vec<Digest>);

/// A trace to follow.
#[derive(Debug, Clone, Default)]
pub(super) struct Followed {
    pub(super) trace: Trace,
    /// Packs with copies of what it names.
    pub(super) copies: BTreeSet<PackName>,
}

impl Kin {
    /// Returns the kin of `tree`, a tree of what is called `name`: an image with these `layers`,
    /// lowest first, or one without layers that began with the image `base`.
    pub(crate) fn of(name: &str, base: &str, layers: &[ImageLayer], tree: TreeId) -> Self {
        let tree = tree.to_string();
        let top = layers.iter().rposition(|layer| layer.tree == tree);
        let layers = &layers[..top.map_or(layers.len(), |top| top + 1)];
        let base = (!base.is_empty()).then(|| format!("base {base}"));
        let layers = layers.iter().rev().take(LAYERS_MAX);
        let layers = layers.map(|layer| format!("layer {}", layer.tree));
        let names = base.into_iter().chain(repository(name)).chain(layers);
        Self(names.map(|name| Digest::of(name.as_bytes())).collect())
    }

    /// Returns what the kin that are most alike left of their starts, as one trace. A request for each
    /// name, and one for each trace. What cannot be read is as good as none.
    pub(super) async fn borrow_trace(&self, store: &dyn BlobStore) -> Option<Followed> {
        let refs = stream::iter(self.0.clone()).map(|name| async move {
            let name = trace_ref(&name);
            let read = read_ref(store, &name).await;
            let read = read.inspect_err(|error| tracing::debug!(%name, %error, "borrow a trace"));
            read.ok().flatten()
        });
        let mut records = Vec::new();
        let mut refs = refs.buffered(REFS_AT_ONCE);
        while let Some(found) = refs.next().await {
            if let Some((target, version)) = found
                && !records.iter().any(|(known, _)| *known == target.record)
            {
                records.push((target.record, version));
            }
        }
        drop(refs);
        records.truncate(BORROWED_MAX);
        let traces = stream::iter(records).map(|(record, version)| async move {
            let read = StoredTrace::read(store, record, version).await;
            let read = read.inspect_err(|error| tracing::debug!(%record, %error, "borrow a trace"));
            read.ok()
        });
        let mut traces = traces.buffered(BORROWED_MAX);
        let mut borrowed = None;
        while let Some(stored) = traces.next().await {
            let Some(stored) = stored else { continue };
            match &mut borrowed {
                None => borrowed = Some(Followed::from(stored)),
                Some(first) => drop(merge(&mut first.trace, &stored.trace.entries)),
            }
        }
        borrowed
    }

    /// Lets all kin find a record from now on, but where they found another one a moment ago. If
    /// someone else is faster, theirs is as good.
    pub(super) async fn lend(&self, store: &dyn BlobStore, clock: &dyn Clock, target: Ref) {
        let lent_for_ms = u64::try_from(LENT_FOR.as_millis()).unwrap_or(u64::MAX);
        stream::iter(&self.0)
            .for_each_concurrent(REFS_AT_ONCE, |name| async move {
                let name = trace_ref(name);
                let lent = async {
                    let seen = read_ref(store, &name).await?;
                    let is_young = |(seen, _): &(Ref, _)| {
                        // A clock that is ahead keeps nothing longer.
                        seen.changed_ms.abs_diff(clock.now_ms()) < lent_for_ms
                    };
                    if seen.as_ref().is_some_and(is_young) {
                        return Ok(());
                    }
                    let version = seen.as_ref().map(|(_, version)| version);
                    write_ref(store, &name, target, version).await
                };
                if let Err::<(), RefError>(error) = lent.await {
                    tracing::debug!(%name, %error, "lend a trace");
                }
            })
            .await;
    }
}

impl From<StoredTrace> for Followed {
    fn from(stored: StoredTrace) -> Self {
        Self {
            trace: stored.trace,
            copies: stored.record.packs,
        }
    }
}

/// Returns what the images of one name have in common, whatever their tags; `None` for an image that
/// was opened by its id.
fn repository(image: &str) -> Option<String> {
    if image.parse::<Digest>().is_ok() {
        return None;
    }
    let (folder, last) = image.rsplit_once('/').unwrap_or(("", image));
    let repository = last.split([':', '@']).next()?;
    Some(format!("repository {folder}/{repository}"))
}

#[cfg(test)]
mod tests;
