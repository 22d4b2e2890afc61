//! Any bytes as a stored frame, with any lengths of its items.
//!
//! Invariants: no panic; memory bounded by `FRAME_BYTES_MAX` whatever the lengths and the frame's own
//! header claim; and a frame that decodes has each item with exactly the length that its index
//! says, nothing between the items and nothing after them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{FRAME_BYTES_MAX, UnverifiedBytes, decompress};
use nacre_fuzz::split_frame;

fuzz_target!(|bytes: &[u8]| {
    let Some((entry, stored)) = split_frame(bytes) else {
        return;
    };
    let Ok(frame) = entry.decode(UnverifiedBytes::new(stored.to_vec().into())) else {
        return;
    };
    assert!(frame.plain_bytes() <= FRAME_BYTES_MAX);
    let plain = decompress(stored, entry.plain_bytes()).expect("it was decompressed before");
    let mut start = 0;
    for (number, item) in (0_u32..).zip(&entry.items) {
        let end = start + item.len_bytes as usize;
        let bytes = frame
            .item(number)
            .expect("the index lists it")
            .into_untrusted();
        assert_eq!(bytes, plain[start..end]);
        start = end;
    }
    assert_eq!(start, frame.plain_bytes());
    assert!(frame.item(entry.items.len() as u32).is_none());
    assert!(decompress(stored, start + 1).is_err());
});
