//! Contents that stand in an image.

use std::collections::HashMap;

use nacre_blobstore::{Chunk, ContentId};

/// Largest content that stands in an image, in bytes.
pub const SMALL_FILE_BYTES_MAX: usize = 1024;
/// Most bytes of files that stand in one image, counted for each file.
pub const SMALL_FILES_BYTES_MAX: u64 = 8 << 20;

/// The bytes of small files, for [`metadata_image`](super::metadata_image).
///
/// Where all would be more than [`SMALL_FILES_BYTES_MAX`], the larger ones are left out, down to a
/// size that the files alone say, and not the order in which they come. Memory: what they have in
/// bytes, and 100 bytes for each.
#[derive(Debug)]
pub struct SmallContents {
    contents: HashMap<ContentId, Box<[u8]>>,
    /// The bytes of all files of each size, none of which is left out.
    bytes: Vec<u64>,
    total_bytes: u64,
}

impl SmallContents {
    /// Adds a file whose content is `chunk` and nothing else; nothing for a chunk of no bytes.
    pub fn add(&mut self, chunk: &Chunk) {
        let bytes = chunk.bytes();
        if bytes.is_empty() {
            return;
        }
        if let Some(of_size) = self.bytes.get_mut(bytes.len()) {
            *of_size += bytes.len() as u64;
            self.total_bytes += bytes.len() as u64;
            let content = ContentId::new(*chunk.id().digest());
            self.contents
                .entry(content)
                .or_insert_with(|| bytes.as_ref().into());
        }
        while self.total_bytes > SMALL_FILES_BYTES_MAX {
            self.total_bytes -= self.bytes.pop().unwrap_or_default();
            self.contents
                .retain(|_, bytes| bytes.len() < self.bytes.len());
        }
    }

    /// Returns the size in bytes up to which no file is left out.
    pub const fn longest_bytes(&self) -> usize {
        self.bytes.len() - 1
    }

    /// Leaves a content out, whose reads somebody has to see. It counts as if it were there.
    pub fn leave_out(&mut self, content: ContentId) {
        self.contents.remove(&content);
    }

    /// Returns the bytes of a content that stands in the image.
    pub(super) fn get(&self, content: ContentId) -> Option<&[u8]> {
        self.contents.get(&content).map(|bytes| &**bytes)
    }
}

impl Default for SmallContents {
    fn default() -> Self {
        Self {
            contents: HashMap::new(),
            bytes: vec![0; SMALL_FILE_BYTES_MAX + 1],
            total_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(size_bytes: usize, fill: usize) -> Chunk {
        let mut bytes = fill.to_le_bytes().repeat(size_bytes.div_ceil(8));
        bytes.truncate(size_bytes);
        Chunk::of(bytes.into())
    }

    fn is_in(small: &SmallContents, chunk: &Chunk) -> bool {
        let found = small.get(ContentId::new(*chunk.id().digest()));
        assert!(found.is_none_or(|bytes| bytes == chunk.bytes()));
        found.is_some()
    }

    #[test]
    fn what_is_larger_or_unknown_is_not_in_it() {
        let mut small = SmallContents::default();
        let (largest, larger) = (
            chunk(SMALL_FILE_BYTES_MAX, 1),
            chunk(SMALL_FILE_BYTES_MAX + 1, 1),
        );
        small.add(&largest);
        small.add(&larger);
        small.add(&chunk(0, 0));
        assert!(is_in(&small, &largest));
        assert!(!is_in(&small, &larger));
        assert!(!is_in(&small, &chunk(0, 0)));
        assert!(!is_in(&small, &chunk(5, 1)));
        assert_eq!(small.longest_bytes(), SMALL_FILE_BYTES_MAX);
        small.leave_out(ContentId::new(*largest.id().digest()));
        assert!(!is_in(&small, &largest));
    }

    /// Files of 8 to 1,024 bytes, 20 MiB together, each third of them a copy.
    #[test]
    fn the_smallest_are_kept_in_whatever_order_they_come() {
        let number = |i: usize| i - usize::from(i % 3 == 1);
        let files: Vec<_> = (0..40_000)
            .map(|i| chunk(number(i) * 7919 % 1017 + 8, number(i)))
            .collect();
        let (mut forward, mut backward) = (SmallContents::default(), SmallContents::default());
        files.iter().for_each(|file| forward.add(file));
        files.iter().rev().for_each(|file| backward.add(file));

        let longest = forward.longest_bytes();
        let bytes_up_to = |size: usize| {
            let sizes = files.iter().map(|file| file.bytes().len());
            sizes.filter(|bytes| *bytes <= size).sum::<usize>() as u64
        };
        assert!(bytes_up_to(longest) <= SMALL_FILES_BYTES_MAX);
        assert!(bytes_up_to(longest + 1) > SMALL_FILES_BYTES_MAX);
        assert_eq!(backward.longest_bytes(), longest);
        for file in &files {
            let wanted = file.bytes().len() <= longest;
            assert_eq!(is_in(&forward, file), wanted);
            assert_eq!(is_in(&backward, file), wanted);
        }
    }
}
