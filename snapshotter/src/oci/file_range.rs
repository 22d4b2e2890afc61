//! A blob that is a local file, or a part of one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use rustix::fs::{Mode, OFlags};

use super::blob::BlobStream;
use super::error::OciError;

/// Bytes read at once: long enough that the hop to a blocking thread does not count.
const READ_BYTES: u64 = 256 << 10;

/// Some bytes of an open file. Cheap to clone; reads keep no position.
#[derive(Debug, Clone)]
pub(crate) struct FileRange {
    file: Arc<File>,
    path: Arc<Path>,
    offset: u64,
    len: u64,
}

impl FileRange {
    /// Opens a whole regular file. A FIFO or a device is refused and cannot block the caller.
    pub(crate) async fn open(path: PathBuf) -> Result<Self, OciError> {
        blocking(move || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let opened = rustix::fs::open(&path, flags, Mode::empty()).map(File::from);
            let file = match opened.map_err(io::Error::from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(OciError::NotFound(path.display().to_string()));
                }
                other => other.map_err(|source| io_error("open", &path, source))?,
            };
            let metadata = file
                .metadata()
                .map_err(|source| io_error("stat", &path, source))?;
            if !metadata.is_file() {
                let message = "not a regular file";
                return Err(OciError::malformed(path.display().to_string(), message));
            }
            Ok(Self {
                file: Arc::new(file),
                path: path.into(),
                offset: 0,
                len: metadata.len(),
            })
        })
        .await
    }

    /// Returns `len` bytes from `offset` on, or `None` when the range does not have them.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Self {
            offset: self.offset + offset,
            len,
            ..self.clone()
        })
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buffer` from `at`, counted from the start of the range. Blocks.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<(), OciError> {
        let offset = self.offset.saturating_add(at);
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|source| io_error("read", &self.path, source))
    }

    /// Reads all of at most `limit_bytes`. Blocks.
    pub(crate) fn read_all(&self, what: &str, limit_bytes: u64) -> Result<Bytes, OciError> {
        let too_large = || OciError::TooLarge {
            what: what.to_owned(),
            limit_bytes,
        };
        if self.len > limit_bytes {
            return Err(too_large());
        }
        let mut all = vec![0; usize::try_from(self.len).map_err(|_| too_large())?];
        self.read_exact_at(&mut all, 0)?;
        Ok(all.into())
    }

    /// Streams the range, reading on blocking threads.
    pub(crate) fn stream(self) -> BlobStream {
        stream::try_unfold((self, 0), |(range, at)| {
            blocking(move || {
                let len = (range.len - at).min(READ_BYTES);
                if len == 0 {
                    return Ok(None);
                }
                let piece = Self {
                    offset: range.offset + at,
                    len,
                    ..range.clone()
                };
                let bytes = piece.read_all("a piece of a blob", READ_BYTES)?;
                Ok(Some((bytes, (range, at + len))))
            })
        })
        .boxed()
    }
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> OciError {
    OciError::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OciError> + Send + 'static,
) -> Result<T, OciError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            let what = "a local file".to_owned();
            Err(OciError::Unavailable {
                what,
                message: error.to_string(),
            })
        })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn parts_stay_within_the_file_and_stream_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        let bytes: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = FileRange::open(path).await.unwrap();
        let part = file.part(1000, 600_000).unwrap();
        let pieces: Vec<Bytes> = part.clone().stream().try_collect().await.unwrap();
        assert_eq!(pieces.concat(), bytes[1000..601_000]);
        assert!(part.part(1, 600_000).is_none());
        assert!(file.part(u64::MAX, 2).is_none());
        assert!(matches!(
            part.read_all("x", 9),
            Err(OciError::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn a_fifo_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR, 0).unwrap();
        assert!(matches!(
            FileRange::open(path).await,
            Err(OciError::Malformed { .. })
        ));
        let missing = FileRange::open(directory.path().join("none")).await;
        assert!(matches!(missing, Err(OciError::NotFound(_))));
    }
}
