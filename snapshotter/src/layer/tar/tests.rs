//! What each dialect writes, byte by byte, and how the stream is read.

use std::io::{self, Read};

use nacre_blobstore::Xattr;

use proptest::prelude::*;

use super::archive::{Archive, malformed, one, read, seal};
use super::*;
use crate::layer::tests::read_all;

fn path(raw: &str) -> LayerPath {
    LayerPath::parse(raw.as_bytes(), &LayerLimits::default()).unwrap()
}

#[test]
fn an_empty_stream_and_missing_or_trailing_ends_are_tolerated() {
    assert_eq!(read(b"").unwrap(), []);
    assert_eq!(read(&[0; 512]).unwrap(), []);
    let whole = Archive::default().entry(b'0', "a", b"data").finish();
    let expected = read(&whole).unwrap();
    assert_eq!(expected[0].1, b"data");
    assert_eq!(read(&whole[..1024]).unwrap(), expected);
    assert_eq!(read(&whole[..1536]).unwrap(), expected);
    assert_eq!(read(&[&whole[..], b"anything"].concat()).unwrap(), expected);
}

#[test]
fn the_stream_is_read_to_its_end_for_those_who_hash_it() {
    let bytes = [
        Archive::default().entry(b'0', "a", b"").finish(),
        vec![9; 500_000],
    ]
    .concat();
    let mut rest = &bytes[..];
    let mut reader = TarReader::new(&mut rest, "l", LayerLimits::default());
    while reader.next_entry().unwrap().is_some() {}
    drop(reader);
    assert!(rest.is_empty());
}

#[test]
fn truncation_anywhere_inside_an_entry_is_an_error() {
    let archive = Archive::default()
        .pax(b'x', &[(b"path", b"p")])
        .entry(b'0', "a", &[1; 600]);
    let whole = archive.finish();
    for len in 1..(5 * BLOCK_BYTES) {
        assert!(malformed(&whole[..len]).starts_with("ends"), "{len}");
    }
    assert_eq!(read(&whole[..5 * BLOCK_BYTES]).unwrap().len(), 1);
}

#[test]
fn checksums_may_be_signed_but_must_match() {
    let latin = |block: &mut [u8]| block[0] = 0xe9;
    let mut bytes = Archive::default().edited((b'0', "x", b""), latin).finish();
    let unsigned = read(&bytes).unwrap();
    let sum = bytes[..512]
        .iter()
        .map(|byte| i32::from(byte.cast_signed()))
        .sum::<i32>();
    let field: i32 = bytes[148..156].iter().map(|byte| i32::from(*byte)).sum();
    let signed = sum - field + 8 * 32;
    bytes[148..155].copy_from_slice(format!("{signed:06o}\0").as_bytes());
    assert_eq!(read(&bytes).unwrap(), unsigned);
    bytes[10] = 1;
    assert_eq!(malformed(&bytes), "header does not match its checksum");
}

#[test]
fn prefixes_are_joined_as_their_dialect_says() {
    let with = |magic: &'static [u8], trailer: &'static [u8]| {
        let edit = move |block: &mut [u8]| {
            block[257..265].copy_from_slice(magic);
            block[345..348].copy_from_slice(b"pre");
            block[476..479].copy_from_slice(b"777");
            block[508..508 + trailer.len()].copy_from_slice(trailer);
        };
        one(Archive::default().edited((b'0', "name", b""), edit))
            .path
            .to_string()
    };
    assert_eq!(with(b"ustar\x0000", b""), "pre/name");
    assert_eq!(with(b"ustar\x0000", b"tar\0"), "pre/name");
    assert_eq!(with(b"ustar  \0", b""), "name");
    assert_eq!(with(b"\0\0\0\0\0\0\0\0", b""), "name");
}

#[test]
fn v7_directories_and_contiguous_files_are_known() {
    let kinds = |type_flag, name| one(Archive::default().entry(type_flag, name, b"")).kind;
    assert_eq!(kinds(0, "d/"), EntryKind::Directory);
    assert_eq!(kinds(0, "f"), EntryKind::File { size_bytes: 0 });
    assert_eq!(kinds(b'7', "f"), EntryKind::File { size_bytes: 0 });
    assert_eq!(kinds(b'6', "p"), EntryKind::Fifo);
    assert_eq!(kinds(b'1', "h"), EntryKind::HardLink(path("target")));
    assert_eq!(kinds(b'2', "s"), EntryKind::Symlink(b"target"[..].into()));
}

