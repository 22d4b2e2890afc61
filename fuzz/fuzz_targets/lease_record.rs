//! Any bytes as the object of a lease.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::LeaseRecord;
use nacre_fuzz::assert_canonical;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = LeaseRecord::decode(bytes) else {
        return;
    };
    let encoded = record.encode();
    assert_canonical(&encoded, bytes);
    assert_eq!(LeaseRecord::decode(&encoded), Ok(record));
});
