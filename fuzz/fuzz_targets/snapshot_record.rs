//! Any bytes as what the record of a snapshot says of it.
//!
//! Invariants: no panic; and what decodes, encodes to what decodes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_snapshotter::SnapshotPayload;

fuzz_target!(|bytes: &[u8]| {
    let Ok(payload) = SnapshotPayload::decode("fuzz", bytes) else {
        return;
    };
    let again = SnapshotPayload::decode("fuzz", &payload.encode());
    assert_eq!(again.ok(), Some(payload));
});
