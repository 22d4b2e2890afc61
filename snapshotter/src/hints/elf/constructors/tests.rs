use super::super::headers::{PT_DYNAMIC, PT_LOAD};
use super::super::{ElfCapture, Window};
use super::*;

/// Where the tables, the code and what is written are in the file; the last one is loaded this much
/// further on.
const TABLES: usize = 0x100;
const CODE: usize = 0x1000;
const DATA: usize = 0x8000;
const SHIFT: u64 = 0x1000;

const CONSTRUCTOR: u64 = 0x1100;
const STUB: u64 = 0x1040;
const CALLED: u64 = 0x3000;
const BY_SLOT: u64 = 0x4000;
const BY_STUB: u64 = 0x5000;
const TAKEN: u64 = 0x6000;

/// In what is written: the array of constructors, and two slots.
const ARRAY: u64 = DATA as u64 + SHIFT;
const SLOT: u64 = ARRAY + 16;
const STUB_SLOT: u64 = ARRAY + 24;
const DYNAMIC: usize = DATA + 64;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts an instruction of some bytes and a distance to `target` at an address of the code.
fn instruct(file: &mut [u8], at: u64, bytes: &[u8], target: u64) -> u64 {
    let end = at + bytes.len() as u64 + 4;
    let distance = i32::try_from(target.cast_signed() - end.cast_signed()).unwrap();
    let start = usize::try_from(at).unwrap();
    put(file, start, &[bytes, &distance.to_le_bytes()].concat());
    end
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A library whose one constructor calls two functions, one by a slot, and one by a stub, and takes the
/// address of one.
fn library() -> Vec<u8> {
    let mut file = vec![0x90; 0x9000];
    let relocation =
        |at, symbol: u64, kind: u32, addend| words(&[at, symbol << 32 | u64::from(kind), addend]);
    let tables = [
        relocation(ARRAY, 0, R_X86_64_RELATIVE, CONSTRUCTOR),
        relocation(SLOT, 1, R_X86_64_GLOB_DAT, 0),
        relocation(STUB_SLOT, 2, R_X86_64_JUMP_SLOT, 0),
        words(&[0; 3]),
        words(&[1 << 48, BY_SLOT, 0]),
        words(&[1 << 48, BY_STUB, 0]),
    ];
    put(&mut file, TABLES, &tables.concat());
    let at = CONSTRUCTOR;
    let at = instruct(&mut file, at, &[0xe8], CALLED);
    let at = instruct(&mut file, at, &[0xff, 0x15], SLOT);
    let at = instruct(&mut file, at, &[0xe8], STUB);
    let at = instruct(&mut file, at, &[0x48, 0x8d, 0x3d], TAKEN);
    instruct(&mut file, at, &[0xe9], ARRAY);
    instruct(
        &mut file,
        STUB,
        &[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25],
        STUB_SLOT,
    );
    let dynamic = [
        [25, ARRAY],
        [27, 8],
        [7, TABLES as u64],
        [8, 48],
        [23, TABLES as u64 + 48],
        [2, 24],
        [6, TABLES as u64 + 72],
        [0, 0],
    ];
    put(&mut file, DYNAMIC, &words(dynamic.as_flattened()));
    file
}

fn segments(file: &[u8]) -> Vec<Segment> {
    let segment = |kind, file: Range<usize>, shift, writable, executable| Segment {
        kind,
        writable,
        executable,
        address: file.start as u64 + shift,
        file: file.start as u64..file.end as u64,
    };
    vec![
        segment(PT_LOAD, 0..CODE, 0, false, false),
        segment(PT_LOAD, CODE..DATA, 0, false, true),
        segment(PT_LOAD, DATA..file.len(), SHIFT, true, false),
        segment(PT_DYNAMIC, DYNAMIC..DYNAMIC + 128, SHIFT, true, false),
    ]
}

/// What is found when all of a file was kept.
fn found(file: &[u8]) -> Vec<Range<u64>> {
    let (capture, dynamic) = kept(file);
    functions(&capture, &dynamic)
}

fn kept(file: &[u8]) -> (ElfCapture, Dynamic) {
    let whole = Window {
        start: 0,
        end: file.len() as u64,
        bytes: file.to_vec(),
    };
    let capture = ElfCapture {
        segments: segments(file),
        windows: vec![whole],
        ..ElfCapture::default()
    };
    (capture, Dynamic::read(&file[DYNAMIC..DYNAMIC + 128]))
}

#[test]
fn what_a_constructor_leads_to_is_found() {
    let expected = [CONSTRUCTOR, CALLED, BY_SLOT, BY_STUB, TAKEN];
    let expected = expected.map(|start| start..start + FUNCTION_BYTES);
    assert_eq!(found(&library()), expected);
}

#[test]
fn a_constructor_with_a_symbol_is_found() {
    let mut file = library();
    let by_symbol = [ARRAY, 3 << 32 | u64::from(R_X86_64_64), 16];
    put(&mut file, TABLES, &words(&by_symbol));
    put(
        &mut file,
        TABLES + 144,
        &words(&[1 << 48, CONSTRUCTOR - 16, 0]),
    );
    assert_eq!(found(&file), found(&library()));
    put(&mut file, TABLES + 144, &words(&[0, CONSTRUCTOR - 16, 0]));
    assert_eq!(found(&file), [], "of another library");
}

#[test]
fn the_blocks_with_the_most_functions_are_named() {
    let (capture, dynamic) = kept(&library());
    let around = FAULT_BYTES / 2;
    let whole = 0..TAKEN + FUNCTION_BYTES + around;
    assert_eq!(ranges(&capture, &dynamic), [whole], "all are in one block");

    // Its constructor calls one function in each of many blocks, and two in the last one.
    let blocks = BLOCKS_MAX as u64 + 9;
    let size = usize::try_from((blocks + 1) * BLOCK_BYTES).unwrap();
    let (mut file, mut at) = (library(), CONSTRUCTOR);
    let far = (1..=blocks).map(|block| block * BLOCK_BYTES);
    for target in far.chain([blocks * BLOCK_BYTES + 4096]) {
        at = instruct(&mut file, at, &[0xe8], target);
    }
    let (mut capture, dynamic) = kept(&file);
    capture.segments[1].file.end = size as u64;
    let found = ranges(&capture, &dynamic);
    assert_eq!(found.len(), BLOCKS_MAX);
    let last = blocks * BLOCK_BYTES;
    let last = last - around..last + 4096 + FUNCTION_BYTES + around;
    assert!(found.contains(&last), "{found:?}");
}

#[test]
fn a_symbol_of_another_library_leads_nowhere() {
    let mut file = library();
    // It has no section here.
    put(&mut file, TABLES + 96, &[0; 8]);
    let expected = [CONSTRUCTOR, CALLED, BY_STUB, TAKEN];
    let expected = expected.map(|start| start..start + FUNCTION_BYTES);
    assert_eq!(found(&file), expected);
}

#[test]
fn one_constructor_ends_where_the_next_one_begins() {
    let mut file = library();
    // The next one begins behind the first call, and the array has both.
    let second = words(&[ARRAY + 8, u64::from(R_X86_64_RELATIVE), CONSTRUCTOR + 5]);
    put(&mut file, TABLES + 24, &second);
    put(&mut file, DYNAMIC + 24, &16_u64.to_le_bytes());
    let starts: Vec<u64> = found(&file).iter().map(|range| range.start).collect();
    assert_eq!(starts[..3], [CONSTRUCTOR, CONSTRUCTOR + 5, CALLED]);
    assert_eq!(starts[2..].iter().filter(|at| **at == CALLED).count(), 1);
}

#[test]
fn no_word_of_tables_or_code_panics() {
    let file = library();
    let code = usize::try_from(STUB).unwrap()..usize::try_from(CONSTRUCTOR).unwrap() + 64;
    let places = (TABLES..TABLES + 144)
        .chain(code)
        .chain(DYNAMIC..DYNAMIC + 128);
    for at in places {
        for value in [
            0,
            0x7fff_ffff,
            0x8000_0000,
            u64::MAX,
            u64::MAX - 23,
            1 << 63,
        ] {
            for width in [1, 4, 8] {
                let mut file = file.clone();
                put(&mut file, at, &value.to_le_bytes()[..width]);
                let len = file.len() as u64;
                assert!(found(&file).iter().all(|range| range.end <= len));
            }
        }
    }
}
