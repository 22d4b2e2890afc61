//! Any bytes as the metadata image of a tree.
//!
//! Invariants: no panic; memory in proportion to the input whatever it claims, by the most that zstd
//! can make of a byte; and what decodes decodes to the same when it is encoded anew. What is in the
//! image is for the kernel to read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Digest, MetadataImageId, TreeId, encode_metadata_image};
use nacre_fuzz::decode_metadata_image;

/// The most that zstd makes of a byte, and with it the longest input whose image fits the memory
/// that a target has.
const EXPANSION_MAX: usize = 32 << 10;
const INPUT_BYTES_MAX: usize = 1 << 10;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > INPUT_BYTES_MAX {
        return;
    }
    let tree = TreeId::new(Digest::of(b""));
    let any_id = MetadataImageId::new(Digest::of(b""));
    let Ok((plain, hints)) = decode_metadata_image(tree, any_id, bytes) else {
        return;
    };
    assert!(plain.len() <= bytes.len() * EXPANSION_MAX);
    let (id, encoded) = encode_metadata_image(tree, &plain, &hints).expect("it is within the limit");
    let decoded = decode_metadata_image(tree, id, &encoded).expect("it was just encoded");
    assert_eq!(decoded, (plain, hints));
});
