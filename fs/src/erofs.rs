//! Metadata images: trees as EROFS file systems that the kernel mounts itself.
//!
//! An image holds every name and attribute of a tree, and the bytes of small files that were at hand
//! when it was made ([`SmallContents`]). Any other regular file carries
//! the overlayfs attributes `trusted.overlay.metacopy` and `trusted.overlay.redirect=/ab/cdef...`
//! (the hexadecimal digits of its content id), so that an overlay with data-only layers finds the
//! bytes by content:
//!
//! ```text
//! lowerdir=[delta image:]image::STORE[::...]        STORE/ab/cdef... holds a content
//! ```
//!
//! Mounted alone, such a file has its size and reads as zeros. Images of the same tree and small files
//! are equal byte for byte, on every machine: nothing in them depends on time, order of reading, or place.
//!
//! A small file in the image costs less than its two attributes would, or little more. It needs no lookup
//! in the data-only layers, no fetch and no file on the node; and overlayfs, which asks both
//! layers of a file for its attributes once it was opened (`ovl_getattr`, `fs/overlayfs/inode.c`),
//! asks one.
//!
//! The format is that of Linux (`Documentation/filesystems/erofs.rst`, `fs/erofs/erofs_fs.h`),
//! from 5.16 on for files in chunks; mounting an image without a loop device needs 6.12. Only
//! what is needed is used: blocks of 4 KiB, 64-byte inodes, flat directories and symlinks, one
//! chunk that is a hole per file, a checksum of the superblock.
//!
//! A delta is an image of changes, with whiteouts and opaque directories, for [`ImageBuilder`] to
//! write. Not every image can lie below one: see [`takes_delta`].
//!
//! The crate `composefs` writes such images too, and is not used for three reasons: it escapes
//! opaque attributes, which images of snapshots need; it puts attributes into a shared area, and
//! reading that area of an image on ext4 without a loop device raised a kernel warning (in
//! `erofs_bread`), so that here all attributes stand beside their inode; and it wants the
//! fs-verity digest of each file, which a content id is not.

mod builder;
mod directory;
mod entry;
mod format;
mod paths;
mod small;
mod space;
mod xattr;

use std::path::PathBuf;

use futures::future::try_join_all;
use nacre_blobstore::{Node, ReadError, Tree, TreeId, TreeReader};

pub use builder::{DIRECTORY_DEPTH_MAX, ENTRIES_MAX, ImageBuilder, UnwrittenDirectory};
pub use entry::{FILE_BYTES_MAX, ImageEntry, ImageInode};
pub use small::{SMALL_FILE_BYTES_MAX, SMALL_FILES_BYTES_MAX, SmallContents};
pub use space::IMAGE_BYTES_MAX;

/// Trees read at once.
const READS_MAX: usize = 16;

/// The rule or limit that something breaks.
type Reason = &'static str;

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// A tree could not be had.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tree is a directory's, not a file system's.
    #[error("tree {0} is not a root")]
    NotRoot(TreeId),
    /// Something in the tree breaks a rule of trees, or a limit of EROFS, of overlayfs or of the
    /// writer. The tree can still be served by FUSE.
    #[error("write {path:?} to a metadata image: {reason}")]
    Unrepresentable {
        /// Where in the tree, from its root `/`.
        path: PathBuf,
        /// The rule or limit.
        reason: Reason,
    },
}

/// Returns the metadata image of the file system whose root tree is `root`. Of its files those in
/// `small` have their bytes there.
///
/// Reads each directory's tree once for each place that it stands at. Needs memory for twice the
/// image at the end; may be cancelled at any time. Directories are encoded on the calling task,
/// below 1 us for each entry.
///
/// # Errors
/// [`ErofsError`]; the first found when there are several.
pub async fn metadata_image(
    root: TreeId,
    trees: &(impl TreeReader + ?Sized),
    small: &SmallContents,
) -> Result<Vec<u8>, ErofsError> {
    let root_tree = trees.tree(root).await?;
    let (attributes, top) = root_tree.as_root().ok_or(ErofsError::NotRoot(root))?;
    let mut seed = [0; 16];
    seed.copy_from_slice(&root.as_bytes()[..16]);
    let (mut image, directory) = ImageBuilder::new(seed, attributes);
    // A stack, so that what is near in the tree is near in the image and few directories wait.
    let mut pending = vec![(directory, top)];
    while !pending.is_empty() {
        let batch = pending.split_off(pending.len().saturating_sub(READS_MAX));
        let listings = try_join_all(batch.iter().map(|(_, id)| trees.tree(*id))).await?;
        for ((directory, _), listing) in batch.into_iter().zip(listings) {
            let written = write_listing(&mut image, directory, &listing, small)?;
            pending.extend(written);
            tokio::task::yield_now().await;
        }
    }
    Ok(image.finish())
}

/// Tells whether a delta may be stacked over the image whose root directory holds `names`.
///
/// overlayfs looks for the data of a delta's file in the images below it before it does in the
/// data-only layers, by the same path. A directory `/ab` there would make it give up the search
/// for each content whose id begins so (`EIO`), and a file in it by the rest of an id would be
/// taken for the content. Where this is `false`, mount the image of the merged tree instead.
pub fn takes_delta<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    !(names.into_iter()).any(|name| name.len() == 2 && name.iter().all(is_hex))
}

fn write_listing(
    image: &mut ImageBuilder,
    directory: UnwrittenDirectory,
    listing: &Tree,
    small: &SmallContents,
) -> Result<impl Iterator<Item = (UnwrittenDirectory, TreeId)>, ErofsError> {
    let entries = listing.entries().iter().map(ImageEntry::from);
    let entries: Vec<_> = entries.map(|entry| entry.with_bytes(small)).collect();
    let subdirectories = image.write_directory(directory, &entries)?;
    let trees = listing.entries().iter().filter_map(|e| match e.node {
        Node::Directory(tree) => Some(tree),
        _ => None,
    });
    Ok(subdirectories.into_iter().zip(trees))
}

#[cfg(test)]
mod tests;