#[test]
fn kinds_without_data_have_none_whatever_their_size() {
    let sized = |block: &mut [u8]| block[124..135].copy_from_slice(b"00000007777");
    let archive = Archive::default()
        .edited((b'1', "h", b""), sized)
        .edited((b'5', "d", b""), sized)
        .entry(b'0', "f", b"x");
    assert_eq!(read(&archive.finish()).unwrap().len(), 3);
}

#[test]
fn whiteouts_are_items_and_aufs_files_are_not() {
    let archive = Archive::default()
        .entry(b'0', "a/.wh.b", b"ignored data")
        .entry(b'0', "a/.wh..wh..opq", b"")
        .entry(b'5', ".wh..wh.plnk", b"")
        .entry(b'0', ".wh..wh.plnk/3.4", b"ignored data")
        .entry(b'0', "a/b", b"1")
        .entry(b'0', "./a/b", b"2");
    let entries = read(&archive.finish()).unwrap();
    let kinds: Vec<_> = entries
        .iter()
        .map(|(e, _)| (e.path.clone(), e.kind.clone()))
        .collect();
    let file = EntryKind::File { size_bytes: 1 };
    // Of the duplicates both come, in order.
    assert_eq!(entries[3].1, b"2");
    assert_eq!(
        kinds,
        [
            (path("a/b"), EntryKind::Whiteout),
            (path("a"), EntryKind::OpaqueDirectory),
            (path("a/b"), file.clone()),
            (path("a/b"), file),
        ]
    );
}

#[test]
fn pax_records_replace_the_header_and_globals_last() {
    let archive = Archive::default()
        .pax(
            b'g',
            &[(b"mtime", b"-1.5"), (b"uid", b"7"), (b"comment", b"git")],
        )
        .pax(
            b'x',
            &[
                (b"path", b"better"),
                (b"size", b"3"),
                (b"uid", b"4000000000"),
            ],
        )
        .edited((b'0', "worse", b"abc"), |block| block[124..135].fill(b'0'))
        .pax(
            b'x',
            &[
                (b"mtime", b""),
                (b"SCHILY.devmajor", b"4000"),
                (b"SCHILY.devminor", b"70000"),
            ],
        )
        .entry(b'3', "device", b"");
    let entries = read(&archive.finish()).unwrap();
    let (first, data) = &entries[0];
    assert_eq!((&first.path, &data[..]), (&path("better"), &b"abc"[..]));
    assert_eq!(first.attributes.uid, 4_000_000_000);
    assert_eq!(
        first.attributes.mtime,
        Timestamp {
            seconds: -2,
            nanoseconds: 500_000_000
        }
    );
    let second = &entries[1].0;
    assert_eq!(second.attributes.uid, 7);
    assert_eq!(
        second.attributes.mtime,
        Timestamp {
            seconds: 15,
            nanoseconds: 0
        }
    );
    assert_eq!(
        second.kind,
        EntryKind::CharDevice(Device {
            major: 4_000,
            minor: 70_000
        })
    );
}

#[test]
fn base_256_numbers_reach_the_attributes() {
    let entry = one(Archive::default().edited((b'4', "b", b""), |block| {
        block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
        block[136..148].copy_from_slice(&[0xff; 12]);
        block[329..337].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x40, 0, 0]);
    }));
    assert_eq!(entry.attributes.uid, u32::MAX - 1);
    assert_eq!(
        entry.attributes.mtime,
        Timestamp {
            seconds: -1,
            nanoseconds: 0
        }
    );
    assert_eq!(
        entry.kind,
        EntryKind::BlockDevice(Device {
            major: 1 << 22,
            minor: 0
        })
    );
}

#[test]
fn gnu_long_names_win_and_end_at_their_nul() {
    let archive = Archive::default()
        .long_name(b'L', b"long/name\0junk")
        .long_name(b'K', b"long/target")
        .entry(b'2', "short", b"");
    let entry = one(archive);
    assert_eq!(entry.path, path("long/name"));
    assert_eq!(entry.kind, EntryKind::Symlink(b"long/target"[..].into()));
}

#[test]
fn xattrs_come_sorted_in_both_encodings() {
    let xattr = |name: &str, value: &[u8]| Xattr {
        name: name.as_bytes().into(),
        value: value.into(),
    };
    let entry = one(Archive::default()
        .pax(
            b'x',
            &[
                (b"SCHILY.xattr.user.z", b"a\n=\0b"),
                (b"LIBARCHIVE.xattr.user.both", b"bm8"),
                (b"SCHILY.xattr.user.both", b"first"),
                (b"SCHILY.xattr.user.both", b"yes"),
                (b"LIBARCHIVE.xattr.user.%41%3d", b"AP8="),
                (b"SCHILY.xattr.user.empty", b""),
            ],
        )
        .entry(b'0', "f", b""));
    assert_eq!(
        entry.attributes.xattrs,
        [
            xattr("user.A=", b"\0\xff"),
            xattr("user.both", b"yes"),
            xattr("user.empty", b""),
            xattr("user.z", b"a\n=\0b"),
        ]
    );
}

