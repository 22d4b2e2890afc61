//! Any bytes as a record.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Digest, Record, RecordId};
use nacre_fuzz::assert_canonical;

fuzz_target!(|bytes: &[u8]| {
    let any_id = RecordId::new(Digest::of(b""));
    let Ok(record) = Record::decode(any_id, bytes) else {
        return;
    };
    let (id, encoded) = record.encode();
    assert_canonical(&encoded, bytes);
    assert_eq!(Record::decode(id, &encoded).ok(), Some(record));
});
