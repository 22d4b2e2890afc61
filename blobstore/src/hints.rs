//! Hints: which files are read with a file, known without a start having been recorded.
//!
//! A program loads its libraries, a module imports others: most of what a start reads can be told
//! from the files themselves. Hints are that graph for one image, by content. They keep nothing
//! alive and promise nothing: a wrong one costs a fetch in vain.
//!
//! ```text
//! "NHT2" | small uvarint | count uvarint | content*, sorted by id           at most 16 MiB
//! content: id | size uvarint
//!          ranges: count uvarint | (bytes after the last range uvarint, length uvarint)*
//!          needs: count uvarint | number of a content uvarint*
//! after the contents, what every start reads: count uvarint | number of a content uvarint*
//! ```
//! Without ranges all of a content is read. Needs are in the order in which they are read. Contents of at
//! most `small` bytes that need nothing stand in the metadata image. In the first form, "NHT1", which is read as well, there is
//! no `small`, and none does.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::wire::{Put, Truncated, Wire};
use crate::{ContentId, Digest};

const MAGIC: &[u8; 4] = b"NHT2";
const MAGIC_1: &[u8; 4] = b"NHT1";
/// Largest encoded hints, in bytes.
pub const HINTS_BYTES_MAX: usize = 16 << 20;
/// Most contents of hints; those with the greatest ids are left out beyond it.
pub const HINTED_CONTENTS_MAX: usize = 1 << 18;
/// Most needs of all contents together.
const NEEDS_MAX: usize = 1 << 22;
/// Contents that wait to be given out; what would come last is found at its turn beyond it.
const REST_MAX: usize = 1 << 16;
/// Least bytes of an encoded content, and of a range.
const CONTENT_BYTES_MIN: usize = Digest::LEN + 3;
const RANGE_BYTES_MIN: usize = 2;

/// Why hints are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed hints: {0}")]
pub struct HintsError(&'static str);

impl From<Truncated> for HintsError {
    fn from(error: Truncated) -> Self {
        Self(error.0)
    }
}

/// What is known of one content, for [`Hints::new`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentHint {
    /// Its length.
    pub size_bytes: u64,
    /// What of it is read when it is loaded, sorted and apart; none means all.
    pub ranges: Vec<Range<u64>>,
    /// What is read with it, in that order.
    pub needs: Vec<ContentId>,
}

/// A content that is read with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hinted<'a> {
    /// The content.
    pub content: ContentId,
    /// Its length.
    pub size_bytes: u64,
    /// What of it is read when it is loaded; none means all.
    pub ranges: &'a [Range<u64>],
}

/// The hints of one image: 60 bytes of memory a content, 4 a need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    contents: Vec<(ContentId, u64)>,
    ranges: Lists<Range<u64>>,
    needs: Lists<u32>,
    start: Vec<u32>,
    small_bytes: u64,
}

/// Lists of varying length, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lists<T> {
    ends: Vec<u32>,
    values: Vec<T>,
}

/// Which contents of some hints were given out, and which were read.
#[derive(Debug, Default)]
pub struct HintsWalk {
    given: Numbers,
    read: Numbers,
    /// What there was no room for, the next one last.
    rest: Vec<usize>,
    /// Bytes of it that may be given out.
    room_bytes: u64,
}

impl HintsWalk {
    /// Leaves contents for later, the next one last.
    fn leave(&mut self, contents: impl IntoIterator<Item = usize>) {
        self.rest.extend(contents);
        let beyond = self.rest.len().saturating_sub(REST_MAX);
        self.rest.drain(..beyond);
    }
}

/// A set of numbers of contents.
#[derive(Debug, Default)]
struct Numbers(Vec<u64>);

