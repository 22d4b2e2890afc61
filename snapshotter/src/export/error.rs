//! Why a snapshot is not exported.

use std::io;
use std::path::{Path, PathBuf};

use nacre_blobstore::{CatalogError, ReadError};

use crate::daemon::NodeError;
use crate::image::ImageError;
use crate::oci::{OciDigest, OciError};
use crate::snapshot::SnapshotError;

/// Why a snapshot is not exported. No name at the destination was changed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing has the name, or it cannot be read.
    #[error(transparent)]
    Named(#[from] NodeError),
    /// The snapshot's record is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The base image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It has no file system.
    #[error("{0:?} has no file system")]
    NoTree(String),
    /// Nothing is known of the image that the snapshot started from.
    #[error("its base image {0} is gone")]
    NoBase(String),
    /// Layers of the base image are not where the image goes, and no source is named.
    #[error("its layer {first}{} not in {to}, and nacre keeps no compressed layers",
        if *more == 0 { " is".to_owned() } else { format!(" and {more} more are") })]
    NoLayers {
        /// One of them.
        first: OciDigest,
        /// How many others.
        more: usize,
        /// The destination.
        to: String,
    },
    /// Images cannot be put there.
    #[error("{0} is no place to export to (oci:DIR[:TAG] or docker://HOST/REPO:TAG)")]
    Destination(String),
    /// A layer cannot hold an entry.
    #[error("{path}: {reason}")]
    Unrepresentable {
        /// The entry.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The config of the base image is malformed.
    #[error("the config of its image: {0}")]
    Config(String),
    /// A tree or a file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The packs could not be made known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A registry or a layout failed.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A file cannot be read or written.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
    /// A worker ended without a result.
    #[error("a worker ended early")]
    Stopped,
}

impl ExportError {
    pub(super) fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}
