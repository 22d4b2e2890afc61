//! A part of a trace, for which a start is checked.

use nacre_blobstore::ContentId;

/// Parts of a trace. One is small enough to come into memory, and for a start not to be much slower.
const PARTS: u32 = 4;

/// One of the parts: a quarter of the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part(u32);

impl Part {
    /// Chooses one start in `one_in`, and a part for it; with 0 none.
    pub(super) fn by_chance(one_in: u32) -> Option<Self> {
        let random = getrandom::u32().ok()?;
        let is_chosen = (random / PARTS).checked_rem(one_in)? == 0;
        is_chosen.then_some(Self(random % PARTS))
    }

    /// Tells whether a content belongs to it.
    pub(super) fn holds(self, content: &ContentId) -> bool {
        // Ids are random.
        u32::from(content.as_bytes()[0]) % PARTS == self.0
    }
}
