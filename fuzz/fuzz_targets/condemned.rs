//! Any bytes as a note of what collection has condemned, and as one of what moved.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Condemned, Moved};
use nacre_fuzz::assert_canonical;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = Condemned::decode(bytes) {
        let encoded = note.encode();
        assert_canonical(&encoded, bytes);
        assert_eq!(Condemned::decode(&encoded), Ok(note));
    }
    if let Ok(note) = Moved::decode(bytes) {
        let encoded = note.encode();
        assert_canonical(&encoded, bytes);
        assert_eq!(Moved::decode(&encoded), Ok(note));
    }
});
