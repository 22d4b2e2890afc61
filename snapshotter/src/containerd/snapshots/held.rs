//! Trees whose mounts are kept for snapshots that need them.

use std::sync::Arc;

use nacre_blobstore::TreeId;

use super::super::lazy::LazyLayers;
use super::super::table::Table;

/// Trees that are held while a snapshot that needs them is made.
pub(super) struct Held<'a> {
    lazy: &'a Arc<dyn LazyLayers>,
    trees: Vec<TreeId>,
}

impl<'a> Held<'a> {
    pub(super) fn of(lazy: &'a Arc<dyn LazyLayers>, trees: Vec<TreeId>) -> Self {
        for tree in &trees {
            lazy.hold(*tree);
        }
        Self { lazy, trees }
    }

    /// Leaves them to the snapshot.
    pub(super) fn keep(mut self) {
        self.trees.clear();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for tree in &self.trees {
            self.lazy.release(*tree);
        }
    }
}

/// Returns the trees that views and active snapshots need mounts of, as often as they do.
pub(super) fn held_trees(table: &Table) -> Vec<TreeId> {
    let all = table.all();
    all.flat_map(|snapshot| table.needs(snapshot)).collect()
}
