//! Any bytes as hints.
//!
//! Invariants: no panic; what decodes encodes to the same bytes; and all that is asked for is given out.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Hints, HintsWalk};

fuzz_target!(|bytes: &[u8]| {
    let Ok(hints) = Hints::decode(bytes) else {
        return;
    };
    assert_eq!(hints.encode().as_deref(), Some(bytes));
    let mut walk = HintsWalk::default();
    let mut given = HashSet::new();
    for content in hints.contents() {
        let hinted = hints.read_with(content, &mut walk, 1 << 20);
        given.extend(hinted.iter().map(|hinted| hinted.content));
        assert!(given.contains(&content));
    }
    assert_eq!(given.len(), hints.len());
});