impl Numbers {
    /// Adds a number; `false` when it was there.
    fn insert(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    fn contains(&self, number: usize) -> bool {
        let word = self.0.get(number / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

impl Hints {
    /// Makes hints of what is known of each content and what every start reads, in that order. What is
    /// needed and not among the contents is dropped, as is what is beyond a limit.
    pub fn new(mut known: BTreeMap<ContentId, ContentHint>, start: &[ContentId]) -> Self {
        while known.len() > HINTED_CONTENTS_MAX {
            known.pop_last();
        }
        let ids: Vec<ContentId> = known.keys().copied().collect();
        let number = |need: &ContentId| u32::try_from(ids.binary_search(need).ok()?).ok();
        let mut hints = Self {
            start: start.iter().filter_map(number).take(NEEDS_MAX).collect(),
            ..Self::default()
        };
        for (content, hint) in known {
            let size_bytes = hint.size_bytes;
            let inside = |range: &Range<u64>| range.start < range.end && range.end <= size_bytes;
            let apart = hint.ranges.windows(2).all(|two| two[0].end <= two[1].start);
            let ranges = if apart && hint.ranges.iter().all(inside) {
                hint.ranges
            } else {
                Vec::new()
            };
            let room = NEEDS_MAX.saturating_sub(hints.needs.values.len());
            hints.contents.push((content, size_bytes));
            hints.ranges.push(ranges);
            let needs = hint.needs.iter().filter_map(number).take(room);
            hints.needs.push(needs);
        }
        hints
    }

    /// Says that contents of at most so many bytes that need nothing are at hand where the hints are, so
    /// that they are not given out. It is 0 unless set.
    pub const fn set_small_bytes(&mut self, bytes: u64) {
        self.small_bytes = bytes;
    }

    /// Returns how many contents are in it.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Tells whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Returns the contents that need others.
    pub fn needing(&self) -> impl Iterator<Item = ContentId> {
        let contents = self.contents.iter().enumerate();
        contents.filter_map(|(number, (content, _))| {
            (!self.needs.get(number).is_empty()).then_some(*content)
        })
    }

    /// Returns the contents, in the order of their ids.
    pub fn contents(&self) -> impl Iterator<Item = ContentId> {
        self.contents.iter().map(|(content, _)| *content)
    }

    /// Gives out a content and what is read with it, and with that, and so on, in the order in which
    /// programs read: what one needs comes before what its sibling needs. What was given out before
    /// is left out. Ends when the contents make `bytes_max`, counting of each what is read. What is left
    /// then follows when something is read, in steps of what is read: so `bytes_max` are ahead. What is
    /// read directly with a content that was given out before is given out once more at its first read,
    /// for it may have been forgotten since.
    pub fn read_with(
        &self,
        content: ContentId,
        walk: &mut HintsWalk,
        bytes_max: u64,
    ) -> Vec<Hinted<'_>> {
        let Some(number) = self.number(content) else {
            return Vec::new();
        };
        let was_given = walk.given.contains(number);
        let mut given = self.walk(vec![number], walk, bytes_max);
        if walk.read.insert(number) {
            walk.room_bytes = walk.room_bytes.saturating_add(self.bytes_read(number));
            for need in self.needed_by(number).filter(|_| was_given) {
                if !walk.read.contains(need) {
                    given.extend(self.give(need, walk));
                }
            }
        }
        self.walk_on(walk, &mut given);
        given
    }

    /// Gives out what every start reads, and what is read with that, as
    /// [`read_with`](Self::read_with) does.
    pub fn read_at_start(&self, walk: &mut HintsWalk, bytes_max: u64) -> Vec<Hinted<'_>> {
        let start = self.start.iter().rev().map(|number| *number as usize);
        self.walk(start.collect(), walk, bytes_max)
    }

    /// Goes on from the contents in `stack`, the last first.
    fn walk(&self, mut stack: Vec<usize>, walk: &mut HintsWalk, bytes_max: u64) -> Vec<Hinted<'_>> {
        let mut given = Vec::new();
        let mut bytes = 0_u64;
        while let Some(number) = stack.pop() {
            if walk.given.contains(number) {
                continue;
            }
            bytes = bytes.saturating_add(self.bytes_read(number));
            if bytes > bytes_max && !given.is_empty() {
                stack.push(number);
                break;
            }
            given.extend(self.give(number, walk));
            stack.extend(self.needed_by(number));
        }
        walk.leave(stack);
        given
    }

    /// Gives out of what was left what there is room for.
    fn walk_on<'a>(&'a self, walk: &mut HintsWalk, given: &mut Vec<Hinted<'a>>) {
        while let Some(number) = walk.rest.pop() {
            if walk.given.contains(number) {
                continue;
            }
            let bytes = self.bytes_read(number);
            if bytes > walk.room_bytes {
                walk.rest.push(number);
                return;
            }
            walk.room_bytes -= bytes;
            given.extend(self.give(number, walk));
            walk.leave(self.needed_by(number));
        }
        walk.room_bytes = 0;
    }

