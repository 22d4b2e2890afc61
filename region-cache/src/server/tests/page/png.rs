//! As much of PNG (ISO/IEC 15948) as screenshots are: 8 bits, with or without alpha, not interlaced.

use std::io::Read as _;
use std::ops::Range;

use flate2::read::ZlibDecoder;

const SIGNATURE_BYTES: usize = 8;

/// A picture.
pub(super) struct Picture {
    width: usize,
    /// Bytes of a pixel.
    depth: usize,
    bytes: Vec<u8>,
}

impl Picture {
    /// Panics with what is wrong.
    pub(super) fn decode(file: &[u8]) -> Self {
        let mut rest = &file[SIGNATURE_BYTES..];
        let (mut head, mut packed) = (Vec::new(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let (kind, body) = (&after[..4], &after[4..4 + length]);
            match kind {
                b"IHDR" => head = body.to_vec(),
                b"IDAT" => packed.extend(body),
                _ => {}
            }
            rest = &after[4 + length + 4..];
        }
        let width = u32::from_be_bytes(*head.first_chunk().unwrap()) as usize;
        let depth = match head[8..] {
            [8, 2, 0, 0, 0] => 3,
            [8, 6, 0, 0, 0] => 4,
            _ => panic!("another kind of PNG: {head:?}"),
        };
        let mut plain = Vec::new();
        ZlibDecoder::new(&packed[..])
            .read_to_end(&mut plain)
            .unwrap();
        let mut picture = Self {
            width,
            depth,
            bytes: Vec::new(),
        };
        for row in plain.chunks(1 + width * depth) {
            picture.add(row[0], &row[1..]);
        }
        picture
    }

    /// Adds a row that is stored as differences from its neighbours.
    fn add(&mut self, filter: u8, row: &[u8]) {
        let (start, stride) = (self.bytes.len(), self.width * self.depth);
        for (at, byte) in row.iter().enumerate() {
            let is_first = at < self.depth;
            let left = if is_first {
                0
            } else {
                self.bytes[start + at - self.depth]
            };
            let up = if start == 0 {
                0
            } else {
                self.bytes[start + at - stride]
            };
            let corner = if start == 0 || is_first {
                0
            } else {
                self.bytes[start + at - stride - self.depth]
            };
            let expected = match filter {
                0 => 0,
                1 => left,
                2 => up,
                3 => u8::midpoint(left, up),
                _ => paeth(left, up, corner),
            };
            self.bytes.push(byte.wrapping_add(expected));
        }
    }

    fn is(&self, pixel: &[u8], colour: [u8; 3]) -> bool {
        pixel
            .iter()
            .zip(colour)
            .take(self.depth.min(3))
            .all(|(a, b)| a.abs_diff(b) < 8)
    }

    /// Returns how many pixels have a colour.
    pub(super) fn count(&self, colour: [u8; 3]) -> usize {
        let pixels = self.bytes.chunks(self.depth);
        pixels.filter(|pixel| self.is(pixel, colour)).count()
    }

    /// Returns the rows from the first to the last that have a pixel of a colour.
    pub(super) fn rows(&self, colour: [u8; 3]) -> Range<usize> {
        let rows = self.bytes.chunks(self.width * self.depth).enumerate();
        let mut having = rows
            .filter(|(_, row)| row.chunks(self.depth).any(|pixel| self.is(pixel, colour)))
            .map(|(number, _)| number);
        let first = having.next().unwrap_or_default();
        first..having.next_back().unwrap_or(first) + 1
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i32::from(left) + i32::from(up) - i32::from(corner);
    let distance = |of: u8| estimate.abs_diff(i32::from(of));
    [left, up, corner]
        .into_iter()
        .min_by_key(|of| distance(*of))
        .unwrap_or_default()
}
