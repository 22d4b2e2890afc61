//! Any bytes as hints.
//!
//! Invariants: no panic; what decodes encodes to the same bytes; and nothing is given out twice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Hints, HintsWalk};

fuzz_target!(|bytes: &[u8]| {
    let Ok(hints) = Hints::decode(bytes) else {
        return;
    };
    assert_eq!(hints.encode().as_deref(), Some(bytes));
    let mut walk = HintsWalk::default();
    let mut given = 0;
    for content in hints.contents() {
        given += hints.read_with(content, &mut walk, 1 << 20).len();
    }
    // Each was asked for, and what is asked for is given out unless it was before.
    assert_eq!(given, hints.len());
});
