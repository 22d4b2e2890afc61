//! What of a large content will probably be read next.
//!
//! Programs and libraries of some megabytes are read nearly whole, in no order that read-ahead
//! would see, so they are expected whole at the first read that must wait; of larger contents, if that is
//! of their beginning, the head and the last chunk (an ELF file's section table, an archive's directory),
//! and then what is near to chunks that were read. Nothing is expected around a chunk that somebody brought
//! who knew that it would be read. `docs/FORMAT.md` has the measurements.

use super::fetch::Inner;
use super::partial::Partial;

/// Contents of at most so many chunks are expected whole.
const WHOLE_CHUNKS_MAX: usize = 32;
/// Chunks at the start of a larger one that are expected then.
const HEAD_CHUNKS: usize = 11;
/// How far around a chunk those are counted that are there.
const NEAR_CHUNKS: usize = 8;
/// Chunks that one read makes expected on each side, and one more for each that is near, at most.
const AHEAD_CHUNKS: usize = 2;
const AHEAD_CHUNKS_MAX: usize = 16;

impl Inner {
    /// Says what will be read beside a chunk that somebody reads, that is not there yet, and that
    /// nobody foretold.
    pub(super) fn expect_around(&self, partial: &Partial, index: usize) {
        if partial.is_present(index) || self.reader.is_foretold(partial.extent(index).id) {
            return;
        }
        let count = partial.list.extents().len();
        let whole = count <= WHOLE_CHUNKS_MAX;
        if partial.is_first_miss() {
            if whole {
                self.expect_chunks(partial, 0..count);
            } else if index == 0 {
                self.expect_chunks(partial, (0..HEAD_CHUNKS).chain([count - 1]));
            }
        }
        if whole {
            return;
        }
        let around = index.saturating_sub(NEAR_CHUNKS)..count.min(index + NEAR_CHUNKS + 1);
        let near = around.filter(|near| partial.is_present(*near)).count();
        let ahead = (near + AHEAD_CHUNKS).min(AHEAD_CHUNKS_MAX);
        let following = index + 1..count.min(index + 1 + ahead);
        let preceding = index.saturating_sub(ahead)..index;
        self.expect_chunks(partial, following.chain(preceding));
    }

    fn expect_chunks(&self, partial: &Partial, indexes: impl IntoIterator<Item = usize>) {
        let missing = indexes
            .into_iter()
            .filter(|index| !partial.is_present(*index));
        let chunks: Vec<_> = missing.map(|index| partial.extent(index).id).collect();
        if !chunks.is_empty() {
            self.reader.expect(chunks);
        }
    }
}
