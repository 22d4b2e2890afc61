use super::headers::*;
use super::*;

const LOAD_ADDRESS: u64 = 0x40_0000;
/// Where the writable segment is in the file, and how far its addresses are ahead of it.
const DATA_OFFSET: u64 = 0x1_0000;
const DATA_SHIFT: u64 = 0x2000;
const SEGMENTS: u64 = 4;
const TABLES_START: u64 = HEADER_BYTES as u64 + SEGMENTS * PROGRAM_HEADER_BYTES as u64;

fn program_header(kind: u32, flags: u32, file: Range<u64>, address: u64) -> Vec<u8> {
    let len = file.end - file.start;
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for field in [file.start, address, address, len, len, 8] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// An executable: headers, interpreter, strings, and 640 bytes of relocations in its first
/// segment; the dynamic section at the end of its second one, 64 KiB into the file.
fn tiny_elf(extra: &[(u64, u64)]) -> Vec<u8> {
    let interpreter = b"/lib64/ld-linux-x86-64.so.2\0";
    let strings = b"\0libfoo.so.1\0$ORIGIN/../lib::/opt/lib\0libc.so.6\0/old\0";
    let at = |name: &[u8]| strings.windows(name.len()).position(|w| w == name).unwrap() as u64;
    let strings_start = TABLES_START + interpreter.len() as u64;
    let relocations = strings_start + strings.len() as u64;
    let tables_end = relocations + 640;
    let mut dynamic = vec![
        (1, at(b"libfoo")),
        (1, at(b"libc")),
        (5, LOAD_ADDRESS + strings_start),
        (10, strings.len() as u64),
        (7, LOAD_ADDRESS + relocations),
        (8, 640),
    ];
    dynamic.extend_from_slice(extra);
    dynamic.push((0, 0));
    let dynamic: Vec<u8> = dynamic
        .iter()
        .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect();
    let data = DATA_OFFSET..DATA_OFFSET + 256 + dynamic.len() as u64;
    let data_address = LOAD_ADDRESS + DATA_OFFSET + DATA_SHIFT;

    let mut elf = IDENT.to_vec();
    elf.resize(16, 0);
    elf.extend(ET_DYN.to_le_bytes());
    elf.extend(EM_X86_64.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend([0; 8]);
    elf.extend((HEADER_BYTES as u64).to_le_bytes());
    elf.extend([0; 14]);
    elf.extend(
        [56_u16, 4, 64, 0, 0]
            .iter()
            .flat_map(|field| field.to_le_bytes()),
    );
    assert_eq!(elf.len(), HEADER_BYTES);
    elf.extend(program_header(PT_LOAD, 4, 0..tables_end, LOAD_ADDRESS));
    elf.extend(program_header(PT_LOAD, 6, data.clone(), data_address));
    let section = data.start + 256..data.end;
    elf.extend(program_header(PT_DYNAMIC, 6, section, data_address + 256));
    let place = TABLES_START..strings_start;
    elf.extend(program_header(
        PT_INTERP,
        4,
        place,
        LOAD_ADDRESS + TABLES_START,
    ));
    elf.extend(interpreter);
    elf.extend(strings);
    elf.resize(usize::try_from(DATA_OFFSET).unwrap() + 256, 7);
    elf.extend(dynamic);
    elf
}

/// Scans a file that comes in pieces of `piece` bytes.
fn scan(elf: &[u8], piece: usize) -> Option<ElfNeeds> {
    let mut capture = ElfCapture::default();
    elf.chunks(piece)
        .all(|bytes| capture.take(bytes))
        .then(|| capture.finish(elf.len() as u64))?
}

fn texts(names: &[Vec<u8>]) -> Vec<&str> {
    names
        .iter()
        .map(|name| std::str::from_utf8(name).unwrap())
        .collect()
}

fn assert_in_file(needs: &ElfNeeds, size_bytes: u64) {
    assert!(needs.ranges.len() <= RANGES_MAX);
    assert!(
        needs
            .ranges
            .iter()
            .all(|range| range.start < range.end && range.end <= size_bytes)
    );
    assert!(needs.ranges.is_sorted_by(|a, b| a.end < b.start));
    assert!(needs.needed.len() <= dynamic::NAMES_MAX);
    assert!(needs.run_paths.len() <= dynamic::NAMES_MAX);
}

#[test]
fn an_executable_names_all_it_needs_however_it_is_cut() {
    let elf = tiny_elf(&[(29, 13)]);
    let size_bytes = elf.len() as u64;
    let needs = scan(&elf, usize::MAX).unwrap();
    assert_eq!(
        needs.interpreter.as_deref(),
        Some(&b"/lib64/ld-linux-x86-64.so.2"[..])
    );
    assert_eq!(texts(&needs.needed), ["libfoo.so.1", "libc.so.6"]);
    assert_eq!(texts(&needs.run_paths), ["$ORIGIN/../lib", "/opt/lib"]);
    assert_eq!(needs.ranges, [HEADERS, DATA_OFFSET..size_bytes]);
    for piece in [1, 2, 3, 63, 64, 65, 287, 288, 4095, 65536] {
        assert_eq!(scan(&elf, piece).as_ref(), Some(&needs), "{piece}");
    }
}

#[test]
fn runpath_hides_rpath() {
    let old = tiny_elf(&[])
        .windows(5)
        .position(|bytes| bytes == b"/old\0")
        .unwrap() as u64;
    let start = TABLES_START + 28;
    let elf = tiny_elf(&[(15, old - start)]);
    assert_eq!(texts(&scan(&elf, 4096).unwrap().run_paths), ["/old"]);
    let elf = tiny_elf(&[(15, old - start), (29, 13)]);
    assert_eq!(scan(&elf, 4096).unwrap().run_paths.len(), 2);
}

#[test]
fn tables_without_a_size_reach_to_the_next_one() {
    let segments = [
        Segment {
            kind: PT_LOAD,
            writable: false,
            executable: false,
            address: 0,
            file: 0..100_000,
        },
        Segment {
            kind: PT_LOAD,
            writable: true,
            executable: false,
            address: 200_000,
            file: 100_000..110_000,
        },
    ];
    let entry = |tag: u64, value: u64| [tag.to_le_bytes(), value.to_le_bytes()].concat();
    let section = [
        entry(0x6fff_fef5, 500), // DT_GNU_HASH
        entry(6, 900),           // DT_SYMTAB
        entry(5, 50_000),        // DT_STRTAB
        entry(10, 20_000),
        entry(0x6fff_fff0, 99_000), // DT_VERSYM, with nothing behind it
        entry(36, 200_010),         // DT_RELR, of a size that leaves its segment
        entry(35, u64::MAX),
        entry(7, 300_000), // DT_RELA, in no segment
        entry(8, 24),
        entry(0, 0),
        entry(23, 10),
        entry(2, 10),
    ]
    .concat();
    let tables = Dynamic::read(&section).tables(&segments);
    let expected = [
        500..900,
        900..50_000,
        50_000..70_000,
        99_000..100_000,
        100_010..110_000,
    ];
    assert_eq!(tables, expected);
}

#[test]
fn strings_in_a_last_segment_are_found_as_patchelf_leaves_them() {
    // The table of strings moves into the second segment, behind 8 bytes.
    let moved = LOAD_ADDRESS + DATA_OFFSET + DATA_SHIFT + 8;
    let mut elf = tiny_elf(&[]);
    let tag = elf
        .windows(16)
        .rposition(|entry| entry[..8] == 5_u64.to_le_bytes())
        .unwrap();
    elf[tag + 8..tag + 16].copy_from_slice(&moved.to_le_bytes());
    let start = usize::try_from(DATA_OFFSET).unwrap() + 8;
    elf[start..start + 50].fill(0);
    elf[start + 1..start + 9].copy_from_slice(b"libnew.a");
    assert_eq!(texts(&scan(&elf, 4096).unwrap().needed), ["libnew.a"]);
}

#[test]
fn other_files_are_refused_by_their_first_bytes() {
    for (at, byte) in [
        (0, 0),
        (3, b'f'),
        (4, 1),
        (5, 2),
        (16, 1),
        (16, 4),
        (18, 8),
        (54, 32),
    ] {
        let mut elf = tiny_elf(&[]);
        elf[at] = byte;
        assert_eq!(scan(&elf, usize::MAX), None, "{at}");
        assert_eq!(scan(&elf, 1), None, "{at}");
    }
    let mut capture = ElfCapture::default();
    assert!(!capture.take(b"#!/bin/sh\n"));
    assert_eq!(
        capture.head.capacity(),
        0,
        "nothing is kept of what is not ELF"
    );
}

#[test]
fn a_file_may_end_anywhere() {
    let elf = tiny_elf(&[(29, 13)]);
    for len in 0..elf.len() {
        let needs = scan(&elf[..len], 997.min(len.max(1)));
        assert_eq!(
            needs.is_some(),
            len >= usize::try_from(TABLES_START).unwrap(),
            "{len}"
        );
        if let Some(needs) = needs {
            assert_in_file(&needs, len as u64);
        }
    }
}

#[test]
fn no_word_of_a_header_or_the_dynamic_section_panics() {
    let elf = tiny_elf(&[(29, 13), (6, LOAD_ADDRESS), (0x6fff_fff0, LOAD_ADDRESS + 9)]);
    let dynamic = usize::try_from(DATA_OFFSET).unwrap() + 256;
    let places = (0..usize::try_from(TABLES_START).unwrap()).chain(dynamic..elf.len());
    for at in places {
        for value in [
            0,
            1,
            0x7fff_ffff,
            LOAD_ADDRESS,
            u64::MAX,
            u64::MAX - 15,
            1 << 63,
        ] {
            for width in [1, 2, 4, 8] {
                let mut elf = elf.clone();
                let end = elf.len().min(at + width);
                elf[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                if let Some(needs) = scan(&elf, usize::MAX) {
                    assert_in_file(&needs, elf.len() as u64);
                }
            }
        }
    }
}

#[test]
fn constants_are_kept_of_extensions_and_code_of_large_files() {
    let kept = |code: u64, is_extension| {
        let mut elf = tiny_elf(&[]);
        let segment = Segment {
            kind: PT_LOAD,
            writable: false,
            executable: true,
            address: 1 << 32,
            file: 1 << 20..code,
        };
        let unwinder = Segment {
            kind: PT_GNU_EH_FRAME,
            file: (5 << 20) + 9..(5 << 20) + 10,
            ..segment
        };
        elf.truncate(usize::try_from(TABLES_START).unwrap());
        let mut capture = ElfCapture::new(is_extension);
        assert!(capture.take(&elf));
        capture.segments.extend([segment, unwinder]);
        let windows = capture.wanted();
        move |range: &Range<u64>| {
            let mut windows = windows.iter();
            windows.any(|window| window.start <= range.start && range.end <= window.end)
        }
    };
    let (constants, code) = ((1 << 20) + 9..(5 << 20) + 9, 1 << 20..5 << 20);
    assert!(kept(6 << 20, true)(&constants));
    assert!(!kept(6 << 20, false)(&constants));
    assert!(!kept(6 << 20, false)(&code));
    assert!(kept(9 << 20, false)(&code));
}

#[test]
fn what_is_kept_is_bounded_by_the_file() {
    let mut elf = tiny_elf(&[]);
    // Both segments claim to reach far behind the end.
    for header in [HEADER_BYTES, HEADER_BYTES + PROGRAM_HEADER_BYTES] {
        elf[header + 32..header + 40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    }
    let mut capture = ElfCapture::default();
    assert!(capture.take(&elf));
    let kept: usize = capture
        .windows
        .iter()
        .map(|window| window.bytes.capacity())
        .sum();
    assert!(kept <= 2 * elf.len(), "{kept}");
    let block = vec![0; 1 << 20];
    for _ in 0..16 {
        assert!(capture.take(&block));
    }
    let kept: usize = capture
        .windows
        .iter()
        .map(|window| window.bytes.len())
        .sum();
    let max = HEADERS_BYTES_MAX as u64
        + FIRST_SEGMENT_BYTES_MAX
        + LAST_SEGMENT_BYTES_MAX
        + DYNAMIC_BYTES_MAX;
    assert!(kept as u64 <= max, "{kept}");
}
