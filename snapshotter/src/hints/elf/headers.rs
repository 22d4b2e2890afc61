//! The header and the program headers of an ELF file: what of the file is loaded where.

use std::ops::Range;

/// What the header and the program headers take at most.
pub(super) const HEADERS_BYTES_MAX: usize = 4096;
pub(super) const HEADERS: Range<u64> = 0..HEADERS_BYTES_MAX as u64;
pub(super) const PROGRAM_HEADERS_MAX: u64 = 64;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const PROGRAM_HEADER_BYTES: usize = 56;
/// Magic, 64 bits, little endian.
pub(super) const IDENT: &[u8] = b"\x7fELF\x02\x01";
pub(super) const ET_EXEC: u16 = 2;
pub(super) const ET_DYN: u16 = 3;
pub(super) const EM_X86_64: u16 = 62;
pub(super) const EM_AARCH64: u16 = 183;
pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_DYNAMIC: u32 = 2;
pub(super) const PT_INTERP: u32 = 3;
pub(super) const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub(super) const PF_X: u32 = 1;
pub(super) const PF_W: u32 = 2;

/// What the first bytes of a file say.
pub(super) enum Headers {
    Incomplete,
    Foreign,
    Complete(Vec<Segment>),
}

/// A program header.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) writable: bool,
    pub(super) executable: bool,
    pub(super) address: u64,
    /// What of the file is in it.
    pub(super) file: Range<u64>,
}

/// What is loaded from the file, in the order of the program headers.
pub(super) fn loaded(segments: &[Segment]) -> impl Iterator<Item = &Segment> {
    segments.iter().filter(|segment| segment.kind == PT_LOAD)
}

/// Where the constants are: what precedes the unwinder's table in its segment.
pub(super) fn constants(segments: &[Segment]) -> Option<Range<u64>> {
    let unwinder = segments
        .iter()
        .find(|segment| segment.kind == PT_GNU_EH_FRAME)?;
    let end = unwinder.file.start;
    let load = loaded(segments).find(|load| load.file.contains(&end))?;
    Some(load.file.start..end)
}

/// Reads the header and the program headers from the first bytes of a file.
pub(super) fn headers(head: &[u8]) -> Headers {
    if !begins_alike(head, IDENT) {
        return Headers::Foreign;
    }
    if head.len() < HEADER_BYTES {
        return Headers::Incomplete;
    }
    let is_read = matches!(u16_at(head, 16), Some(ET_EXEC | ET_DYN))
        && matches!(machine(head), Some(EM_X86_64 | EM_AARCH64))
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

/// The machine that a file is for, by its first bytes.
pub(super) fn machine(head: &[u8]) -> Option<u16> {
    u16_at(head, 18)
}

/// Reads a program header. `None` for one that takes nothing of the file.
pub(super) fn segment(header: &[u8]) -> Option<Segment> {
    let start = u64_at(header, 8)?;
    let end = start.checked_add(u64_at(header, 32)?)?;
    (end > start).then_some(Segment {
        kind: u32_at(header, 0)?,
        writable: u32_at(header, 4)? & PF_W != 0,
        executable: u32_at(header, 4)? & PF_X != 0,
        address: u64_at(header, 16)?,
        file: start..end,
    })
}

pub(super) fn dynamic_segment(segments: &[Segment]) -> Option<&Segment> {
    segments.iter().find(|segment| segment.kind == PT_DYNAMIC)
}

/// Where in the file the byte at `address` is, and where the file part of its segment ends.
pub(super) fn place(segments: &[Segment], address: u64) -> Option<(u64, u64)> {
    loaded(segments).find_map(|segment| {
        let at = address.checked_sub(segment.address)?;
        let offset = segment.file.start.checked_add(at)?;
        (offset < segment.file.end).then_some((offset, segment.file.end))
    })
}

/// The first `max` bytes of a range.
pub(super) fn capped(range: &Range<u64>, max: u64) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(max))
}

/// Whether `bytes` begin with `start`, as far as they go.
pub(super) fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes
        .iter()
        .zip(start)
        .all(|(byte, expected)| byte == expected)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
