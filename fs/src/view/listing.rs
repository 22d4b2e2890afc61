//! Listing directories, with and without attributes.

use std::sync::Arc;

use futures::{StreamExt, stream};
use nacre_blobstore::Entry;

use super::fixed::Fixed;
use super::place::{Directory, Listing, Place};
use super::{Attr, Kind, Numbered, View};
use crate::FsError;

/// Entries whose subtrees are read together while a directory is listed.
const LISTING_WINDOW: usize = 64;
/// Subtrees read at once by one listing.
const LISTING_FAN_OUT: usize = 16;
/// Offsets of `.` and `..` come before those of the entries.
const DOT_ENTRIES: u64 = 2;

/// One name of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Kind of the inode.
    pub kind: Kind,
    /// The name.
    pub name: &'a [u8],
    /// Where to go on reading after this entry.
    pub next_offset: u64,
}

/// Whether the receiver of a listing took an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It did, and wants more.
    Yes,
    /// It has no room for it.
    Full,
}

impl View {
    /// Lists a directory from `offset` (0 at first) until `add` is full. Counts no lookups.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`], [`FsError::Stale`], [`FsError::Read`].
    pub async fn readdir(
        &self,
        ino: u64,
        offset: u64,
        mut add: impl FnMut(&DirectoryEntry<'_>) -> Taken + Send,
    ) -> Result<(), FsError> {
        let Some((directory, parent_ino)) = self.directory(ino).await? else {
            self.list_fixed(ino, offset, &mut |entry, _| add(entry));
            return Ok(());
        };
        if list_dots(ino, parent_ino, offset, &mut add) == Taken::Full {
            return Ok(());
        }
        let listing = directory.listing(self.reader()).await?;
        for (index, next_offset, entry) in entries_from(listing, offset) {
            let ino = directory.key_of(index, entry).preferred_ino();
            let kind = Kind::of(&entry.node);
            if add(&DirectoryEntry {
                ino,
                kind,
                name: &entry.name,
                next_offset,
            }) == Taken::Full
            {
                break;
            }
        }
        Ok(())
    }

    /// Lists a directory with attributes from `offset` until `add` is full, and counts a lookup
    /// for each entry taken, `.` and `..` excepted, which come without attributes.
    ///
    /// # Errors
    /// As [`View::readdir`].
    pub async fn readdir_plus(
        &self,
        ino: u64,
        offset: u64,
        mut add: impl FnMut(&DirectoryEntry<'_>, Option<&Attr>) -> Taken + Send,
    ) -> Result<(), FsError> {
        let Some((directory, parent_ino)) = self.directory(ino).await? else {
            self.list_fixed(ino, offset, &mut add);
            return Ok(());
        };
        let mut add_dot = |entry: &DirectoryEntry<'_>| add(entry, None);
        if list_dots(ino, parent_ino, offset, &mut add_dot) == Taken::Full {
            return Ok(());
        }
        let listing = directory.listing(self.reader()).await?;
        let mut rest = entries_from(listing, offset);
        loop {
            // Numbers are given before subtrees are read so that those read here are kept.
            let window: Vec<_> = (rest.by_ref().take(LISTING_WINDOW))
                .map(|(i, next, entry)| (next, entry, self.refer(&directory, listing, i, entry)))
                .collect();
            if window.is_empty() {
                return Ok(());
            }
            self.read_listings(&window).await;
            let mut window = window.into_iter();
            for (next_offset, entry, numbered) in window.by_ref() {
                let attr = self.attr_of(&numbered).await;
                let (ino, kind, name) = (attr.ino, attr.kind, &*entry.name);
                let listed = DirectoryEntry {
                    ino,
                    kind,
                    name,
                    next_offset,
                };
                if add(&listed, Some(&attr)) == Taken::Full {
                    self.forget(ino, 1);
                    window.for_each(|(_, _, untaken)| self.forget(untaken.ino, 1));
                    return Ok(());
                }
            }
        }
    }

    /// Reads the subtrees of a window side by side; errors show when an attribute is asked for.
    async fn read_listings(&self, window: &[(u64, &Entry, Numbered)]) {
        let directories = window
            .iter()
            .filter_map(|(_, _, numbered)| match &numbered.place {
                Place::Directory(directory) => Some(Arc::clone(directory)),
                Place::Content { .. } | Place::Leaf(_) => None,
            });
        let read = async |directory: Arc<Directory>| {
            drop(directory.listing(self.reader()).await.map(|_| ()));
        };
        stream::iter(directories)
            .for_each_concurrent(LISTING_FAN_OUT, read)
            .await;
    }

    fn list_fixed(
        &self,
        ino: u64,
        offset: u64,
        add: &mut (impl FnMut(&DirectoryEntry<'_>, Option<&Attr>) -> Taken + Send),
    ) {
        let Some(fixed) = Fixed::from_ino(ino) else {
            return;
        };
        let mut add_dot = |entry: &DirectoryEntry<'_>| add(entry, None);
        if list_dots(ino, fixed.parent().ino(), offset, &mut add_dot) == Taken::Full {
            return;
        }
        for (next_offset, (name, child)) in (DOT_ENTRIES + 1..).zip(fixed.children()) {
            let attr = child.attr();
            let (ino, kind, name) = (attr.ino, attr.kind, name.as_bytes());
            let listed = DirectoryEntry {
                ino,
                kind,
                name,
                next_offset,
            };
            if next_offset > offset && add(&listed, Some(&attr)) == Taken::Full {
                return;
            }
        }
    }
}

/// Lists `.` and `..` as far as `offset` has not passed them.
fn list_dots(
    ino: u64,
    parent_ino: u64,
    offset: u64,
    add: &mut (impl FnMut(&DirectoryEntry<'_>) -> Taken + ?Sized),
) -> Taken {
    let dots = [(ino, &b"."[..], 1), (parent_ino, b"..", 2)];
    for (ino, name, next_offset) in dots {
        let dot = DirectoryEntry {
            ino,
            kind: Kind::Directory,
            name,
            next_offset,
        };
        if next_offset > offset && add(&dot) == Taken::Full {
            return Taken::Full;
        }
    }
    Taken::Yes
}

/// Returns the entries from an offset on: index, next offset, entry.
fn entries_from(listing: &Listing, offset: u64) -> impl Iterator<Item = (u32, u64, &Entry)> + Send {
    let skip = usize::try_from(offset.saturating_sub(DOT_ENTRIES)).unwrap_or(usize::MAX);
    let entries = (0_u32..).zip(listing.tree.entries());
    entries
        .skip(skip)
        .map(|(index, entry)| (index, u64::from(index) + DOT_ENTRIES + 1, entry))
}
