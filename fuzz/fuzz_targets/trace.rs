//! Any bytes as a trace, and as a trace in a file of its own.
//!
//! Invariants: no panic; memory in proportion to the input; what decodes is canonical, or of the first
//! form and the same trace when it is written in the second; and it has no empty range, none outside
//! its content, and no more entries than are encoded.

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

/// The first form, and where it stands in a file.
const FIRST: &[u8] = b"NTC1";
const FILE_HEADER_BYTES: usize = 30;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(trace) = Trace::decode(bytes) {
        let written = trace.encode();
        if bytes.starts_with(FIRST) {
            assert_eq!(Trace::decode(&written).unwrap(), trace);
        } else {
            assert_eq!(written, bytes);
        }
        check(&trace);
    }
    if let Ok(trace) = Trace::from_file(bytes) {
        let written = trace.to_file();
        if bytes[FILE_HEADER_BYTES..].starts_with(FIRST) {
            assert_eq!(Trace::from_file(&written).unwrap(), trace);
        } else {
            assert_canonical(&written, bytes);
        }
        check(&trace);
    }
});
