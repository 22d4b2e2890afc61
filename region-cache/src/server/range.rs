//! The `Range` header (RFC 9110, section 14).

use std::ops::Range;

/// Ranges that one request may ask for.
pub const RANGES_MAX: usize = 32;
/// Longest header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 1024;

/// A range as it was asked for, before the object's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`: both included.
    Bounded(u64, u64),
    /// `first-`: to the end.
    From(u64),
    /// `-length`: so many bytes at the end.
    Suffix(u64),
}

/// Why a header does not select ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The unit or the syntax is unknown: the header is to be ignored.
    #[error("the range header does not parse")]
    Malformed,
    /// There are more than [`RANGES_MAX`] ranges, or the header is longer than it need be.
    #[error("there are too many ranges")]
    TooMany,
}

impl RangeSpec {
    /// Returns the bytes of an object of `len` bytes that are meant; `None` when it has none of
    /// them.
    pub fn resolve(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Bounded(first, last) => first..last.saturating_add(1).min(len),
            Self::From(first) => first..len,
            Self::Suffix(count) => len.saturating_sub(count)..len,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Reads a `Range` header.
///
/// # Errors
/// [`RangeError`]; of a header that is malformed in any part nothing is used.
pub fn parse_ranges(header: &str) -> Result<Vec<RangeSpec>, RangeError> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(RangeError::TooMany);
    }
    let (unit, list) = header.split_once('=').ok_or(RangeError::Malformed)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Err(RangeError::Malformed);
    }
    let mut specs = Vec::new();
    for part in list.split(',') {
        let part = part.trim_matches([' ', '\t']);
        // A list may have empty elements (RFC 9110, section 5.6.1.2).
        if part.is_empty() {
            continue;
        }
        if specs.len() == RANGES_MAX {
            return Err(RangeError::TooMany);
        }
        specs.push(parse_spec(part).ok_or(RangeError::Malformed)?);
    }
    if specs.is_empty() {
        return Err(RangeError::Malformed);
    }
    Ok(specs)
}

fn parse_spec(part: &str) -> Option<RangeSpec> {
    // `u64::from_str` takes a sign, the grammar does not.
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    match part.split_once('-')? {
        ("", count) => number(count).map(RangeSpec::Suffix),
        (first, "") => number(first).map(RangeSpec::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(RangeSpec::Bounded(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        use RangeSpec::{Bounded, From, Suffix};
        for (header, specs) in [
            ("bytes=0-0", vec![Bounded(0, 0)]),
            ("bytes=5-", vec![From(5)]),
            ("Bytes = -7", vec![Suffix(7)]),
            (
                "bytes=0-1, 4-5 ,\t-1",
                vec![Bounded(0, 1), Bounded(4, 5), Suffix(1)],
            ),
            ("bytes=,,1-2,", vec![Bounded(1, 2)]),
            ("bytes=0-18446744073709551615", vec![Bounded(0, u64::MAX)]),
        ] {
            assert_eq!(parse_ranges(header), Ok(specs), "{header}");
        }
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=1 - 2",
            "bytes=0-18446744073709551616",
            "items=0-1",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=0-1;2-3",
        ] {
            assert_eq!(parse_ranges(header), Err(RangeError::Malformed), "{header}");
        }
        let many = |count: usize| format!("bytes={}", vec!["1-2"; count].join(","));
        assert_eq!(parse_ranges(&many(RANGES_MAX)).unwrap().len(), RANGES_MAX);
        assert_eq!(
            parse_ranges(&many(RANGES_MAX + 1)),
            Err(RangeError::TooMany)
        );
        let long = format!("bytes={}", ",".repeat(HEADER_BYTES_MAX));
        assert_eq!(parse_ranges(&long), Err(RangeError::TooMany));
    }

    #[test]
    fn ranges_are_cut_at_the_end() {
        use RangeSpec::{Bounded, From, Suffix};
        for (spec, len, range) in [
            (Bounded(0, 0), 10, Some(0..1)),
            (Bounded(8, 99), 10, Some(8..10)),
            (Bounded(0, u64::MAX), 10, Some(0..10)),
            (Bounded(10, 11), 10, None),
            (From(9), 10, Some(9..10)),
            (From(10), 10, None),
            (Suffix(3), 10, Some(7..10)),
            (Suffix(30), 10, Some(0..10)),
            (Suffix(0), 10, None),
            (Suffix(1), 0, None),
        ] {
            assert_eq!(spec.resolve(len), range, "{spec:?} of {len}");
        }
    }
}