    fn give(&self, number: usize, walk: &mut HintsWalk) -> Option<Hinted<'_>> {
        let (content, size_bytes) = self.contents[number];
        walk.given.insert(number);
        (!self.is_at_hand(number)).then(|| Hinted {
            content,
            size_bytes,
            ranges: self.ranges.get(number),
        })
    }

    /// What is read with a content, the first one last.
    fn needed_by(&self, number: usize) -> impl Iterator<Item = usize> {
        self.needs.get(number).iter().rev().map(|n| *n as usize)
    }

    /// How much of a content is read that is not at hand.
    fn bytes_read(&self, number: usize) -> u64 {
        if self.is_at_hand(number) {
            return 0;
        }
        match self.ranges.get(number) {
            [] => self.contents[number].1,
            some => some.iter().map(|range| range.end - range.start).sum(),
        }
    }

    fn is_at_hand(&self, number: usize) -> bool {
        self.contents[number].1 <= self.small_bytes && self.needs.get(number).is_empty()
    }

    fn number(&self, content: ContentId) -> Option<usize> {
        self.contents
            .binary_search_by_key(&content, |(id, _)| *id)
            .ok()
    }

    /// Encodes the hints. `None` above [`HINTS_BYTES_MAX`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(16 + self.contents.len() * 48);
        out.put(MAGIC);
        out.put_uvarint(self.small_bytes);
        out.put_uvarint(self.contents.len() as u64);
        for (number, (content, size_bytes)) in self.contents.iter().enumerate() {
            out.put(content.as_bytes());
            out.put_uvarint(*size_bytes);
            let ranges = self.ranges.get(number);
            out.put_uvarint(ranges.len() as u64);
            let mut end = 0;
            for range in ranges {
                out.put_uvarint(range.start - end);
                out.put_uvarint(range.end - range.start);
                end = range.end;
            }
            let needs = self.needs.get(number);
            out.put_uvarint(needs.len() as u64);
            needs
                .iter()
                .for_each(|need| out.put_uvarint((*need).into()));
        }
        out.put_uvarint(self.start.len() as u64);
        let start = self.start.iter();
        start.for_each(|number| out.put_uvarint((*number).into()));
        (out.len() <= HINTS_BYTES_MAX).then_some(out)
    }

    /// Decodes hints.
    ///
    /// # Errors
    /// [`HintsError`] for anything but the encoding of valid hints.
    pub fn decode(bytes: &[u8]) -> Result<Self, HintsError> {
        if bytes.len() > HINTS_BYTES_MAX {
            return Err(HintsError("too long"));
        }
        let mut wire = Wire::new(bytes);
        let small_bytes = match &wire.array()? {
            MAGIC => wire.uvarint()?,
            MAGIC_1 => 0,
            _ => return Err(HintsError("not hints")),
        };
        let count = wire.count(CONTENT_BYTES_MIN)?;
        if count > HINTED_CONTENTS_MAX {
            return Err(HintsError("number of contents"));
        }
        let mut hints = Self {
            small_bytes,
            ..Self::default()
        };
        hints.contents.reserve(count);
        for _ in 0..count {
            let content = ContentId::new(Digest::from_bytes(wire.array()?));
            if hints
                .contents
                .last()
                .is_some_and(|(last, _)| *last >= content)
            {
                return Err(HintsError("contents out of order"));
            }
            let size_bytes = wire.uvarint()?;
            hints.contents.push((content, size_bytes));
            let range_count = wire.count(RANGE_BYTES_MIN)?;
            let mut ranges = Vec::with_capacity(range_count);
            let mut end = 0_u64;
            for _ in 0..range_count {
                let start = end.checked_add(wire.uvarint()?);
                let len = wire.uvarint()?;
                let range = start.and_then(|start| Some(start..start.checked_add(len)?));
                let inside = range.filter(|range| !range.is_empty() && range.end <= size_bytes);
                let range = inside.ok_or(HintsError("range outside its content"))?;
                end = range.end;
                ranges.push(range);
            }
            hints.ranges.push(ranges);
            hints.needs.push(decode_numbers(&mut wire, count)?);
            if hints.needs.values.len() > NEEDS_MAX {
                return Err(HintsError("number of needs"));
            }
        }
        hints.start = decode_numbers(&mut wire, count)?;
        if hints.start.len() > NEEDS_MAX {
            return Err(HintsError("number of needs"));
        }
        wire.finish()?;
        Ok(hints)
    }
}

/// Reads numbers of contents, of which there are `contents`.
fn decode_numbers(wire: &mut Wire<'_>, contents: usize) -> Result<Vec<u32>, HintsError> {
    let count = wire.count(1)?;
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        let number = wire.uvarint32()?;
        if number as usize >= contents {
            return Err(HintsError("need that is not there"));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self {
            ends: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<T> Lists<T> {
    /// Adds values to those since the last list, and ends the list.
    fn push(&mut self, values: impl IntoIterator<Item = T>) {
        self.values.extend(values);
        // There are fewer than 2^32: encoded they take more bytes than are allowed.
        self.ends
            .push(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
    }

    fn get(&self, number: usize) -> &[T] {
        let start = number
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        &self.values[start..self.ends[number] as usize]
    }
}

#[cfg(test)]
mod tests;
