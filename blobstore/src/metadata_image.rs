//! Metadata images: the file system image that a node mounts for a tree, stored beside it.
//!
//! What is in one is for whoever mounts it to know; here it is bytes that belong to a tree. It is
//! derived: one that is lost is built again from the tree, at the price of reading all of it.
//!
//! ```text
//! envelope "META": tree id | plain length uvarint | zstd frame bytes
//!                  hints length uvarint | zstd frame of hints bytes
//! ```
//! Both frames are single ones, with windows of at most 8 MiB.
//!
//! The [hints](crate::Hints) of the tree's files travel with it: both are wanted when a start
//! begins, and are derived.

use std::io::{self, Read as _, Write};

use bytes::Bytes;

use crate::envelope::{self, EnvelopeError, OVERHEAD_BYTES};
use crate::frame::{FrameError, ZSTD_LEVEL};
use crate::hints::{HINTS_BYTES_MAX, Hints, HintsError};
use crate::wire::{Put, Truncated, Wire};
use crate::{BlobStore, Digest, Key, MetadataImageId, StoreError, TreeId};

/// Largest metadata image, in bytes: some five million entries.
pub const METADATA_IMAGE_BYTES_MAX: usize = 1 << 30;
/// The folder of all metadata images in a store.
pub(crate) const METADATA_FOLDER: &str = "metadata";
/// What zstd may add to bytes that it cannot compress, and the body's own fields.
const STORED_BYTES_MAX: usize = METADATA_IMAGE_BYTES_MAX + (METADATA_IMAGE_BYTES_MAX >> 8);
const STORED_HINTS_BYTES_MAX: usize = HINTS_BYTES_MAX + (HINTS_BYTES_MAX >> 6);

/// The most that zstd makes of a stored byte: a block of 128 KiB takes four bytes at least.
/// Source: RFC 8878, section 3.1.1.2.
const EXPANSION_MAX: usize = (128 << 10) / 4;

/// Most memory that a frame may want for what it refers back to, as a power of two: that of zstd's
/// level 19.
const WINDOW_LOG_MAX: u32 = 23;
/// Bytes that are decompressed at once.
const PIECE_BYTES: usize = 256 << 10;

/// Why a metadata image is refused.
#[derive(Debug, thiserror::Error)]
pub enum MetadataImageError {
    /// The envelope is damaged or of a later version.
    #[error("metadata image {id}: {source}")]
    Envelope {
        /// The image.
        id: MetadataImageId,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The bytes are not those of the image, or not of the tree, that was asked for.
    #[error("metadata image {id} holds another one")]
    Mismatch {
        /// The image asked for.
        id: MetadataImageId,
    },
    /// The body is not in the format.
    #[error("malformed metadata image: {0}")]
    Malformed(String),
    /// What it was to be written to refused.
    #[error("write metadata image: {0}")]
    Write(#[source] io::Error),
}

impl From<Truncated> for MetadataImageError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0.to_owned())
    }
}

