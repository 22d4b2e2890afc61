//! What of an image is read.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Small files: at most this long.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Small files that are read.
const SMALL_FILES: usize = 10_000;
/// Large files are longer than a chunk, so that nacre serves them piece by piece.
const LARGE_BYTES_MIN: u64 = 1 << 20;
/// Large files that are read: the largest ones.
const LARGE_FILES: usize = 12;

/// Files of an image, by their paths in it.
pub(crate) struct Subject {
    /// Names of all kinds.
    pub(crate) entries: usize,
    /// Small files from all over the image.
    pub(crate) small: Vec<PathBuf>,
    /// The largest files, largest first.
    pub(crate) large: Vec<(PathBuf, u64)>,
    /// Directories.
    pub(crate) directories: Vec<PathBuf>,
}

impl Subject {
    pub(crate) fn find(root: &Path) -> io::Result<Self> {
        let mut subject = Self {
            entries: 0,
            small: Vec::new(),
            large: Vec::new(),
            directories: Vec::new(),
        };
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let entry = entry?;
                subject.entries += 1;
                let path = directory.join(entry.file_name());
                let metadata = entry.metadata()?;
                let size = metadata.size();
                if metadata.is_dir() {
                    pending.push(path.clone());
                } else if metadata.is_file() && (1..=SMALL_BYTES_MAX).contains(&size) {
                    subject.small.push(path);
                } else if metadata.is_file() && size > LARGE_BYTES_MIN {
                    subject.large.push((path, size));
                }
            }
            subject.directories.push(directory);
        }
        // The order of a directory differs from one file system to another.
        subject.small.sort();
        subject.directories.sort();
        let step = subject.small.len().div_ceil(SMALL_FILES).max(1);
        subject.small = subject.small.into_iter().step_by(step).collect();
        subject
            .large
            .sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        subject.large.truncate(LARGE_FILES);
        Ok(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.large.iter().map(|(_, bytes)| bytes).sum();
        write!(
            f,
            "{} names; {} small files, {} large ones of {} MB",
            self.entries,
            self.small.len(),
            self.large.len(),
            bytes / 1_000_000
        )
    }
}
