//! What the targets and the maker of their seeds share.

pub mod file_system;

use std::ops::Range;

use nacre_blobstore::{
    Digest, FrameEntry, FrameItem, Hints, MetadataImage, MetadataImageError, MetadataImageId, TreeId,
};

/// The `compat` and `ro_compat` words of an envelope, which a reader ignores.
const IGNORED_WORDS: Range<usize> = 10..18;
/// Items of one frame in the input of the `frame` target.
const FRAME_ITEMS_MAX: usize = 64;

/// Asserts that an object in its envelope re-encodes to itself, apart from the feature words that
/// decoding ignores and the checksum, which is not checked under `cfg(fuzzing)`.
///
/// # Panics
/// When it does not.
pub fn assert_canonical(encoded: &[u8], original: &[u8]) {
    let comparable = |object: &[u8]| {
        let mut object = object[..object.len() - Digest::LEN].to_vec();
        object[IGNORED_WORDS].fill(0);
        object
    };
    assert_eq!(comparable(encoded), comparable(original));
}

/// Reads the metadata image `id` of `tree` whole.
///
/// # Errors
/// Those of reading it.
pub fn decode_metadata_image(
    tree: TreeId,
    id: MetadataImageId,
    bytes: &[u8],
) -> Result<(Vec<u8>, Hints), MetadataImageError> {
    let image = MetadataImage::open(tree, id, bytes.to_vec())?;
    let mut plain = Vec::new();
    image.write_to(&mut plain)?;
    Ok((plain, image.hints()?))
}

/// Reads the input of the `frame` target: the number of items in a byte, their lengths as
/// little-endian `u32`, and the stored frame.
pub fn split_frame(input: &[u8]) -> Option<(FrameEntry, &[u8])> {
    let (count, mut rest) = input.split_first()?;
    let mut items = Vec::new();
    for _ in 0..usize::from(*count).min(FRAME_ITEMS_MAX) {
        let (len_bytes, after) = rest.split_first_chunk()?;
        let len_bytes = u32::from_le_bytes(*len_bytes);
        items.push(FrameItem {
            hash: Digest::of(b""),
            len_bytes,
        });
        rest = after;
    }
    let stored_bytes = u32::try_from(rest.len()).ok()?;
    Some((
        FrameEntry {
            offset_bytes: 0,
            stored_bytes,
            hash: Digest::of(b""),
            items,
        },
        rest,
    ))
}

/// Makes an input that [`split_frame`] reads; `None` when the frame has too many items.
pub fn join_frame(entry: &FrameEntry, stored: &[u8]) -> Option<Vec<u8>> {
    let count = u8::try_from(entry.items.len()).ok()?;
    let mut input = vec![count];
    for item in &entry.items {
        input.extend(item.len_bytes.to_le_bytes());
    }
    input.extend(stored);
    (usize::from(count) <= FRAME_ITEMS_MAX).then_some(input)
}
