//! Which functions of a library run when it is loaded: its constructors, and what these call.
//!
//! What constructors call lies all over a large library, and each place would be a request of its
//! own, one after the other. Only the first steps are told: instructions are not decoded, but those
//! that hold a distance to another place (`call`, `jmp` and `lea` with 32 bits, Intel SDM volume 2)
//! are found by their first bytes. What is found by mistake leads somewhere else mostly, and is
//! dropped. Only x86-64; relocations: System V psABI, AMD64 supplement, chapter 4.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::ElfCapture;
use super::dynamic::Dynamic;
use super::headers::{Segment, place, u16_at, u32_at, u64_at};

/// Constructors that are looked into.
const CONSTRUCTORS_MAX: usize = 4096;
/// What of one is looked at, unless the next one comes before.
const CONSTRUCTOR_BYTES_MAX: u64 = 4096;
/// Entries of the table of addresses that are looked at.
const SLOTS_MAX: usize = 1 << 17;
/// Places that are called.
const CALLED_MAX: usize = 4096;
/// What of a function is called read, since its length is not known.
const FUNCTION_BYTES: u64 = 256;
/// Blocks of the file, of about a chunk, that are named at most, with the most functions: a library
/// may register thousands that it does not call.
const BLOCK_BYTES: u64 = 256 << 10;
const BLOCKS_MAX: usize = 64;

/// What the kernel reads around the page of a fault (Linux, `do_sync_mmap_readahead`, by what the
/// file system's mount sets): half of it before, half behind.
const FAULT_BYTES: u64 = 64 << 10;

const RELOCATION_BYTES: usize = 24;
const SYMBOL_BYTES: u64 = 24;
const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;
const R_X86_64_RELATIVE: u32 = 8;

/// Returns what of the file runs when it is loaded, as far as that is told by what was kept: of each
/// block one range.
pub(super) fn ranges(capture: &ElfCapture, dynamic: &Dynamic) -> Vec<Range<u64>> {
    let mut blocks = BTreeMap::<u64, (usize, Range<u64>)>::new();
    for function in functions(capture, dynamic) {
        let block = blocks.entry(function.start / BLOCK_BYTES);
        let (count, range) = block.or_insert_with(|| (0, function.clone()));
        *count += 1;
        *range = range.start.min(function.start)..range.end.max(function.end);
    }
    let mut blocks: Vec<_> = blocks.into_values().collect();
    blocks.sort_by_key(|(count, _)| Reverse(*count));
    blocks.truncate(BLOCKS_MAX);
    let around = |range: Range<u64>| {
        let (start, end) = (range.start, range.end);
        start.saturating_sub(FAULT_BYTES / 2)..end.saturating_add(FAULT_BYTES / 2)
    };
    blocks.into_iter().map(|(_, range)| around(range)).collect()
}

/// Returns where the constructors and what they call begin.
fn functions(capture: &ElfCapture, dynamic: &Dynamic) -> Vec<Range<u64>> {
    let code = Code::of(capture, dynamic);
    let constructors = code.constructors(dynamic);
    let mut called: Vec<u64> = Vec::new();
    for (number, constructor) in constructors.iter().enumerate() {
        let end = constructor.saturating_add(CONSTRUCTOR_BYTES_MAX);
        let next = constructors.get(number + 1).copied().unwrap_or(end);
        let room = CALLED_MAX.saturating_sub(called.len());
        called.extend(code.called_by(*constructor..end.min(next)).take(room));
    }
    let functions = constructors.into_iter().chain(called);
    let range = |address| {
        let (start, limit) = place(code.segments, address)?;
        Some(start..limit.min(start.saturating_add(FUNCTION_BYTES)))
    };
    functions.filter_map(range).collect()
}

struct Code<'a> {
    capture: &'a ElfCapture,
    segments: &'a [Segment],
    /// Addresses that the dynamic linker fills in, and what it fills in.
    slots: HashMap<u64, u64>,
}

/// A relocation: where, of which type, for which symbol, and what is added.
type Relocation = (u64, u32, u32, u64);

impl<'a> Code<'a> {
    fn of(capture: &'a ElfCapture, dynamic: &Dynamic) -> Self {
        let mut code = Self {
            capture,
            segments: &capture.segments,
            slots: HashMap::new(),
        };
        let symbols = dynamic.symbols(code.segments);
        for table in dynamic.relocations(code.segments) {
            for (at, kind, symbol, _) in code.relocations(&table) {
                let is_address = matches!(kind, R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT);
                if is_address
                    && code.slots.len() < SLOTS_MAX
                    && let Some(symbols) = symbols
                    && let Some(address) = code.symbol(symbols, symbol)
                {
                    code.slots.insert(at, address);
                }
            }
        }
        code
    }

