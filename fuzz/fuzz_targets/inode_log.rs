//! Any bytes as the log of the inodes that the kernel knows.
//!
//! Invariants: no panic; memory in proportion to the input; what is not read is the end; a log that
//! is resumed is no longer than it was; and what it says then is the same without the end, and whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_fs::testing::recode_inode_log;

/// Where the header names the session.
const SESSION: std::ops::Range<usize> = 10..18;

fuzz_target!(|bytes: &[u8]| {
    let session = bytes.get(SESSION).and_then(|word| word.first_chunk());
    let Some(session) = session.map(|word| u64::from_le_bytes(*word)) else {
        return;
    };
    assert_eq!(recode_inode_log(bytes, !session), None);
    let Some((resumed, torn_bytes)) = recode_inode_log(bytes, session) else {
        return;
    };
    let read = &bytes[..bytes.len() - torn_bytes];
    assert!(resumed.len() <= read.len());
    let whole = Some((resumed, 0));
    assert_eq!(recode_inode_log(read, session), whole);
    let again = whole
        .as_ref()
        .and_then(|(log, _)| recode_inode_log(log, session));
    assert_eq!(again, whole);
});
