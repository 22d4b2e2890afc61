//! Hostile and malformed archives, and the error that each one gets.

use super::archive::{Archive, limit, malformed, read, record};
use super::*;

/// The largest size that a header can give, in base 256.
const HUGE: [u8; 12] = [
    0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
];

#[test]
fn hostile_names_are_refused_and_named() {
    for (type_flag, name) in [(b'0', "../etc/passwd"), (b'0', "a/../../b"), (b'5', "/..")] {
        let error = read(&Archive::default().entry(type_flag, name, b"").finish()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("malformed layer sha256:abc, entry {name:?}: path has a `..`")
        );
    }
    let linked = |target: &'static [u8]| {
        move |block: &mut [u8]| {
            block[157..257].fill(0);
            block[157..157 + target.len()].copy_from_slice(target);
        }
    };
    for (type_flag, target, reason) in [
        (b'1', &b"../up"[..], "path has a `..`"),
        (b'1', b"./", "hard link to the root"),
        (b'2', b"", "symlink target is empty or has a NUL"),
    ] {
        let archive = Archive::default().edited((type_flag, "l", b""), linked(target));
        assert_eq!(malformed(&archive.finish()), reason);
    }
    assert_eq!(
        malformed(&Archive::default().entry(b'0', "./", b"").finish()),
        "the root is not a directory"
    );
    let nul = Archive::default()
        .pax(b'x', &[(b"path", b"a\0b")])
        .entry(b'0', "n", b"");
    assert_eq!(malformed(&nul.finish()), "path has a NUL");
    let deep = "d/".repeat(300);
    let deep = Archive::default()
        .pax(b'x', &[(b"path", deep.as_bytes())])
        .entry(b'5', "n", b"");
    assert_eq!(
        limit(&deep.finish(), LayerLimits::default()),
        "directories in a path"
    );
}

#[test]
fn unknown_types_and_versions_are_unsupported() {
    let unsupported = |archive: Archive| {
        let result = read(&archive.finish());
        assert!(
            matches!(result, Err(LayerError::Unsupported { .. })),
            "{result:?}"
        );
    };
    for type_flag in [b'V', b'M', b'D', b'N', b'A', b'8', 0xff] {
        unsupported(Archive::default().entry(type_flag, "f", b""));
    }
    let records: [(&[u8], &[u8]); 2] = [(b"GNU.sparse.major", b"2"), (b"GNU.sparse.size", b"1")];
    unsupported(Archive::default().pax(b'x', &records).entry(b'0', "f", b""));
    unsupported(Archive::default().pax(b'g', &[(b"SCHILY.xattr.user.x", b"1")]));
    unsupported(Archive::default().pax(b'g', &[(b"GNU.sparse.size", b"1")]));
}

#[test]
fn malformed_numbers_and_sequences_are_refused() {
    let edited = |at: usize, value: &'static [u8]| {
        let edit = move |block: &mut [u8]| block[at..at + value.len()].copy_from_slice(value);
        Archive::default().edited((b'3', "f", b""), edit).finish()
    };
    assert_eq!(malformed(&edited(124, b"9")), "size is not a number");
    assert_eq!(malformed(&edited(124, &[0xff; 12])), "size is negative");
    assert_eq!(
        malformed(&edited(108, &[0xff; 8])),
        "uid is not within 32 bits"
    );
    assert_eq!(
        malformed(&edited(116, b"\x80\0\0\x01\0\0\0\0")),
        "gid is not within 32 bits"
    );
    assert_eq!(
        malformed(&edited(329, &[0xff; 8])),
        "device number is not within 32 bits"
    );
    let dangling = Archive::default().pax(b'x', &[(b"path", b"p")]).finish();
    assert_eq!(
        malformed(&dangling),
        "ends after a header that announces an entry"
    );
    let zeros = Archive::default()
        .raw(&[0; 512])
        .entry(b'0', "f", b"")
        .finish();
    assert_eq!(malformed(&zeros), "entry after a single zero block");
}

#[test]
fn sizes_are_bounded_before_anything_is_read_or_allocated() {
    let huge = |type_flag| {
        let edit = |block: &mut [u8]| block[124..136].copy_from_slice(&HUGE);
        Archive::default()
            .edited((type_flag, "f", b""), edit)
            .finish()
    };
    let limits = LayerLimits::default;
    assert_eq!(limit(&huge(b'0'), limits()), "bytes in a file");
    assert_eq!(limit(&huge(b'V'), limits()), "bytes in a file");
    assert_eq!(limit(&huge(b'L'), limits()), "bytes in a GNU long name");
    assert_eq!(limit(&huge(b'K'), limits()), "bytes in a GNU long name");
    assert_eq!(limit(&huge(b'x'), limits()), "bytes in a PAX header");
    assert_eq!(limit(&huge(b'g'), limits()), "bytes of global PAX headers");
    let pax_size = Archive::default().pax(b'x', &[(b"size", b"18446744073709551615")]);
    assert_eq!(
        limit(&pax_size.entry(b'0', "f", b"").finish(), limits()),
        "bytes in a file"
    );
    let records = Archive::default().entry(b'x', "x", &b"5 a=\n".repeat(100_000));
    assert_eq!(
        limit(&records.finish(), limits()),
        "records in a PAX header"
    );
    let globals = (0..3).fold(Archive::default(), |archive, _| {
        archive.entry(b'g', "g", &record(b"comment", &[b'c'; 400_000]))
    });
    assert_eq!(
        limit(&globals.finish(), limits()),
        "bytes of global PAX headers"
    );
    let files = Archive::default()
        .entry(b'0', "a", b"12")
        .entry(b'0', "b", b"34")
        .finish();
    let small = LayerLimits {
        entries_max: 1,
        ..limits()
    };
    assert_eq!(limit(&files, small), "entries");
    let small = LayerLimits {
        plain_bytes_max: 3,
        ..limits()
    };
    assert_eq!(limit(&files, small), "bytes in all files");
}