    fn relocations(&self, table: &Range<u64>) -> impl Iterator<Item = Relocation> + use<'a> {
        let bytes = self.capture.kept_of(table);
        bytes.chunks_exact(RELOCATION_BYTES).filter_map(|entry| {
            let kind = u32_at(entry, 8)?;
            Some((
                u64_at(entry, 0)?,
                kind,
                u32_at(entry, 12)?,
                u64_at(entry, 16)?,
            ))
        })
    }

    /// The address of a symbol that this library defines. `symbols` is where its table is.
    fn symbol(&self, symbols: u64, number: u32) -> Option<u64> {
        let start = symbols.checked_add(u64::from(number) * SYMBOL_BYTES)?;
        let entry = self
            .capture
            .kept(&(start..start.checked_add(SYMBOL_BYTES)?))?;
        (u16_at(entry, 6)? != 0).then(|| u64_at(entry, 8))?
    }

    /// The addresses of the constructors, in ascending order.
    fn constructors(&self, dynamic: &Dynamic) -> Vec<u64> {
        let Some(array) = dynamic.constructors() else {
            return Vec::new();
        };
        let symbols = dynamic.symbols(self.segments);
        // One that others can call is named by its symbol.
        let address = |kind, symbol, addend| match kind {
            R_X86_64_RELATIVE => Some(addend),
            R_X86_64_64 => Some(self.symbol(symbols?, symbol)?.wrapping_add(addend)),
            _ => None,
        };
        let mut found: Vec<u64> = dynamic
            .relocations(self.segments)
            .iter()
            .flat_map(|table| self.relocations(table))
            .filter(|(at, ..)| array.contains(at))
            .filter_map(|(_, kind, symbol, addend)| address(kind, symbol, addend))
            .filter(|address| self.is_code(*address))
            .take(CONSTRUCTORS_MAX)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn is_code(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| {
            let len = segment.file.end - segment.file.start;
            let at = address.checked_sub(segment.address);
            segment.executable && at.is_some_and(|at| at < len)
        })
    }

    /// The places that the code at some addresses calls, jumps to or takes the address of.
    fn called_by(&self, addresses: Range<u64>) -> impl Iterator<Item = u64> {
        let start = addresses.start;
        let bytes = self.kept_at(&addresses);
        let distances = (0..bytes.len()).filter_map(move |at| {
            let (len, is_slot) = match *bytes.get(at..)? {
                [0xe8 | 0xe9, ..] => (1, false),
                [0xff, 0x15 | 0x25, ..] => (2, true),
                [0x8d, mode, ..] if mode & 0xc7 == 5 => (2, false),
                _ => return None,
            };
            let target = relative(start, bytes, at + len)?;
            if is_slot {
                self.slots.get(&target).copied()
            } else {
                Some(self.behind_stub(target).unwrap_or(target))
            }
        });
        distances.filter(|target| self.is_code(*target))
    }

    /// Where a stub of the procedure linkage table leads: `endbr64` or not, `bnd` or not, and a
    /// jump by way of a slot.
    fn behind_stub(&self, address: u64) -> Option<u64> {
        const STUB_BYTES: u64 = 16;
        let bytes = self.kept_at(&(address..address.checked_add(STUB_BYTES)?));
        let jump = match *bytes {
            [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, ..] => 6,
            [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, ..] => 7,
            [0xff, 0x25, ..] => 2,
            _ => return None,
        };
        let slot = relative(address, bytes, jump)?;
        self.slots.get(&slot).copied()
    }

    /// What was kept of the file at some addresses, from the first on.
    fn kept_at(&self, addresses: &Range<u64>) -> &'a [u8] {
        let Some((start, limit)) = place(self.segments, addresses.start) else {
            return &[];
        };
        let len = addresses.end.saturating_sub(addresses.start);
        self.capture
            .kept_of(&(start..limit.min(start.saturating_add(len))))
    }
}

/// Where the distance leads that stands `at` bytes behind the address `start`, and is counted from its
/// own end.
fn relative(start: u64, bytes: &[u8], at: usize) -> Option<u64> {
    let distance = u32_at(bytes, at)?.cast_signed();
    let end = start.checked_add(at as u64)?.checked_add(4)?;
    end.checked_add_signed(distance.into())
}

#[cfg(test)]
mod tests;
