//! Objects whose every word tells where it belongs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use nacre_blobstore::Digest;

const WORD_BYTES: u64 = 8;

/// Returns the path of an object in a request, and below the folder of a store.
pub(crate) fn path(object: u64) -> String {
    format!("/packs/{}", Digest::of(&object.to_le_bytes()))
}

/// Returns the word at `offset` of an object.
pub(crate) fn word(object: u64, offset: u64) -> u64 {
    Random::new((object << 40) | (offset / WORD_BYTES)).next()
}

/// Writes objects below the folder of a store.
pub(crate) fn make(folder: &Path, count: u64, bytes: u64) {
    std::fs::create_dir_all(folder.join("packs")).unwrap();
    for object in 0..count {
        let file = File::create(folder.join(&path(object)[1..])).unwrap();
        let mut file = BufWriter::with_capacity(1 << 20, file);
        for offset in (0..bytes).step_by(8) {
            file.write_all(&word(object, offset).to_le_bytes()).unwrap();
        }
        file.flush().unwrap();
    }
}

/// Returns the numbers below `count` in an order that is always the same.
pub(crate) fn shuffled(count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    let mut random = Random::new(count);
    for index in (1..order.len()).rev() {
        let other = random.below(index as u64 + 1);
        order.swap(index, usize::try_from(other).unwrap());
    }
    order
}

/// `SplitMix64` (Steele, Lea and Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
