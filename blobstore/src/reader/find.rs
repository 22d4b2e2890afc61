//! Finding items in the index, also those that it does not know yet.

use std::sync::Arc;

use super::fetch::Shared;
use super::{ReadError, Reader};
use crate::pack::{ItemKind, PackKind};
use crate::{CatalogError, IndexError, Location, PackName};

impl Reader {
    /// Waits until no load of `packs` is under way: the index then knows them, as far as they can be
    /// had.
    pub async fn settled(&self, packs: &std::collections::BTreeSet<PackName>) {
        if let Some(loader) = &self.shared.loader {
            loader.settled(packs).await;
        }
    }
}

impl Shared {
    /// Returns the first of `items` that is in a known pack; waits while an awaited pack may hold
    /// any of them. A pack that is gone is the last resort.
    pub(super) async fn find(
        &self,
        items: &[ItemKind],
    ) -> Result<Option<(ItemKind, Location)>, ReadError> {
        let what = || items.first().map(ItemKind::to_string).unwrap_or_default();
        let failed = |source: IndexError| ReadError::Index {
            what: what(),
            source: Arc::new(source),
        };
        let look = || first_of(items, |item| self.index.locate(item));
        let mut found = look().map_err(failed)?;
        if let (None, Some(loader)) = (found, &self.loader) {
            let kinds: Vec<PackKind> = items.iter().map(|item| item.pack_kind()).collect();
            let awaited = tokio::time::timeout(self.wait_max, loader.until(&kinds, look)).await;
            let seconds = self.wait_max.as_secs();
            let awaited = awaited.unwrap_or_else(|_| Err(CatalogError::Waited { seconds }.into()));
            found = awaited.map_err(|source| ReadError::Catalog {
                what: what(),
                source,
            })?;
        }
        if found.is_none() {
            found = first_of(items, |item| self.index.locate_even_gone(item)).map_err(failed)?;
        }
        Ok(found)
    }

    /// Waits until the index knows `items`, or has no more to expect of them, and returns them.
    pub(super) async fn await_items(self: &Arc<Self>, items: Vec<ItemKind>) -> Vec<ItemKind> {
        let Some(loader) = &self.loader else {
            return items;
        };
        let (mut items, mut known) = (items, 0);
        while known < items.len() && loader.awaited() > 0 {
            // Looking up thousands takes milliseconds.
            let shared = Arc::clone(self);
            let looked = tokio::task::spawn_blocking(move || {
                let is_unknown =
                    |item: &ItemKind| !matches!(shared.index.locate(*item), Ok(Some(_)));
                let unknown = items[known..].iter().position(is_unknown);
                (unknown.map(|position| known + position), items)
            });
            let Ok((unknown, looked_at)) = looked.await else {
                return Vec::new();
            };
            items = looked_at;
            match unknown {
                None => break,
                // Without those that cannot be had: who reads one learns why.
                Some(position) if self.find(&[items[position]]).await.is_err() => break,
                Some(position) => known = position + 1,
            }
        }
        items
    }
}

fn first_of(
    items: &[ItemKind],
    locate: impl Fn(ItemKind) -> Result<Option<Location>, IndexError>,
) -> Result<Option<(ItemKind, Location)>, IndexError> {
    let found = items
        .iter()
        .map(|item| Ok(locate(*item)?.map(|at| (*item, at))));
    found.filter_map(Result::transpose).next().transpose()
}
