//! What the dynamic linker reads of an executable or a shared object.
//!
//! Layout of headers, segments and the dynamic section: System V gABI, chapters 4 and 5. Which tags
//! are read, and that `DT_RUNPATH` hides `DT_RPATH`: glibc, `elf/dl-load.c` and
//! `elf/dl-reloc.c`. Only 64-bit little-endian objects for x86-64 and aarch64 are read.
//!
//! Program headers are at the beginning of a file and say where the dynamic section is, which is
//! most often near its end. So what passes is kept where it may be asked for: the first segment,
//! which has the strings and the symbols; the last one, where `patchelf` puts strings that grew,
//! as in most Python wheels; the dynamic section; of a large file the beginning of the code, where
//! linkers put the constructors; of an extension module of Python the constants. At most 22 MiB.

mod constructors;
mod dynamic;
mod headers;
mod ranges;

use std::ops::Range;

use super::{ElfNeeds, WHOLE_BYTES_MAX, extension};
use dynamic::Dynamic;
use headers::{
    EM_X86_64, HEADERS, HEADERS_BYTES_MAX, Headers, IDENT, PT_INTERP, PT_LOAD, Segment,
    begins_alike, capped, constants, dynamic_segment, headers, loaded, machine,
};
use ranges::merge;

/// Most have some three, large ones of C++ some forty.
const RANGES_MAX: usize = 256;
/// What is kept of the first segment.
const FIRST_SEGMENT_BYTES_MAX: u64 = 8 << 20;
/// What is kept of a segment of code, and of how many.
const CODE_BYTES_MAX: u64 = 4 << 20;
const CODE_SEGMENTS_MAX: usize = 2;
/// What is kept of the last segment.
const LAST_SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// What is kept of the dynamic section: 4,096 entries.
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;
/// Names and paths are at most this long (Linux' `PATH_MAX`).
const STRING_BYTES_MAX: usize = 4096;
/// What of one writable segment is called touched; relocations come first in it.
const WRITABLE_BYTES_MAX: u64 = 32 << 20;
/// What of the constants is called touched: what initializers read of them lies all over them. And
/// what is kept of them.
const CONSTANTS_BYTES_MAX: u64 = 4 << 20;

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
    /// Whether its constants may name modules of Python.
    is_extension: bool,
    /// Sorted and disjoint.
    windows: Vec<Window>,
}

impl ElfCapture {
    /// A capture of an extension module of Python, or of any other file.
    pub(super) fn new(is_extension: bool) -> Self {
        Self {
            is_extension,
            ..Self::default()
        }
    }

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
            self.windows = self.wanted();
            for window in &mut self.windows {
                window.take(0, self.head.get(..before).unwrap_or_default());
            }
        }
        for window in &mut self.windows {
            window.take(offset, bytes);
        }
        true
    }

    /// Which pieces of the file are to be kept. Never none.
    fn wanted(&self) -> Vec<Window> {
        let segments = &self.segments;
        let files = || loaded(segments).map(|load| load.file.clone());
        let first = files().min_by_key(|file| file.start);
        let last = files().max_by_key(|file| file.start);
        let mut wanted = vec![HEADERS];
        wanted.extend(first.map(|file| capped(&file, FIRST_SEGMENT_BYTES_MAX)));
        wanted.extend(last.map(|file| capped(&file, LAST_SEGMENT_BYTES_MAX)));
        let section = dynamic_segment(segments);
        wanted.extend(section.map(|section| capped(&section.file, DYNAMIC_BYTES_MAX)));
        if files().any(|file| file.end > WHOLE_BYTES_MAX) {
            let code = loaded(segments).filter(|load| load.executable);
            let code = code.take(CODE_SEGMENTS_MAX);
            wanted.extend(code.map(|load| capped(&load.file, CODE_BYTES_MAX)));
        }
        if self.is_extension {
            wanted.extend(constants(segments).as_ref().map(last_of));
        }
        let windows = merge(wanted, u64::MAX).into_iter();
        windows
            .map(|range| Window {
                start: range.start,
                end: range.end,
                bytes: Vec::new(),
            })
            .collect()
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
                PT_INTERP => {
                    touched.push(capped(&segment.file, STRING_BYTES_MAX as u64));
                    needs.interpreter = self.string(&segment.file);
                }
                _ => {}
            }
        }
        if let Some(constants) = constants(&self.segments) {
            touched.push(capped(&constants, CONSTANTS_BYTES_MAX));
            if self.is_extension {
                needs.modules = extension::names(self.kept_of(&last_of(&constants)));
            }
        }
        if let Some(segment) = dynamic_segment(&self.segments) {
            let section = capped(&segment.file, DYNAMIC_BYTES_MAX);
            let dynamic = Dynamic::read(self.kept(&section).unwrap_or_default());
            touched.push(section);
            touched.extend(dynamic.tables(&self.segments));
            if machine(&self.head) == Some(EM_X86_64) {
                touched.extend(constructors::ranges(&self, &dynamic));
            }
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

    /// As much of `place` as was kept, from its start on.
    fn kept_of(&self, place: &Range<u64>) -> &[u8] {
        let kept = self.kept_from(place.start).unwrap_or_default();
        let len = usize::try_from(place.end.saturating_sub(place.start)).unwrap_or(usize::MAX);
        kept.get(..len).unwrap_or(kept)
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

/// The last of the constants, which are behind the code where both are in one segment.
fn last_of(constants: &Range<u64>) -> Range<u64> {
    constants
        .start
        .max(constants.end.saturating_sub(CONSTANTS_BYTES_MAX))..constants.end
}

#[cfg(test)]
mod tests;
