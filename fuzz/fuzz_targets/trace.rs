//! Any bytes as a trace.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::Trace;

fuzz_target!(|bytes: &[u8]| {
    let Ok(trace) = Trace::decode(bytes) else {
        return;
    };
    assert_eq!(trace.encode(), bytes);
});