/// Fails after some bytes as a disk or a connection does.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("unplugged")),
            len => Ok(len),
        }
    }
}

#[test]
fn errors_of_the_stream_are_io_and_an_error_is_final() {
    let bytes = Archive::default()
        .entry(b'0', "f", b"abc")
        .entry(b'0', "g", b"")
        .finish();
    let mut reader = TarReader::new(Failing(&bytes[..1024]), "l", LayerLimits::default());
    assert!(reader.next_entry().unwrap().is_some());
    assert!(matches!(reader.next_entry(), Err(LayerError::Io { .. })));
    assert!(matches!(
        reader.next_entry(),
        Err(LayerError::Malformed { .. })
    ));
    assert!(matches!(
        reader.read_data(&mut [0; 9]),
        Err(LayerError::Malformed { .. })
    ));
}

#[test]
fn unread_and_half_read_data_is_skipped() {
    let archive = (0..3).fold(Archive::default(), |archive, _| {
        archive.entry(b'0', "f", &[5; 1_000])
    });
    let bytes = archive.finish();
    let mut reader = TarReader::new(&bytes[..], "l", LayerLimits::default());
    let mut buffer = [0; 700];
    assert!(reader.next_entry().unwrap().is_some());
    assert!(reader.next_entry().unwrap().is_some());
    assert_eq!(reader.read_data(&mut []).unwrap(), 0);
    assert_eq!(reader.read_data(&mut buffer).unwrap(), 700);
    assert!(reader.next_entry().unwrap().is_some());
    assert_eq!(reader.read_data(&mut buffer).unwrap(), 700);
    assert_eq!(reader.read_data(&mut buffer).unwrap(), 300);
    assert_eq!(reader.read_data(&mut buffer).unwrap(), 0);
    assert!(reader.next_entry().unwrap().is_none());
}

/// Gives at most the next of `lengths` bytes to each read, and an interruption for a 0.
struct Dribble<'a> {
    bytes: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = *self.lengths.next().expect("cycles");
        if len == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = len.min(buffer.len());
        self.bytes.read(&mut buffer[..len])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn short_and_interrupted_reads_change_nothing(
        mut lengths in prop::collection::vec(0_usize..1_500, 1..40),
        data_len in 0_usize..3_000,
    ) {
        lengths.push(700);
        let data: Vec<u8> = (0..=255).cycle().take(data_len).collect();
        let bytes = Archive::default()
            .pax(b'x', &[(b"path", &b"p/".repeat(60)), (b"SCHILY.xattr.user.x", &data)])
            .entry(b'0', "short", &data)
            .long_name(b'L', &[b'n'; 200])
            .entry(b'0', "short", &data)
            .entry(b'5', "d/", b"")
            .finish();
        let expected = read(&bytes).unwrap();
        prop_assert_eq!(expected.len(), 3);
        let dribble = Dribble { bytes: &bytes, lengths: lengths.iter().cycle() };
        let mut reader = TarReader::new(dribble, "tar", LayerLimits::default());
        prop_assert_eq!(read_all(&mut reader).unwrap(), expected);
    }

    #[test]
    fn damaged_archives_are_errors_and_never_panics(
        flips in prop::collection::vec((0_usize..6_000, any::<u8>()), 1..4),
        cut in 0_usize..8_000,
    ) {
        let mut bytes = Archive::default()
            .pax(b'x', &[(b"GNU.sparse.map", b"0,5,10,3"), (b"GNU.sparse.size", b"20")])
            .entry(b'0', "sparse", b"12345678")
            .pax(b'g', &[(b"mtime", b"-1.5")])
            .entry(b'S', "old", b"")
            .entry(b'2', "link", b"")
            .finish();
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        bytes.truncate(cut.max(1));
        // Checksums would stop almost every flip at once; with them repaired the rest is reached.
        let mut repaired = bytes.clone();
        repaired.chunks_exact_mut(512).for_each(seal);
        for bytes in [bytes, repaired] {
            let mut reader = TarReader::new(&bytes[..], "tar", LayerLimits::default());
            let mut buffer = [0; 100];
            while let Ok(Some(_)) = reader.next_entry() {
                while matches!(reader.read_data(&mut buffer), Ok(1..)) {}
            }
        }
    }
}
