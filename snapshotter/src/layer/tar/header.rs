//! One header block: its checksum, its numbers, and the names as each dialect splits them.

use std::ops::Range;

use super::pax::Pax;
use crate::layer::error::Fault;

/// Everything in a tar starts at a multiple of this.
pub(super) const BLOCK_BYTES: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const USTAR_PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

/// A decoded header. Names and numbers are those that count: after [`Header::apply`] also those
/// of the PAX header before it.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) type_flag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link_name: Vec<u8>,
    /// Permission bits only.
    pub(super) mode: u16,
    pub(super) uid: i64,
    pub(super) gid: i64,
    /// Bytes of the stream that belong to the entry.
    pub(super) size_bytes: u64,
    pub(super) mtime_seconds: i64,
    /// `None` where the field is no number of 32 bits, which matters on devices only.
    pub(super) device_major: Option<u32>,
    pub(super) device_minor: Option<u32>,
}

impl Header {
    pub(super) fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, Fault> {
        check_checksum(block)?;
        let field = |range, reason| number(&block[range]).ok_or_else(|| Fault::malformed(reason));
        let size = field(SIZE, "size is not a number")?;
        let mode = field(MODE, "mode is not a number")? & 0o7777;
        let device = |range| match &block[MAGIC][..5] {
            b"ustar" => number(&block[range]).and_then(|number| u32::try_from(number).ok()),
            _ => Some(0),
        };
        Ok(Self {
            type_flag: block[TYPE_FLAG],
            name: name(block),
            link_name: text(&block[LINK_NAME]).into(),
            mode: u16::try_from(mode).expect("masked to 12 bits"),
            uid: field(UID, "uid is not a number")?,
            gid: field(GID, "gid is not a number")?,
            size_bytes: u64::try_from(size).map_err(|_| Fault::malformed("size is negative"))?,
            mtime_seconds: field(MTIME, "mtime is not a number")?,
            device_major: device(DEVICE_MAJOR),
            device_minor: device(DEVICE_MINOR),
        })
    }

    /// Replaces what a PAX header says better; takes its names.
    pub(super) fn apply(&mut self, pax: &mut Pax) {
        fn replace<T>(field: &mut T, better: Option<T>) {
            if let Some(better) = better {
                *field = better;
            }
        }
        replace(&mut self.name, pax.path.take());
        replace(&mut self.link_name, pax.link_path.take());
        replace(&mut self.uid, pax.uid);
        replace(&mut self.gid, pax.gid);
        replace(&mut self.size_bytes, pax.size_bytes);
    }

    /// Says whether the entry's size counts bytes of the stream. Other kinds have none even where
    /// their header gives a size: some writers put a hard link's or directory's own size there.
    pub(super) const fn has_data(&self) -> bool {
        !matches!(self.type_flag, b'1'..=b'6')
    }
}

fn check_checksum(block: &[u8; BLOCK_BYTES]) -> Result<(), Fault> {
    let mut summed = *block;
    summed[CHECKSUM].fill(b' ');
    let stored = number(&block[CHECKSUM]);
    let unsigned = || summed.iter().map(|byte| i32::from(*byte)).sum::<i32>();
    // Old writers summed signed chars.
    let signed = || {
        summed
            .iter()
            .map(|byte| i32::from(byte.cast_signed()))
            .sum::<i32>()
    };
    if stored == Some(unsigned().into()) || stored == Some(signed().into()) {
        Ok(())
    } else {
        Err(Fault::malformed("header does not match its checksum"))
    }
}

fn name(block: &[u8; BLOCK_BYTES]) -> Vec<u8> {
    let prefix = match &block[MAGIC][..6] {
        b"ustar\0" if &block[STAR_TRAILER] == b"tar\0" => text(&block[STAR_PREFIX]),
        b"ustar\0" => text(&block[USTAR_PREFIX]),
        // GNU keeps other things there, and v7 nothing.
        _ => b"",
    };
    let name = text(&block[NAME]);
    if prefix.is_empty() {
        name.into()
    } else {
        [prefix, name].join(&b'/')
    }
}

/// Returns a field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Reads a number: octal, blank for 0, or GNU's base 256 (two's complement below the top bit).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match *field.first()? {
        first if first & 0x80 != 0 => {
            // The top bit marks the form; the next one is the sign.
            let first = i64::from((first << 1).cast_signed() >> 1);
            field[1..].iter().try_fold(first, |value, byte| {
                value.checked_mul(256)?.checked_add(i64::from(*byte))
            })
        }
        _ => {
            let blank = |byte: &u8| matches!(byte, b' ' | 0);
            let start = field
                .iter()
                .position(|byte| !blank(byte))
                .unwrap_or(field.len());
            let digits = &field[start..];
            let end = digits.iter().position(blank).unwrap_or(digits.len());
            digits[..end]
                .iter()
                .try_fold(0_i64, |value, digit| match digit {
                    b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                    _ => None,
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_blank_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"        ", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"0000089\0", None),
            (b"-1     \0", None),
            (b"0x10   \0", None),
            (b"\x80\0\0\0\0\x20\0\0", Some(1 << 21)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
