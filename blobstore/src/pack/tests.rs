use super::*;
use crate::frame::compress;
use crate::{ContentId, Digest, TreeId};

fn pack(kind: PackKind) -> FinishedPack {
    pack_with(kind, |plain| compress(plain).unwrap())
}

fn pack_with(kind: PackKind, compress: impl Fn(&[u8]) -> Vec<u8>) -> FinishedPack {
    let mut pack = PackBuilder::new(kind);
    for frame in 0..3_u8 {
        let plain: Vec<Vec<u8>> = (0..4_u8)
            .map(|i| vec![frame * 16 + i; usize::from(i)])
            .collect();
        let items: Vec<(Item, u32)> = plain
            .iter()
            .map(|bytes| {
                let hash = Digest::of(bytes);
                let kind = match (kind, bytes.len()) {
                    (PackKind::Data, _) => ItemKind::Chunk(crate::ChunkId::new(hash)),
                    (PackKind::Tree, 2) => ItemKind::ChunkList(ContentId::new(Digest::of(b"c"))),
                    (PackKind::Tree, _) => ItemKind::Tree(TreeId::new(hash)),
                };
                (Item { kind, hash }, u32::try_from(bytes.len()).unwrap())
            })
            .collect();
        pack.push_frame(&compress(&plain.concat()), &items);
    }
    pack.finish()
}

#[test]
fn index_round_trips_and_locates_every_item() {
    for kind in PackKind::ALL {
        let pack = pack(kind);
        let decoded = PackIndex::decode(pack.name, &pack.index_bytes).unwrap();
        assert_eq!(decoded, pack.index);
        assert_eq!(decoded.items().count(), 12);
        assert_eq!(
            decoded.pack_bytes(pack.index_bytes.len() as u64),
            pack.bytes.len() as u64
        );
        for (frame_no, item_no, item) in decoded.items() {
            let frame = &decoded.frames()[frame_no as usize];
            let range = frame.range();
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let stored = crate::UnverifiedBytes::new(pack.bytes[range].to_vec().into());
            let bytes = frame
                .decode(stored)
                .unwrap()
                .item(item_no)
                .unwrap()
                .into_untrusted();
            assert_eq!(Digest::of(&bytes), item.hash);
        }
    }
}

#[test]
fn the_trailer_finds_the_index_and_lies_are_refused() {
    let pack = pack(PackKind::Data);
    let total = pack.bytes.len() as u64;
    let trailer = &pack.bytes[pack.bytes.len() - 8..];
    let len = PackIndex::length_in_trailer(trailer, total).unwrap();
    assert_eq!(len, pack.index_bytes.len() as u64);
    assert!(PackIndex::length_in_trailer(trailer, len).is_err());
    assert!(PackIndex::length_in_trailer(&[0xff; 8], total).is_err());
    assert!(PackIndex::length_in_trailer(&trailer[1..], total).is_err());
}

#[test]
fn an_index_of_another_pack_is_refused() {
    let (one, two) = (pack(PackKind::Data), pack(PackKind::Tree));
    let error = PackIndex::decode(two.name, &one.index_bytes).unwrap_err();
    assert_eq!(
        error,
        PackIndexError::Mismatch {
            expected: two.name.id
        }
    );
}

#[test]
fn names_are_read_off_their_keys() {
    let name = pack(PackKind::Tree).name;
    assert_eq!(PackName::from_key(&name.key()), Some(name));
    assert_eq!(PackName::from_key(&name.index_key()), Some(name));
    let other = Key::new(format!("refs/{}", name.id)).unwrap();
    assert_eq!(PackName::from_key(&other), None);
}

/// The encodings of fixed input must never change: stores written by one version are read by all
/// later ones. Frames stay plain here, because zstd may compress better one day.
#[test]
fn golden_ids() {
    let id = |kind| pack_with(kind, <[u8]>::to_vec).name.id.to_string();
    assert_eq!(
        id(PackKind::Data),
        "467a00be104fd15037cd5ffd9438f221b60c5a73e791c573dccf1e68cb3a6620"
    );
    assert_eq!(
        id(PackKind::Tree),
        "0717319c56c2a3f869eacee8951b72ff946ae6ddcfcc68de05100921d1254b32"
    );
}
