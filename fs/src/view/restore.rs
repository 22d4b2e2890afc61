//! Finding again what another process told the kernel of.

use std::sync::Arc;

use super::View;
use super::fixed::Fixed;
use super::inodes::Found;
use super::place::{Directory, Leaf, Origin, Place};
use crate::FsError;

/// Directories on the way to an inode. Deeper ones have no path that Linux takes.
const DEPTH_MAX: usize = 4096;

impl View {
    /// Returns what an inode stands for. Of one that another process told the kernel of, the trees
    /// on the way to it are read at its first use.
    pub(super) async fn place(&self, ino: u64) -> Result<Place, FsError> {
        match self.inodes.get(ino) {
            Some(Found::Place(place)) => Ok(place),
            Some(Found::Origin(origin)) => self.restore(ino, *origin).await,
            None => Err(FsError::Stale(ino)),
        }
    }

    async fn restore(&self, ino: u64, origin: Origin) -> Result<Place, FsError> {
        // The reader may block on its index, which the thread of a request must not.
        tokio::task::yield_now().await;
        // Upwards as far as nothing is known, and down again.
        let mut unknown = vec![(ino, origin)];
        let mut above = None;
        while let Some((_, Origin::Entry { parent_ino, .. })) = unknown.last() {
            match self.inodes.get(*parent_ino) {
                Some(Found::Place(Place::Directory(directory))) => {
                    above = Some(directory);
                    break;
                }
                Some(Found::Origin(origin)) if unknown.len() < DEPTH_MAX => {
                    unknown.push((*parent_ino, *origin));
                }
                _ => return Err(FsError::Stale(ino)),
            }
        }
        while let Some((ino, origin)) = unknown.pop() {
            let place = self.find_again(ino, origin, above.as_ref()).await?;
            let place = self.inodes.settle(ino, place);
            above = match &place {
                _ if unknown.is_empty() => return Ok(place),
                Place::Directory(directory) => Some(Arc::clone(directory)),
                Place::Content { .. } | Place::Leaf(_) => None,
            };
        }
        Err(FsError::Stale(ino))
    }

    /// Finds one inode; `above` is the directory that holds it, where its origin is an entry.
    async fn find_again(
        &self,
        ino: u64,
        origin: Origin,
        above: Option<&Arc<Directory>>,
    ) -> Result<Place, FsError> {
        let stale = || FsError::Stale(ino);
        match origin {
            Origin::Content {
                content,
                size_bytes,
            } => Ok(Place::Content {
                content,
                size_bytes,
            }),
            Origin::Root(flavor, id) => {
                let tree = self.reader().tree(id).await?;
                let parent_ino = Fixed::Trees(flavor).ino();
                let root = Directory::root(ino, parent_ino, flavor, id, tree);
                Ok(Place::Directory(Arc::new(root.ok_or_else(stale)?)))
            }
            Origin::Entry { index, .. } => {
                let directory = above.ok_or_else(stale)?;
                let listing = directory.listing(self.reader()).await?;
                let entry = listing.tree.entries().get(index as usize);
                let entry = entry.ok_or_else(stale)?;
                Ok(Place::of_entry(ino, directory, listing, index, entry))
            }
            Origin::Link {
                root_ino,
                group,
                flavor,
                tree: id,
                index,
            } => {
                let tree = self.reader().tree(id).await?;
                let entry = tree.entries().get(index as usize);
                let link = entry.and_then(|entry| entry.hard_link.as_ref());
                if link.is_none_or(|link| link.group != group) {
                    return Err(stale());
                }
                let directory = Directory::detached(root_ino, flavor, id, tree);
                let directory = Arc::new(directory);
                Ok(Place::Leaf(Leaf { directory, index }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