impl From<FrameError> for MetadataImageError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<HintsError> for MetadataImageError {
    fn from(error: HintsError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A metadata image that was checked, as it is stored.
#[derive(Debug)]
pub struct MetadataImage {
    plain: Part,
    hints: Part,
}

/// Bytes that are stored as one zstd frame.
#[derive(Debug)]
struct Part {
    plain_bytes: u64,
    stored: Bytes,
}

impl MetadataImageId {
    /// Returns the key of the image.
    pub fn key(&self) -> Key {
        Key::new(format!("{METADATA_FOLDER}/{self}")).expect("hexadecimal digits make a key")
    }
}

/// Encodes the metadata image of a tree, with the hints of its files unless they are too large;
/// returns its id and the bytes to store. Equal input gives equal bytes.
///
/// # Errors
/// [`MetadataImageError::Malformed`] above [`METADATA_IMAGE_BYTES_MAX`].
pub fn encode_metadata_image(
    tree: TreeId,
    plain: &[u8],
    hints: &Hints,
) -> Result<(MetadataImageId, Vec<u8>), MetadataImageError> {
    if plain.len() > METADATA_IMAGE_BYTES_MAX {
        return Err(MetadataImageError::Malformed("it is too large".to_owned()));
    }
    let hints = hints.encode().unwrap_or_default();
    let mut body = tree.as_bytes().to_vec();
    for part in [plain, &hints] {
        let stored = zstd::bulk::compress(part, ZSTD_LEVEL)
            .map_err(|error| MetadataImageError::Malformed(error.to_string()))?;
        body.put_uvarint(part.len() as u64);
        body.put_bytes(&stored);
    }
    let (id, bytes) = envelope::seal(*b"META", &body);
    Ok((MetadataImageId::new(id), bytes))
}

impl MetadataImage {
    /// Checks the bytes that were read for the metadata image `id` of `tree`: that they are those
    /// that were stored, and within the limits. What is compressed stays so.
    ///
    /// # Errors
    /// [`MetadataImageError`] for damage, another image or a broken limit.
    pub fn open(
        tree: TreeId,
        id: MetadataImageId,
        bytes: impl Into<Bytes>,
    ) -> Result<Self, MetadataImageError> {
        let bytes = bytes.into();
        let opened = envelope::open(*b"META", &bytes);
        let (found, body) = opened.map_err(|source| MetadataImageError::Envelope { id, source })?;
        let mut wire = Wire::new(body);
        let found_tree = TreeId::new(Digest::from_bytes(wire.array()?));
        if !cfg!(fuzzing) && (found != *id.digest() || found_tree != tree) {
            return Err(MetadataImageError::Mismatch { id });
        }
        let mut part = |plain_bytes_max, stored_bytes_max| {
            Part::read(&bytes, &mut wire, plain_bytes_max, stored_bytes_max)
        };
        let plain = part(METADATA_IMAGE_BYTES_MAX, STORED_BYTES_MAX)?;
        let hints = part(HINTS_BYTES_MAX, STORED_HINTS_BYTES_MAX)?;
        wire.finish()?;
        Ok(Self { plain, hints })
    }

    /// Writes the file system image to `out`, in pieces and in order. Takes the memory of a frame's
    /// window, which is 2 MiB of what [`encode_metadata_image`] makes and 8 MiB at most.
    ///
    /// # Errors
    /// [`MetadataImageError::Malformed`], [`MetadataImageError::Write`]; then a part was written.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), MetadataImageError> {
        self.plain.write_to(out)
    }

    /// Returns the hints of the tree's files. Takes milliseconds for 10,000 files.
    ///
    /// # Errors
    /// [`MetadataImageError::Malformed`].
    pub fn hints(&self) -> Result<Hints, MetadataImageError> {
        let mut hints = Vec::new();
        self.hints.write_to(&mut hints)?;
        Ok(match hints.as_slice() {
            [] => Hints::default(),
            hints => Hints::decode(hints)?,
        })
    }
}

impl Part {
    /// Reads where a part of at most `plain_bytes_max` is, of which at most `stored_bytes_max` are
    /// stored.
    fn read(
        whole: &Bytes,
        wire: &mut Wire<'_>,
        plain_bytes_max: usize,
        stored_bytes_max: usize,
    ) -> Result<Self, MetadataImageError> {
        let plain_bytes = usize::try_from(wire.uvarint()?).unwrap_or(usize::MAX);
        if plain_bytes > plain_bytes_max {
            return Err(MetadataImageError::Malformed("it is too large".to_owned()));
        }
        let stored = wire.bytes(stored_bytes_max)?;
        if plain_bytes / EXPANSION_MAX > stored.len() {
            let reason = format!("{} stored bytes for {plain_bytes}", stored.len());
            return Err(MetadataImageError::Malformed(reason));
        }
        Ok(Self {
            plain_bytes: plain_bytes as u64,
            stored: whole.slice_ref(stored),
        })
    }

