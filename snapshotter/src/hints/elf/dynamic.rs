//! The dynamic section: which tables the dynamic linker reads.

use std::ops::Range;

use super::headers::{Segment, place, u64_at};

/// Libraries, and directories to look for them.
pub(super) const NAMES_MAX: usize = 256;
/// What is taken of a table that does not say its size and has none behind it.
const UNSIZED_BYTES: u64 = 4096;
const ENTRY_BYTES: usize = 16;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_PLTRELSZ: u64 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_JMPREL: u64 = 23;
const DT_INIT_ARRAY: u64 = 25;
const DT_INIT_ARRAYSZ: u64 = 27;
const DT_RUNPATH: u64 = 29;
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERNEED: u64 = 0x6fff_fffe;

/// A table: its tag, and the tag of its size if that is told.
const TABLES: [(u64, Option<u64>); 10] = [
    (DT_STRTAB, Some(DT_STRSZ)),
    (DT_RELA, Some(DT_RELASZ)),
    (DT_JMPREL, Some(DT_PLTRELSZ)),
    (DT_RELR, Some(DT_RELRSZ)),
    (DT_SYMTAB, None),
    (DT_HASH, None),
    (DT_GNU_HASH, None),
    (DT_VERSYM, None),
    (DT_VERDEF, None),
    (DT_VERNEED, None),
];

/// What a dynamic section says.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    /// Where in the table of strings the names of libraries are.
    pub(super) needed: Vec<u64>,
    /// Tags and their values.
    entries: Vec<(u64, u64)>,
}

impl Dynamic {
    pub(super) fn read(section: &[u8]) -> Self {
        let mut dynamic = Self::default();
        for entry in section.chunks_exact(ENTRY_BYTES) {
            let (Some(tag), Some(value)) = (u64_at(entry, 0), u64_at(entry, 8)) else {
                break;
            };
            match tag {
                DT_NULL => break,
                DT_NEEDED if dynamic.needed.len() < NAMES_MAX => dynamic.needed.push(value),
                _ if is_read(tag) && dynamic.value(tag).is_none() => {
                    dynamic.entries.push((tag, value));
                }
                _ => {}
            }
        }
        dynamic
    }

    fn value(&self, tag: u64) -> Option<u64> {
        let entry = self.entries.iter().find(|(found, _)| *found == tag);
        entry.map(|(_, value)| *value)
    }

    /// Where in the table of strings the list of directories is.
    pub(super) fn run_path(&self) -> Option<u64> {
        self.value(DT_RUNPATH).or_else(|| self.value(DT_RPATH))
    }

    /// Where in the file the table of strings is.
    pub(super) fn strings(&self, segments: &[Segment]) -> Option<Range<u64>> {
        self.table(segments, DT_STRTAB, Some(DT_STRSZ))
            .map(|table| table.start..table.end.unwrap_or(table.limit))
    }

    /// Where in the file the tables of relocations are that say how long they are.
    pub(super) fn relocations(&self, segments: &[Segment]) -> Vec<Range<u64>> {
        let tables = [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)];
        let tables = tables.iter().filter_map(|(tag, size)| {
            let table = self.table(segments, *tag, Some(*size))?;
            Some(table.start..table.end?)
        });
        tables.collect()
    }

    /// Where in the file the table of symbols starts.
    pub(super) fn symbols(&self, segments: &[Segment]) -> Option<u64> {
        Some(self.table(segments, DT_SYMTAB, None)?.start)
    }

    /// At which addresses the addresses of the constructors are.
    pub(super) fn constructors(&self) -> Option<Range<u64>> {
        let start = self.value(DT_INIT_ARRAY)?;
        Some(start..start.checked_add(self.value(DT_INIT_ARRAYSZ)?)?)
    }

    /// Where in the file the tables are. One that does not say its size reaches to the next one.
    pub(super) fn tables(&self, segments: &[Segment]) -> Vec<Range<u64>> {
        let mut tables: Vec<Table> = TABLES
            .iter()
            .filter_map(|(tag, size)| self.table(segments, *tag, *size))
            .collect();
        tables.sort_unstable_by_key(|table| table.start);
        let starts: Vec<u64> = tables.iter().map(|table| table.start).collect();
        tables
            .iter()
            .map(|table| {
                let behind = starts
                    .iter()
                    .find(|start| (table.start + 1..table.limit).contains(*start));
                let guess = || table.limit.min(table.start.saturating_add(UNSIZED_BYTES));
                let end = table.end.or_else(|| behind.copied());
                table.start..end.unwrap_or_else(guess)
            })
            .collect()
    }

    fn table(&self, segments: &[Segment], tag: u64, size: Option<u64>) -> Option<Table> {
        let (start, limit) = place(segments, self.value(tag)?)?;
        let size = size.and_then(|size| self.value(size));
        let end = size.map(|size| start.saturating_add(size).min(limit));
        Some(Table { start, end, limit })
    }
}

/// A table in the file; `limit` is where its segment ends.
#[derive(Debug)]
struct Table {
    start: u64,
    end: Option<u64>,
    limit: u64,
}

fn is_read(tag: u64) -> bool {
    matches!(tag, DT_RPATH | DT_RUNPATH | DT_INIT_ARRAY | DT_INIT_ARRAYSZ)
        || TABLES
            .iter()
            .any(|(table, size)| *table == tag || *size == Some(tag))
}
