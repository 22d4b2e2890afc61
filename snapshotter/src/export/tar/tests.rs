use nacre_blobstore::Xattr;
use proptest::prelude::*;

use super::*;
use crate::layer::{EntryKind, EntrySource as _, LayerEntry, LayerLimits, TarReader};

/// Reads one entry back as images are read.
fn read(bytes: &[u8]) -> LayerEntry {
    let mut reader = TarReader::new(bytes, "layer", LayerLimits::default());
    let entry = reader.next_entry().unwrap().unwrap();
    assert!(reader.next_entry().unwrap().is_none());
    entry
}

fn plain() -> Attributes {
    Attributes {
        mode: 0o644,
        ..Attributes::default()
    }
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..2_u32, 2_097_150..2_097_154_u32, any::<u32>()]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let seconds = prop_oneof![
        -3..3_i64,
        8_589_934_590..8_589_934_594_i64,
        -(1_i64 << 40)..1 << 40
    ];
    let nanoseconds = prop_oneof![Just(0), Just(1), 0..1_000_000_000_u32];
    let name = prop_oneof!["user\\.[a-z]{1,3}", "trusted\\.overlay\\.[a-z]{1,3}"];
    let xattrs =
        prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..300), 0..3);
    let all = (
        0..=0o7777_u16,
        number(),
        number(),
        seconds,
        nanoseconds,
        xattrs,
    );
    all.prop_map(
        |(mode, uid, gid, seconds, nanoseconds, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime: Timestamp {
                seconds,
                nanoseconds,
            },
            xattrs: xattrs
                .into_iter()
                .map(|(name, value)| Xattr {
                    name: name.into_bytes().into(),
                    value: value.into(),
                })
                .collect(),
        },
    )
}

/// Names of all bytes, short and longer than a field.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| {
        if matches!(byte, 0 | b'/' | b'.') {
            b'x'
        } else {
            byte
        }
    });
    let name = prop::collection::vec(byte, 1..120);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
    prop_oneof!["[a-z]{98,102}".prop_map(String::into_bytes), path]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        path in path(), target in path(), attributes in attributes(),
        major in number(), minor in number(), which in 0..7_usize,
    ) {
        let device = Device { major, minor };
        let (kind, expected) = match which {
            0 => (Kind::File { size_bytes: 0 }, EntryKind::File { size_bytes: 0 }),
            1 => (Kind::Directory, EntryKind::Directory),
            2 => (Kind::Symlink(&target), EntryKind::Symlink(target.clone().into())),
            3 => (Kind::CharDevice(device), EntryKind::CharDevice(device)),
            4 => (Kind::BlockDevice(device), EntryKind::BlockDevice(device)),
            5 => (Kind::Fifo, EntryKind::Fifo),
            _ => (Kind::HardLink(&target), EntryKind::Fifo),
        };
        let bytes = header(&path, kind, &attributes).unwrap();
        prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        prop_assert_eq!(&bytes, &header(&path, kind, &attributes).unwrap());
        let found = read(&bytes);
        prop_assert_eq!(found.path.as_bytes(), &path[..]);
        match found.kind {
            EntryKind::HardLink(found) => prop_assert_eq!(found.as_bytes(), &target[..]),
            kind => {
                prop_assert_eq!(kind, expected);
                prop_assert_eq!(found.attributes, attributes);
            }
        }
    }
}

#[test]
fn sizes_beyond_eight_gigabytes_are_extended_records() {
    let kind = Kind::File {
        size_bytes: 9 << 30,
    };
    let bytes = header(b"large", kind, &plain()).unwrap();
    let mut reader = TarReader::new(&bytes[..], "layer", LayerLimits::default());
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(
        entry.kind,
        EntryKind::File {
            size_bytes: 9 << 30
        }
    );
}

#[test]
fn an_ordinary_entry_is_one_block() {
    let bytes = header(b"etc/passwd", Kind::File { size_bytes: 5 }, &plain()).unwrap();
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(&bytes[..11], b"etc/passwd\0");
    assert_eq!(
        header(b"", Kind::Directory, &plain()).unwrap()[..3],
        *b"./\0"
    );
    assert_eq!(
        [0, 1, 511, 512, 513].map(padding_bytes),
        [0, 511, 1, 0, 511]
    );
}

#[test]
fn lengths_of_records_count_themselves() {
    // The length gains a digit by its own digits.
    for len in 80..120 {
        let record = record(b"k", &vec![b'v'; len]);
        let digits = record.iter().position(|byte| *byte == b' ').unwrap();
        let stated: usize = std::str::from_utf8(&record[..digits])
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(stated, record.len());
    }
}

#[test]
fn an_attribute_that_no_record_can_name_is_refused() {
    let mut attributes = plain();
    attributes.xattrs.push(Xattr {
        name: b"user.a=b".as_slice().into(),
        value: b"v".as_slice().into(),
    });
    assert!(header(b"f", Kind::File { size_bytes: 0 }, &attributes).is_err());
}
