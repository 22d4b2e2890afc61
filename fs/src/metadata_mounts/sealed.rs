//! The file of a metadata image on the disk: the image, and after it the BLAKE3 of all before.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use nacre_blobstore::{Digest, METADATA_IMAGE_BYTES_MAX, MetadataImageError};

/// Bytes that are handed to the writing thread at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for the writing thread.
const PIECES_MAX: usize = 4;

/// Writes what `image` writes to the file `path`, and after it its BLAKE3. A second thread writes:
/// the pages of a file may take as long as decompressing what is in them. Takes the memory of six
/// pieces, 1.5 MiB.
///
/// # Errors
/// [`MetadataImageError::Write`] when the disk refuses, and those of `image`; then the file is torn
/// and [not right](is_right).
pub(super) fn write_sealed(
    path: &Path,
    image: impl FnOnce(&mut dyn Write) -> Result<(), MetadataImageError>,
) -> Result<(), MetadataImageError> {
    let file = File::create(path).map_err(MetadataImageError::Write)?;
    let (pieces, to_write) = mpsc::sync_channel(PIECES_MAX);
    let (written, used) = mpsc::channel();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("metadata-image".to_owned());
        let writing = thread.spawn_scoped(scope, move || write_pieces(file, to_write, &written));
        let writing = writing.map_err(MetadataImageError::Write)?;
        let mut sealing = Sealing {
            pieces,
            used,
            hasher: blake3::Hasher::new(),
        };
        let sealed = image(&mut sealing).and_then(|()| {
            let digest = sealing.hasher.finalize();
            let sealed = sealing.write_all(digest.as_bytes());
            sealed.map_err(MetadataImageError::Write)
        });
        drop(sealing);
        // What the disk said is why nobody took the pieces.
        let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
        written.map_err(MetadataImageError::Write).and(sealed)
    })
}

fn write_pieces(
    mut file: File,
    pieces: Receiver<Vec<u8>>,
    written: &Sender<Vec<u8>>,
) -> io::Result<()> {
    for piece in pieces {
        file.write_all(&piece)?;
        // Nobody wants it after the last one.
        drop(written.send(piece));
    }
    Ok(())
}

/// Hashes what is written while it is in the processor's cache, and hands it on.
struct Sealing {
    pieces: SyncSender<Vec<u8>>,
    /// Pieces that were written, whose memory is used again.
    used: Receiver<Vec<u8>>,
    hasher: blake3::Hasher,
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE_BYTES)];
        self.hasher.update(bytes);
        let mut piece = self.used.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(bytes);
        let sent = self.pieces.send(piece);
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells whether an image is on the disk and as it was written. One that is not is removed.
pub(super) fn is_right(path: &Path) -> bool {
    let right = match read_checked(path) {
        Ok(right) => right,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(_) => false,
    };
    if !right {
        tracing::warn!(path = %path.display(), "drop a damaged metadata image");
        drop(fs::remove_file(path));
    }
    right
}

fn read_checked(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(image_bytes) = length.checked_sub(Digest::LEN as u64) else {
        return Ok(false);
    };
    if image_bytes > METADATA_IMAGE_BYTES_MAX as u64 {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&mut file).take(image_bytes))?;
    let mut digest = [0; Digest::LEN];
    file.read_exact(&mut digest)?;
    Ok(digest == *hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_many_pieces_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        for length in [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 1, 20 * PIECE_BYTES] {
            let image: Vec<u8> = (0..251).cycle().take(length).collect();
            write_sealed(&path, |out| {
                out.write_all(&image).map_err(MetadataImageError::Write)
            })
            .unwrap();
            let written = fs::read(&path).unwrap();
            let (plain, digest) = written.split_last_chunk().unwrap();
            assert!(plain == image && Digest::of(&image).as_bytes() == digest);
            assert!(is_right(&path));
        }
    }

    #[test]
    fn what_the_disk_says_is_the_error() {
        let image = vec![0; 20 * PIECE_BYTES];
        let written = write_sealed(Path::new("/dev/full"), |out| {
            out.write_all(&image).map_err(MetadataImageError::Write)
        });
        match written.unwrap_err() {
            MetadataImageError::Write(error) => {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            }
            other => panic!("{other}"),
        }
    }
}
