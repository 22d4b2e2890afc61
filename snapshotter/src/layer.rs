//! Layers: the entries of one OCI layer, or of a plain directory, in the order they stand there.
//!
//! ```text
//! blob bytes -> Decompressor -> TarReader  -+
//!               (gzip, zstd)                +-> EntrySource: LayerEntry, then its data
//! a directory ----------------> DirectoryReader
//! ```
//!
//! Everything here is synchronous, streams in constant memory and bounds hostile input by
//! [`LayerLimits`] before it allocates. A layer is decoded, not interpreted: whiteouts are items,
//! a path may come twice (the later wins), and parents or hard-link targets may be missing or
//! stand in a lower layer. Merging decides about those.

mod compression;
mod directory;
mod error;
mod limits;
mod path;
mod tar;

use nacre_blobstore::{Attributes, Device};

pub use compression::{Compression, Decompressor};
pub use directory::DirectoryReader;
pub(crate) use directory::{Inode, InodeId};
pub(crate) use error::Fault;
pub use error::{LayerError, LayerPosition};
pub use limits::LayerLimits;
pub use path::LayerPath;
pub use tar::TarReader;

/// One item of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// Where it stands. For a whiteout the path that it hides.
    pub path: LayerPath,
    /// What it is.
    pub kind: EntryKind,
    /// Attributes of the inode. Without meaning for hard links and whiteouts.
    pub attributes: Attributes,
}

/// What a [`LayerEntry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file; its bytes follow by [`EntrySource::read_data`].
    File {
        /// Length in bytes, holes included.
        size_bytes: u64,
    },
    /// A directory. Only a directory may have the root's path.
    Directory,
    /// A symbolic link and its target, unresolved: 1 to 4,095 bytes without a NUL.
    Symlink(Box<[u8]>),
    /// Another name of the inode at this path.
    HardLink(LayerPath),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket's name. Tar has no sockets, directories have.
    Socket,
    /// Hides the path in lower layers.
    Whiteout,
    /// Hides everything that lower layers hold below the path, a directory.
    OpaqueDirectory,
}

/// Yields the entries of a layer in order.
///
/// After an error every further call is an error too, so a layer cannot end early unnoticed.
pub trait EntrySource {
    /// Returns the next entry, or `None` at the end. Skips what was not read of the data of the
    /// entry before.
    ///
    /// # Errors
    /// [`LayerError`] says what a caller decides by: unreadable, malformed, unsupported, beyond a
    /// limit, or changed while it was read.
    fn next_entry(&mut self) -> Result<Option<LayerEntry>, LayerError>;

    /// Reads the next bytes of the file that [`Self::next_entry`] returned last, holes as zeros,
    /// into the front of `buffer` and returns how many; 0 at its end and for any other kind.
    ///
    /// # Errors
    /// As [`Self::next_entry`]; data that ends before the file's size is an error.
    fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError>;
}

#[cfg(test)]
mod tests;
