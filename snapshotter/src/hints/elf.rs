//! What the dynamic linker reads of an executable or a shared object.
//!
//! Layout of headers, segments and the dynamic section: System V gABI, chapters 4 and 5. Which tags
//! are read, and that `DT_RUNPATH` hides `DT_RPATH`: glibc, `elf/dl-load.c` and
//! `elf/dl-reloc.c`. Only 64-bit little-endian objects for x86-64 and aarch64 are read.
//!
//! Program headers are at the beginning of a file and say where the dynamic section is, which is
//! most often near its end. So what passes is kept where it may be asked for: the first segment,
//! which has the strings and the symbols; the last one, where `patchelf` puts strings that grew,
//! as in most Python wheels; and the dynamic section.

mod dynamic;
mod ranges;

use std::ops::Range;

use super::ElfNeeds;
use dynamic::Dynamic;
use ranges::merge;

/// What the header and the program headers take at most.
const HEADERS_BYTES_MAX: usize = 4096;
const HEADERS: Range<u64> = 0..HEADERS_BYTES_MAX as u64;
const PROGRAM_HEADERS_MAX: u64 = 64;
/// Real files have some three.
const RANGES_MAX: usize = 64;
/// What is kept of the first segment.
const FIRST_SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// What is kept of the last segment.
const LAST_SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// What is kept of the dynamic section: 4,096 entries.
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;
/// Names and paths are at most this long (Linux' `PATH_MAX`).
const STRING_BYTES_MAX: usize = 4096;
/// What of one writable segment is called touched; relocations come first in it.
const WRITABLE_BYTES_MAX: u64 = 32 << 20;
/// What of the constants is called touched: what initializers read of them lies all over them.
const CONSTANTS_BYTES_MAX: u64 = 4 << 20;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Magic, 64 bits, little endian.
const IDENT: &[u8] = b"\x7fELF\x02\x01";
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_W: u32 = 2;

/// A program header.
#[derive(Debug, Clone)]
struct Segment {
    kind: u32,
    writable: bool,
    address: u64,
    /// What of the file is in it.
    file: Range<u64>,
}

/// A piece of the file that is kept.
#[derive(Debug)]
struct Window {
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Keeps what `bytes`, which stand at `offset` in the file, have of this piece.
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        let (from, to) = (offset.max(self.start), end.min(self.end));
        let place = |at: u64| usize::try_from(at.saturating_sub(offset)).ok();
        if let (Some(from), Some(to)) = (place(from), place(to))
            && let Some(wanted) = bytes.get(from..to)
        {
            self.bytes.extend_from_slice(wanted);
        }
    }
}

/// Keeps what is asked for of a file that may be ELF.
#[derive(Debug, Default)]
pub(super) struct ElfCapture {
    passed_bytes: u64,
    /// The first bytes, until the program headers are complete.
    head: Vec<u8>,
    segments: Vec<Segment>,
    /// Sorted and disjoint.
    windows: Vec<Window>,
}

/// What the first bytes of a file say.
enum Headers {
    Incomplete,
    Foreign,
    Complete(Vec<Segment>),
}

impl ElfCapture {
    /// Takes the next bytes. `false` when the file is not of interest.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let offset = self.passed_bytes;
        self.passed_bytes = offset.saturating_add(bytes.len() as u64);
        if self.windows.is_empty() {
            if self.head.is_empty() && !begins_alike(bytes, IDENT) {
                return false;
            }
            let room = HEADERS_BYTES_MAX.saturating_sub(self.head.len());
            let before = self.head.len();
            self.head.extend(bytes.iter().take(room));
            match headers(&self.head) {
                Headers::Incomplete => return self.head.len() < HEADERS_BYTES_MAX,
                Headers::Foreign => return false,
                Headers::Complete(segments) => self.segments = segments,
            }
            self.windows = windows(&self.segments);
            for window in &mut self.windows {
                window.take(0, self.head.get(..before).unwrap_or_default());
            }
        }
        for window in &mut self.windows {
            window.take(offset, bytes);
        }
        true
    }

    /// Ends a file of `size_bytes`.
    pub(super) fn finish(self, size_bytes: u64) -> Option<ElfNeeds> {
        if self.windows.is_empty() {
            return None;
        }
        let mut touched = vec![HEADERS];
        let mut needs = ElfNeeds::default();
        for segment in &self.segments {
            match segment.kind {
                PT_LOAD if segment.writable => {
                    touched.push(capped(&segment.file, WRITABLE_BYTES_MAX));
                }
                // Constants are what precedes the unwinder's table in its segment.
                PT_GNU_EH_FRAME => {
                    let holds = |load: &&Segment| {
                        load.kind == PT_LOAD && load.file.contains(&segment.file.start)
                    };
                    if let Some(load) = self.segments.iter().find(holds) {
                        let constants = load.file.start..segment.file.start;
                        touched.push(capped(&constants, CONSTANTS_BYTES_MAX));
                    }
                }
                PT_INTERP => {
                    touched.push(capped(&segment.file, STRING_BYTES_MAX as u64));
                    needs.interpreter = self.string(&segment.file);
                }
                _ => {}
            }
        }
        if let Some(segment) = dynamic_segment(&self.segments) {
            let section = capped(&segment.file, DYNAMIC_BYTES_MAX);
            let dynamic = Dynamic::read(self.kept(&section).unwrap_or_default());
            touched.push(section);
            touched.extend(dynamic.tables(&self.segments));
            self.name(&dynamic, &mut needs);
        }
        needs.ranges = merge(touched, size_bytes);
        needs.ranges.truncate(RANGES_MAX);
        Some(needs)
    }

    /// Looks the names of a dynamic section up in its table of strings.
    fn name(&self, dynamic: &Dynamic, needs: &mut ElfNeeds) {
        let Some(strings) = dynamic.strings(&self.segments) else {
            return;
        };
        let string = |at: &u64| {
            let start = strings.start.checked_add(*at)?;
            (start < strings.end).then(|| self.string(&(start..strings.end)))?
        };
        needs.needed = dynamic.needed.iter().filter_map(string).collect();
        needs.run_paths = dynamic
            .run_path()
            .and_then(|at| string(&at))
            .iter()
            .flat_map(|paths| paths.split(|byte| *byte == b':'))
            .filter(|path| !path.is_empty())
            .take(dynamic::NAMES_MAX)
            .map(<[u8]>::to_vec)
            .collect();
    }

    /// The bytes of a string that ends before or at the end of `place`, if it was kept.
    fn string(&self, place: &Range<u64>) -> Option<Vec<u8>> {
        let rest = self.kept_from(place.start)?;
        let max = usize::try_from(place.end.saturating_sub(place.start)).unwrap_or(usize::MAX);
        let rest = rest.get(..rest.len().min(max).min(STRING_BYTES_MAX))?;
        let len = rest.iter().position(|byte| *byte == 0)?;
        (len > 0).then(|| rest.get(..len).map(<[u8]>::to_vec))?
    }

    fn kept(&self, place: &Range<u64>) -> Option<&[u8]> {
        let len = usize::try_from(place.end.checked_sub(place.start)?).ok()?;
        self.kept_from(place.start)?.get(..len)
    }

    fn kept_from(&self, start: u64) -> Option<&[u8]> {
        let window = self
            .windows
            .iter()
            .find(|window| (window.start..window.end).contains(&start))?;
        let at = usize::try_from(start.checked_sub(window.start)?).ok()?;
        window.bytes.get(at..)
    }
}

