//! Metadata images: the file system image that a node mounts for a tree, stored beside it.
//!
//! What is in one is for whoever mounts it to know; here it is bytes that belong to a tree. It is
//! derived: one that is lost is built again from the tree, at the price of reading all of it.
//!
//! ```text
//! envelope "META": tree id | plain length uvarint | zstd frame bytes
//!                  hints length uvarint | zstd frame of hints bytes
//! ```
//! The [hints](crate::Hints) of the tree's files travel with it: both are wanted when a start
//! begins, and are derived.

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

/// A metadata image that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataImage {
    /// The file system image.
    pub plain: Vec<u8>,
    /// What is read with which of its files.
    pub hints: Hints,
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

/// Decodes the bytes that were read for the metadata image `id` of `tree`. Allocates what they
/// can hold at most, and no more than [`METADATA_IMAGE_BYTES_MAX`] and [`HINTS_BYTES_MAX`].
///
/// # Errors
/// [`MetadataImageError`] for damage, another image or a broken limit.
pub fn decode_metadata_image(
    tree: TreeId,
    id: MetadataImageId,
    bytes: &[u8],
) -> Result<MetadataImage, MetadataImageError> {
    let opened = envelope::open(*b"META", bytes);
    let (found, body) = opened.map_err(|source| MetadataImageError::Envelope { id, source })?;
    let mut wire = Wire::new(body);
    let found_tree = TreeId::new(Digest::from_bytes(wire.array()?));
    if !cfg!(fuzzing) && (found != *id.digest() || found_tree != tree) {
        return Err(MetadataImageError::Mismatch { id });
    }
    let plain = decompress(&mut wire, METADATA_IMAGE_BYTES_MAX, STORED_BYTES_MAX)?;
    let hints = decompress(&mut wire, HINTS_BYTES_MAX, STORED_HINTS_BYTES_MAX)?;
    wire.finish()?;
    let hints = match hints.as_slice() {
        [] => Hints::default(),
        hints => Hints::decode(hints)?,
    };
    Ok(MetadataImage { plain, hints })
}

/// Reads a part of at most `plain_bytes_max`, of which at most `stored_bytes_max` are stored.
fn decompress(
    wire: &mut Wire<'_>,
    plain_bytes_max: usize,
    stored_bytes_max: usize,
) -> Result<Vec<u8>, MetadataImageError> {
    let plain_bytes = usize::try_from(wire.uvarint()?).unwrap_or(usize::MAX);
    if plain_bytes > plain_bytes_max {
        return Err(MetadataImageError::Malformed("it is too large".to_owned()));
    }
    let malformed = |error: std::io::Error| MetadataImageError::Malformed(error.to_string());
    let stored = wire.bytes(stored_bytes_max)?;
    if plain_bytes / EXPANSION_MAX > stored.len() {
        let reason = format!("{} stored bytes for {plain_bytes}", stored.len());
        return Err(MetadataImageError::Malformed(reason));
    }
    let plain = zstd::bulk::decompress(stored, plain_bytes).map_err(malformed)?;
    if plain.len() != plain_bytes {
        let reason = format!("{} bytes instead of {plain_bytes}", plain.len());
        return Err(MetadataImageError::Malformed(reason));
    }
    Ok(plain)
}

/// Fetches the bytes of a metadata image from a store, in one request, for
/// [`decode_metadata_image`] to check.
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

    #[test]
    fn round_trips_and_refuses_every_cut_another_id_and_another_tree() {
        let tree = TreeId::new(Digest::of(b"tree"));
        let plain = b"image ".repeat(1000);
        let (id, bytes) = encode(tree, &plain);
        assert_eq!(encode(tree, &plain).0, id);
        assert!(bytes.len() < plain.len() / 2);
        let decoded = decode_metadata_image(tree, id, &bytes).unwrap();
        assert_eq!((decoded.plain, decoded.hints), (plain, hints()));
        for end in 0..bytes.len() {
            assert!(decode_metadata_image(tree, id, &bytes[..end]).is_err());
        }
        let other = MetadataImageId::new(Digest::of(b"other"));
        let error = decode_metadata_image(tree, other, &bytes).unwrap_err();
        assert!(matches!(error, MetadataImageError::Mismatch { .. }));
        let error = decode_metadata_image(TreeId::new(Digest::of(b"x")), id, &bytes).unwrap_err();
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
            let error = decode_metadata_image(tree, id, &bytes).unwrap_err();
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
        assert_eq!(
            decode_metadata_image(tree, id, &bytes).unwrap().plain,
            plain
        );
    }
}
