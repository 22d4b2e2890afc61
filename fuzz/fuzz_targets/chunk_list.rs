//! Any bytes as an encoded chunk list.
//!
//! Invariants: no panic; memory in proportion to the input; what decodes is canonical, so it encodes
//! to the same bytes; extents follow each other without gap, none empty or above the limit; and
//! `overlapping` finds exactly the extents of a range.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{CHUNK_BYTES_MAX, ChunkList};

fuzz_target!(|bytes: &[u8]| {
    let Ok(list) = ChunkList::decode(bytes) else {
        return;
    };
    assert_eq!(list.encode().as_deref(), Ok(bytes));
    let mut end_bytes = 0;
    for (number, extent) in list.extents().iter().enumerate() {
        assert_eq!(extent.offset_bytes, end_bytes);
        assert!(extent.len_bytes > 0 && extent.len_bytes as usize <= CHUNK_BYTES_MAX);
        assert_eq!(list.overlapping(end_bytes, 1), number..number + 1);
        end_bytes = extent.end_bytes();
        assert_eq!(list.overlapping(end_bytes - 1, 1), number..number + 1);
    }
    assert_eq!(list.size_bytes(), end_bytes);
    assert_eq!(list.overlapping(0, u64::MAX), 0..list.extents().len());
    assert!(list.overlapping(end_bytes, 1).is_empty());
});