/// Reads the header and the program headers from the first bytes of a file.
fn headers(head: &[u8]) -> Headers {
    if !begins_alike(head, IDENT) {
        return Headers::Foreign;
    }
    if head.len() < HEADER_BYTES {
        return Headers::Incomplete;
    }
    let is_read = matches!(u16_at(head, 16), Some(ET_EXEC | ET_DYN))
        && matches!(u16_at(head, 18), Some(EM_X86_64 | EM_AARCH64))
        && u16_at(head, 54).map(usize::from) == Some(PROGRAM_HEADER_BYTES);
    let start = u64_at(head, 32).and_then(|at| usize::try_from(at).ok());
    let count = u16_at(head, 56).map(u64::from);
    let (true, Some(start), Some(count @ 1..=PROGRAM_HEADERS_MAX)) = (is_read, start, count) else {
        return Headers::Foreign;
    };
    let len = usize::try_from(count).unwrap_or(usize::MAX) * PROGRAM_HEADER_BYTES;
    let Some(end) = start
        .checked_add(len)
        .filter(|end| *end <= HEADERS_BYTES_MAX)
    else {
        return Headers::Foreign;
    };
    let Some(table) = head.get(start..end) else {
        return Headers::Incomplete;
    };
    let segments = table.chunks_exact(PROGRAM_HEADER_BYTES).filter_map(segment);
    Headers::Complete(segments.collect())
}

/// Reads a program header. `None` for one that takes nothing of the file.
fn segment(header: &[u8]) -> Option<Segment> {
    let start = u64_at(header, 8)?;
    let end = start.checked_add(u64_at(header, 32)?)?;
    (end > start).then_some(Segment {
        kind: u32_at(header, 0)?,
        writable: u32_at(header, 4)? & PF_W != 0,
        address: u64_at(header, 16)?,
        file: start..end,
    })
}

/// Which pieces of the file are kept. Never none.
fn windows(segments: &[Segment]) -> Vec<Window> {
    let loaded = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let first = loaded()
        .map(|load| load.file.clone())
        .min_by_key(|file| file.start);
    let last = loaded()
        .map(|load| load.file.clone())
        .max_by_key(|file| file.start);
    let mut wanted = vec![HEADERS];
    wanted.extend(first.map(|file| capped(&file, FIRST_SEGMENT_BYTES_MAX)));
    wanted.extend(last.map(|file| capped(&file, LAST_SEGMENT_BYTES_MAX)));
    wanted
        .extend(dynamic_segment(segments).map(|segment| capped(&segment.file, DYNAMIC_BYTES_MAX)));
    merge(wanted, u64::MAX)
        .into_iter()
        .map(|range| Window {
            start: range.start,
            end: range.end,
            bytes: Vec::new(),
        })
        .collect()
}

fn dynamic_segment(segments: &[Segment]) -> Option<&Segment> {
    segments.iter().find(|segment| segment.kind == PT_DYNAMIC)
}

/// Where in the file the byte at `address` is, and where the file part of its segment ends.
fn place(segments: &[Segment], address: u64) -> Option<(u64, u64)> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let at = address.checked_sub(segment.address)?;
            let offset = segment.file.start.checked_add(at)?;
            (offset < segment.file.end).then_some((offset, segment.file.end))
        })
}

/// The first `max` bytes of a range.
fn capped(range: &Range<u64>, max: u64) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(max))
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes
        .iter()
        .zip(start)
        .all(|(byte, expected)| byte == expected)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
