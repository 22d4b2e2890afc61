//! The blob of a new layer: compressed and hashed on a thread of its own, into a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ExportError;
use crate::layer::Compression;
use crate::oci::{Algorithm, Hasher, OciDigest};

/// Pieces that wait to be compressed, each of a chunk at most.
const PIECES_MAX: usize = 4;
/// The level at which zstd frames are made elsewhere, too.
const ZSTD_LEVEL: i32 = 3;

/// A finished blob.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: OciDigest,
    pub(crate) size_bytes: u64,
    /// Digest of the plain tar.
    pub(crate) diff_id: OciDigest,
}

/// Takes the plain bytes of a blob.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    pieces: mpsc::Sender<Bytes>,
    thread: JoinHandle<io::Result<Blob>>,
    path: PathBuf,
}

impl BlobWriter {
    /// Starts to write the file `path`, which is made new.
    pub(crate) fn new(path: &Path, compression: Compression) -> Self {
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let file = path.to_owned();
        let thread = tokio::task::spawn_blocking(move || write(&file, compression, received));
        Self {
            pieces,
            thread,
            path: path.to_owned(),
        }
    }

    /// Adds bytes. What goes wrong with the file is told by [`BlobWriter::finish`].
    pub(crate) async fn put(&self, bytes: Bytes) {
        drop(self.pieces.send(bytes).await);
    }

    /// Tells whether the file has failed, so that nothing more need be put.
    pub(crate) fn has_failed(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Ends the blob.
    ///
    /// # Errors
    /// [`ExportError::Io`] for the first thing that went wrong with the file.
    pub(crate) async fn finish(self) -> Result<Blob, ExportError> {
        drop(self.pieces);
        let written = self.thread.await.map_err(|_| ExportError::Stopped)?;
        written.map_err(|error| ExportError::io("write", &self.path, error))
    }
}

fn write(
    path: &Path,
    compression: Compression,
    mut pieces: mpsc::Receiver<Bytes>,
) -> io::Result<Blob> {
    let file = BufWriter::new(File::create_new(path)?);
    let file = Hashed {
        file,
        hasher: Hasher::new(Algorithm::Sha256),
        size_bytes: 0,
    };
    let mut encoder = match compression {
        Compression::None => Encoder::Plain(file),
        // Without a name or a time in it: equal bytes in, equal bytes out.
        Compression::Gzip => Encoder::Gzip(GzEncoder::new(file, flate2::Compression::default())),
        Compression::Zstd => Encoder::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL)?),
    };
    let mut plain = Hasher::new(Algorithm::Sha256);
    while let Some(bytes) = pieces.blocking_recv() {
        plain.update(&bytes);
        encoder.write_all(&bytes)?;
    }
    let hashed = encoder.finish()?;
    drop(hashed.file.into_inner()?);
    Ok(Blob {
        digest: hashed.hasher.finish(),
        size_bytes: hashed.size_bytes,
        diff_id: plain.finish(),
    })
}

enum Encoder {
    Plain(Hashed),
    Gzip(GzEncoder<Hashed>),
    Zstd(zstd::Encoder<'static, Hashed>),
}

impl Encoder {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Hashed> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A file whose bytes are hashed on the way.
struct Hashed {
    file: BufWriter<File>,
    hasher: Hasher,
    size_bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
