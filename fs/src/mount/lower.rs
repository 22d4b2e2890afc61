//! The read-only side of an overlay.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fgetxattr;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Where the data of a file is, below each data-only layer (`Documentation/filesystems/overlayfs.rst`,
/// "Data-only lower layers").
const REDIRECT: &str = "trusted.overlay.redirect";
/// Longest path that is followed, in bytes; ours have 66.
const REDIRECT_BYTES_MAX: usize = 256;

/// The layers below the upper directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lower {
    /// Directories with names and attributes, topmost first; at least one, or two for an overlay
    /// without data-only layers and without an upper.
    pub layers: Vec<PathBuf>,
    /// Data-only layers, in the order in which they are searched for the bytes of files whose
    /// layer has only attributes. They may gain and lose files while they are mounted.
    pub data: Vec<PathBuf>,
}

impl Lower {
    /// Takes one directory that holds everything.
    pub fn directory(path: PathBuf) -> Self {
        Self {
            layers: vec![path],
            data: Vec::new(),
        }
    }

    /// Returns the topmost layer, whose root has the attributes of the root of the overlay.
    pub fn top(&self) -> &Path {
        self.layers
            .first()
            .map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    /// Returns the bytes of a file that was opened in one of the layers: the file itself, or the
    /// one in the data-only layers that it names, as overlayfs finds it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when no layer has the data; others of the file system.
    pub fn data_of(&self, file: File) -> io::Result<File> {
        let mut name = [0; REDIRECT_BYTES_MAX];
        let length = match fgetxattr(&file, REDIRECT, &mut name) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(file),
            Err(error) => return Err(error.into()),
        };
        let name = Path::new(OsStr::from_bytes(name.get(..length).unwrap_or_default()));
        let plain = name.strip_prefix("/").ok().filter(|name| {
            name.components()
                .all(|c| matches!(c, std::path::Component::Normal(_)))
        });
        let plain = plain.ok_or(io::ErrorKind::InvalidData)?;
        for layer in &self.data {
            match File::open(layer.join(plain)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}