    fn write_to(&self, out: &mut dyn Write) -> Result<(), MetadataImageError> {
        let malformed = |error: io::Error| MetadataImageError::Malformed(error.to_string());
        let mut decoder = zstd::Decoder::with_buffer(&*self.stored).map_err(malformed)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(malformed)?;
        // One byte more tells a frame that is too long.
        let mut plain = decoder.single_frame().take(self.plain_bytes + 1);
        let mut piece = vec![0; PIECE_BYTES];
        let mut written = 0;
        loop {
            let read = plain.read(&mut piece).map_err(malformed)?;
            written += read as u64;
            if read == 0 || written > self.plain_bytes {
                break;
            }
            let done = out.write_all(&piece[..read]);
            done.map_err(MetadataImageError::Write)?;
        }
        if written != self.plain_bytes {
            let reason = format!("{written} bytes or more instead of {}", self.plain_bytes);
            return Err(MetadataImageError::Malformed(reason));
        }
        if !plain.into_inner().finish().is_empty() {
            return Err(MetadataImageError::Malformed(
                "bytes after a frame".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Fetches the bytes of a metadata image from a store, in one request, for
/// [`MetadataImage::open`] to check.
///
/// # Errors
/// [`StoreError::NotFound`] when it is not there; others of the store.
pub async fn fetch_metadata_image(
    store: &dyn BlobStore,
    id: MetadataImageId,
) -> Result<Bytes, StoreError> {
    let limit_bytes = (STORED_BYTES_MAX + OVERHEAD_BYTES) as u64;
    let (bytes, _) = store.get(&id.key(), limit_bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{ContentHint, ContentId};

    fn hints() -> Hints {
        let hint = ContentHint {
            size_bytes: 7,
            ..ContentHint::default()
        };
        Hints::new(
            BTreeMap::from([(ContentId::new(Digest::of(b"a")), hint)]),
            &[],
        )
    }

    fn encode(tree: TreeId, plain: &[u8]) -> (MetadataImageId, Vec<u8>) {
        encode_metadata_image(tree, plain, &hints()).unwrap()
    }

    fn decode(
        tree: TreeId,
        id: MetadataImageId,
        bytes: &[u8],
    ) -> Result<(Vec<u8>, Hints), MetadataImageError> {
        let image = MetadataImage::open(tree, id, bytes.to_vec())?;
        let mut plain = Vec::new();
        image.write_to(&mut plain)?;
        Ok((plain, image.hints()?))
    }

    #[test]
    fn round_trips_and_refuses_every_cut_another_id_and_another_tree() {
        let tree = TreeId::new(Digest::of(b"tree"));
        let plain = b"image ".repeat(1000);
        let (id, bytes) = encode(tree, &plain);
        assert_eq!(encode(tree, &plain).0, id);
        assert!(bytes.len() < plain.len() / 2);
        assert_eq!(decode(tree, id, &bytes).unwrap(), (plain, hints()));
        for end in 0..bytes.len() {
            assert!(decode(tree, id, &bytes[..end]).is_err());
        }
        let other = MetadataImageId::new(Digest::of(b"other"));
        let error = decode(tree, other, &bytes).unwrap_err();
        assert!(matches!(error, MetadataImageError::Mismatch { .. }));
        let error = decode(TreeId::new(Digest::of(b"x")), id, &bytes).unwrap_err();
        assert!(matches!(error, MetadataImageError::Mismatch { .. }));
    }

    #[test]
    fn a_length_that_is_not_the_frames_is_refused_without_allocating_it() {
        let tree = TreeId::new(Digest::of(b"tree"));
        let largest = METADATA_IMAGE_BYTES_MAX as u64;
        for claimed in [0, 4, 6, largest, largest + 1, u64::MAX] {
            let mut body = tree.as_bytes().to_vec();
            body.put_uvarint(claimed);
            body.put_bytes(&zstd::bulk::compress(b"plain", ZSTD_LEVEL).unwrap());
            body.put_uvarint(0);
            body.put_bytes(&[]);
            let (id, bytes) = envelope::seal(*b"META", &body);
            let id = MetadataImageId::new(id);
            let error = decode(tree, id, &bytes).unwrap_err();
            assert!(
                matches!(error, MetadataImageError::Malformed(_)),
                "{claimed}"
            );
            let before_zstd = error.to_string().contains("stored bytes for");
            assert_eq!(before_zstd, claimed == largest, "{error}");
        }
    }

    #[test]
    fn what_compresses_best_is_within_the_expansion() {
        let tree = TreeId::new(Digest::of(b"tree"));
        let plain = vec![0; 16 << 20];
        let (id, bytes) = encode(tree, &plain);
        assert!(decode(tree, id, &bytes).unwrap().0 == plain);
    }
}