#[test]
fn xattrs_are_within_the_limits_of_linux() {
    let with = |key: &[u8], value: &[u8]| {
        Archive::default()
            .pax(b'x', &[(key, value)])
            .entry(b'0', "f", b"")
            .finish()
    };
    let limits = LayerLimits::default;
    let long = [&b"SCHILY.xattr.user."[..], &[b'n'; 251]].concat();
    assert_eq!(limit(&with(&long, b""), limits()), "bytes in an xattr name");
    let value = vec![0; 65_537];
    assert_eq!(
        limit(&with(b"SCHILY.xattr.user.x", &value), limits()),
        "bytes in an xattr value"
    );
    assert!(read(&with(b"SCHILY.xattr.user.x", &value[1..])).is_ok());
    let many: Vec<_> = (0..300)
        .flat_map(|n| record(format!("SCHILY.xattr.user.{n:0>240}").as_bytes(), b""))
        .collect();
    let many = Archive::default()
        .entry(b'x', "x", &many)
        .entry(b'0', "f", b"")
        .finish();
    assert_eq!(limit(&many, limits()), "bytes of xattr names");
    for (key, value) in [
        (&b"SCHILY.xattr."[..], &b""[..]),
        (b"SCHILY.xattr.a\0b", b""),
        (b"LIBARCHIVE.xattr.a%4", b""),
        (b"LIBARCHIVE.xattr.a%zz", b""),
        (b"LIBARCHIVE.xattr.a", b"*"),
    ] {
        malformed(&with(key, value));
    }
}

#[test]
fn hostile_sparse_maps_are_refused() {
    let pax = |map: &[u8], size: &[u8], data: &[u8]| {
        Archive::default()
            .pax(
                b'x',
                &[(b"GNU.sparse.map", map), (b"GNU.sparse.size", size)],
            )
            .entry(b'0', "f", data)
            .finish()
    };
    let good = read(&pax(b"1,2,4,1", b"6", b"abc")).unwrap();
    assert_eq!(good[0].1, b"\0ab\0c\0");
    for (map, size, reason) in [
        (
            &b"4,1,1,2"[..],
            &b"6"[..],
            "sparse segments overlap or are out of order",
        ),
        (
            b"0,2,1,1",
            b"6",
            "sparse segments overlap or are out of order",
        ),
        (b"0,2,5,2", b"6", "sparse segment ends after its file"),
        (
            b"2,18446744073709551615",
            b"6",
            "sparse segment ends after its file",
        ),
        (
            b"0,2",
            b"6",
            "sparse segments do not sum up to the entry's size",
        ),
        (b"0,3,4", b"6", "sparse map has an odd count"),
        (b"0,x", b"6", "number is malformed"),
    ] {
        assert_eq!(malformed(&pax(map, size, b"abc")), reason);
    }
}

#[test]
fn hostile_sparse_maps_in_the_stream_are_refused() {
    let version_1 = |map: &[u8]| {
        Archive::default()
            .pax(
                b'x',
                &[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", b"real"),
                    (b"GNU.sparse.realsize", b"100"),
                ],
            )
            .entry(b'0', "GNUSparseFile.0/real", map)
            .finish()
    };
    assert_eq!(malformed(&version_1(b"5\n")), "ends inside a sparse map");
    assert_eq!(malformed(&version_1(&[b'1'; 512])), "number is malformed");
    let limits = LayerLimits::default;
    let count = [&b"99999999999\n"[..], &[0; 500]].concat();
    assert_eq!(
        limit(&version_1(&count), limits()),
        "segments in a sparse file"
    );
    let old = |size: &'static [u8]| {
        let edit = move |block: &mut [u8]| {
            block[386..410].copy_from_slice(b"00000000001\x0000000000003\0");
            block[483..483 + size.len()].copy_from_slice(size);
        };
        Archive::default()
            .edited((b'S', "f", b"abc"), edit)
            .finish()
    };
    assert_eq!(read(&old(b"00000000006")).unwrap()[0].1, b"\0abc\0\0");
    assert_eq!(
        malformed(&old(b"00000000003")),
        "sparse segment ends after its file"
    );
    assert_eq!(limit(&old(&HUGE), limits()), "bytes in a file");
}
