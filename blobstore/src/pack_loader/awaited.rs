//! Which packs are awaited, and how their loads stand.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::CatalogError;
use crate::pack::{PackKind, PackName};

/// The awaited packs.
///
/// Waiters and loads are numbered in the order in which they come, so that each waiter can tell
/// whether a load failed on its behalf or before its time.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    data: OfKind,
    trees: OfKind,
    ticks: u64,
    stopped: bool,
}

/// The awaited packs of one kind.
#[derive(Debug, Default)]
struct OfKind {
    /// Those whose first load is under way.
    fresh: HashSet<PackName>,
    failed: HashMap<PackName, Failed>,
}

/// How the last load of a pack ended.
#[derive(Debug)]
struct Failed {
    began: u64,
    error: Arc<CatalogError>,
    /// Whether another one is under way.
    again: bool,
}

/// What a waiter may hope for.
#[derive(Debug)]
pub(super) enum Outlook {
    /// A load is under way that may bring what it waits for.
    Loading,
    /// All have ended, one of them like this.
    Failed(Arc<CatalogError>),
    /// No pack is awaited.
    Known,
}

impl Awaited {
    /// Returns a number larger than all before.
    pub(super) const fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    pub(super) fn len(&self) -> usize {
        let of_kind = |packs: &OfKind| packs.fresh.len() + packs.failed.len();
        of_kind(&self.data) + of_kind(&self.trees)
    }

    /// Ends all waits.
    pub(super) const fn stop(&mut self) {
        self.stopped = true;
    }

    /// Makes packs awaited; returns the loads to be started, with their numbers.
    pub(super) fn begin(
        &mut self,
        packs: impl IntoIterator<Item = PackName>,
    ) -> Vec<(PackName, u64)> {
        let began = self.tick();
        let mut begun = Vec::new();
        if self.stopped {
            return begun;
        }
        for name in packs {
            let of_kind = self.of_kind(name.kind);
            let is_new = match of_kind.failed.get_mut(&name) {
                Some(failed) => !std::mem::replace(&mut failed.again, true),
                None => of_kind.fresh.insert(name),
            };
            if is_new {
                begun.push((name, began));
            }
        }
        begun
    }

    /// Tells what one who came at the tick `came` may hope for, and returns the loads that are to
    /// be started on its behalf.
    pub(super) fn outlook(
        &mut self,
        kinds: &[PackKind],
        came: u64,
    ) -> (Outlook, Vec<(PackName, u64)>) {
        if self.stopped {
            let stopped = Arc::new(CatalogError::Stopped);
            return (Outlook::Failed(stopped), Vec::new());
        }
        let began = self.tick();
        let mut again = Vec::new();
        let (mut is_loading, mut error) = (false, None);
        for kind in kinds {
            let of_kind = self.of_kind(*kind);
            is_loading |= !of_kind.fresh.is_empty();
            for (name, failed) in &mut of_kind.failed {
                if failed.began > came {
                    error = Some(Arc::clone(&failed.error));
                } else {
                    is_loading = true;
                    if !std::mem::replace(&mut failed.again, true) {
                        again.push((*name, began));
                    }
                }
            }
        }
        let outlook = match error {
            _ if is_loading => Outlook::Loading,
            Some(error) => Outlook::Failed(error),
            None => Outlook::Known,
        };
        (outlook, again)
    }

    /// Notes how a load ended. The index knows the pack if it went well.
    pub(super) fn land(&mut self, name: PackName, began: u64, outcome: Result<(), CatalogError>) {
        let of_kind = self.of_kind(name.kind);
        of_kind.fresh.remove(&name);
        match outcome {
            Ok(()) => drop(of_kind.failed.remove(&name)),
            Err(error) => {
                let failed = Failed {
                    began,
                    error: Arc::new(error),
                    again: false,
                };
                of_kind.failed.insert(name, failed);
            }
        }
    }

    /// Tells whether any of `packs` is being loaded.
    pub(super) fn is_loading(&self, packs: &BTreeSet<PackName>) -> bool {
        let is_loading = |name: &PackName| {
            let of_kind = match name.kind {
                PackKind::Data => &self.data,
                PackKind::Tree => &self.trees,
            };
            of_kind.fresh.contains(name) || of_kind.failed.get(name).is_some_and(|f| f.again)
        };
        !self.stopped && packs.iter().any(is_loading)
    }

    const fn of_kind(&mut self, kind: PackKind) -> &mut OfKind {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Tree => &mut self.trees,
        }
    }
}
