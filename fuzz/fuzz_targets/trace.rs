//! Any bytes as a trace, and as a trace in a file of its own.
//!
//! Invariants: no panic; memory in proportion to the input; what decodes is canonical; and it has no
//! empty range, none outside its content, and no more entries than are encoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{TRACE_ENTRIES_MAX, Trace, Traced};
use nacre_fuzz::assert_canonical;

fn check(trace: &Trace) {
    assert!(trace.entries.len() <= TRACE_ENTRIES_MAX);
    for entry in &trace.entries {
        if let Traced::Content {
            size_bytes,
            offset_bytes,
            len_bytes,
            ..
        } = entry.what
        {
            assert!(len_bytes > 0 && len_bytes <= size_bytes);
            assert!(offset_bytes <= size_bytes - len_bytes);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(trace) = Trace::decode(bytes) {
        assert_eq!(trace.encode(), bytes);
        check(&trace);
    }
    if let Ok(trace) = Trace::from_file(bytes) {
        assert_canonical(&trace.to_file(), bytes);
        check(&trace);
    }
});
