//! Any bytes as the index of a pack.
//!
//! Invariants: no panic; memory in proportion to the input; what decodes is canonical; frames
//! follow each other without gap and hold at most `FRAME_BYTES_MAX` plain bytes; every listed item
//! comes out once, of a kind that its pack may hold; and the pack's keys lead back to its name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{FRAME_BYTES_MAX, ItemKind, PackIndex, PackKind, PackName};
use nacre_fuzz::assert_canonical;

/// Length of what comes before the first frame.
const PACK_HEAD_BYTES: u64 = 8;

fuzz_target!(|bytes: &[u8]| {
    let Ok((name, index)) = PackIndex::decode_unnamed(bytes) else {
        return;
    };
    assert_eq!(name.kind, index.kind());
    assert_eq!(PackName::from_key(&name.key()), Some(name));
    assert_eq!(PackName::from_key(&name.index_key()), Some(name));

    let (sealed_name, encoded) = index.encode();
    assert_canonical(&encoded, bytes);
    assert_eq!(
        PackIndex::decode(sealed_name, &encoded).as_ref(),
        Ok(&index)
    );

    let mut offset_bytes = PACK_HEAD_BYTES;
    for frame in index.frames() {
        assert_eq!(frame.range().start, offset_bytes);
        assert!(!frame.items.is_empty() && frame.plain_bytes() <= FRAME_BYTES_MAX);
        offset_bytes = frame.range().end;
    }

    let mut items = index.items();
    for (frame_number, frame) in (0..).zip(index.frames()) {
        for (item_number, item) in (0..).zip(&frame.items) {
            let (frame, number, found) = items.next().expect("the frame lists it");
            assert_eq!(
                (frame, number, found.hash),
                (frame_number, item_number, item.hash)
            );
            match found.kind {
                ItemKind::Chunk(id) => {
                    assert_eq!((name.kind, *id.digest()), (PackKind::Data, item.hash));
                }
                ItemKind::Tree(id) => {
                    assert_eq!((name.kind, *id.digest()), (PackKind::Tree, item.hash));
                }
                ItemKind::ChunkList(_) => assert_eq!(name.kind, PackKind::Tree),
            }
        }
    }
    assert!(items.next().is_none());
});
