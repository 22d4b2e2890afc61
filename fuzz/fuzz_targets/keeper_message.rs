//! Any bytes as a message between a daemon and the keeper of its session.
//!
//! Invariants: no panic; memory in proportion to the input; and what decodes is canonical.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_fs::testing::recode_keeper_message;

fuzz_target!(|bytes: &[u8]| {
    if let Some(encoded) = recode_keeper_message(bytes) {
        assert_eq!(encoded, bytes);
    }
});
