//! Any bytes as a note of what collection has condemned.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::Condemned;
use nacre_fuzz::assert_canonical;

fuzz_target!(|bytes: &[u8]| {
    let Ok(note) = Condemned::decode(bytes) else {
        return;
    };
    let encoded = note.encode();
    assert_canonical(&encoded, bytes);
    assert_eq!(Condemned::decode(&encoded), Ok(note));
});
