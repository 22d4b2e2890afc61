//! PAX extended headers: records of a decimal length, a key, `=`, and a value of any bytes.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use nacre_blobstore::{
    Timestamp, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, Xattr,
};

use super::sparse::SparseRecords;
use crate::layer::LayerLimits;
use crate::layer::error::Fault;

/// Digits of the longest length of a record.
const LENGTH_DIGITS_MAX: usize = 10;
const NANOSECOND_DIGITS: usize = 9;
pub(super) const NOT_A_NUMBER: &str = "number is malformed";
const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// libarchive writes base64 without padding; others may pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the PAX headers before an entry say of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) device_major: Option<u32>,
    pub(super) device_minor: Option<u32>,
    pub(super) sparse: Option<SparseRecords>,
    /// `LIBARCHIVE.xattr.*`: bsdtar writes each attribute in both forms.
    encoded_xattrs: Vec<Xattr>,
    /// `SCHILY.xattr.*`, the form that counts.
    xattrs: Vec<Xattr>,
}

impl Pax {
    /// Takes in the records of a header of type `x`. A later record replaces an earlier one.
    pub(super) fn read_local(&mut self, bytes: &[u8], limits: &LayerLimits) -> Result<(), Fault> {
        for (count, record) in (1..).zip(Records(bytes)) {
            Fault::check_limit(count, limits.pax_records_max, "records in a PAX header")?;
            let (key, value) = record?;
            self.set(key, value, limits)?;
        }
        Ok(())
    }

    /// Takes in the records of a header of type `g`, which hold for all entries after it.
    ///
    /// Xattrs and sparse maps are refused there. No tool writes them, and a mebibyte of xattrs for
    /// each of millions of entries would be an amplifier.
    pub(super) fn read_global(&mut self, bytes: &[u8], limits: &LayerLimits) -> Result<(), Fault> {
        self.read_local(bytes, limits)?;
        let plain = self.sparse.is_none() && self.xattrs.is_empty();
        if plain && self.encoded_xattrs.is_empty() {
            return Ok(());
        }
        Err(Fault::Unsupported(
            "xattrs or a sparse map in a global PAX header".into(),
        ))
    }

    fn set(&mut self, key: &[u8], value: &[u8], limits: &LayerLimits) -> Result<(), Fault> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push(xattr(name.into(), value.into())?);
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let value = BASE64.decode(value);
            let value = value.map_err(|_| Fault::malformed("xattr value is not base64"))?;
            self.encoded_xattrs
                .push(xattr(percent_decoded(name)?, value)?);
        } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            self.sparse
                .get_or_insert_default()
                .set(key, value, limits)?;
        } else {
            self.set_field(key, value, limits)?;
        }
        Ok(())
    }

    /// Sets what stands in a header block too. An empty value stands for the block's own.
    fn set_field(&mut self, key: &[u8], value: &[u8], limits: &LayerLimits) -> Result<(), Fault> {
        let value = Some(value).filter(|value| !value.is_empty());
        let id = |value| i64::try_from(decimal(value)?).map_err(|_| Fault::malformed(NOT_A_NUMBER));
        let device =
            |value| u32::try_from(decimal(value)?).map_err(|_| Fault::malformed(NOT_A_NUMBER));
        match key {
            b"path" => self.path = value.map(|path| name(path, limits)).transpose()?,
            b"linkpath" => self.link_path = value.map(|path| name(path, limits)).transpose()?,
            b"size" => self.size_bytes = value.map(decimal).transpose()?,
            b"uid" => self.uid = value.map(id).transpose()?,
            b"gid" => self.gid = value.map(id).transpose()?,
            b"mtime" => self.mtime = value.map(timestamp).transpose()?,
            b"SCHILY.devmajor" => self.device_major = value.map(device).transpose()?,
            b"SCHILY.devminor" => self.device_minor = value.map(device).transpose()?,
            _ => {}
        }
        Ok(())
    }

    /// Takes the xattrs, sorted, names unique.
    pub(super) fn take_xattrs(&mut self) -> Result<Vec<Xattr>, Fault> {
        let mut xattrs = std::mem::take(&mut self.encoded_xattrs);
        xattrs.append(&mut self.xattrs);
        // Stable: of equal names the one that counts comes last.
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|later, kept| {
            let equal = later.name == kept.name;
            if equal {
                std::mem::swap(later, kept);
            }
            equal
        });
        let list_bytes: usize = xattrs.iter().map(|xattr| xattr.name.len() + 1).sum();
        check(list_bytes, XATTR_LIST_BYTES_MAX, "bytes of xattr names")?;
        Ok(xattrs)
    }
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Yields the records of a PAX header; after an error nothing more.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let Some((record, rest)) = split_record(bytes) else {
            return Some(Err(Fault::malformed("malformed PAX record")));
        };
        self.0 = rest;
        Some(Ok(record))
    }
}

/// Splits `LEN KEY=VALUE\n` off the front, where LEN counts the whole record.
fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let digits = bytes
        .iter()
        .take(LENGTH_DIGITS_MAX + 1)
        .position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..digits]).ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record
        .iter()
        .position(|byte| *byte == b'=')
        .filter(|at| *at > 0)?;
    Some(((&record[..equals], &record[equals + 1..]), rest))
}

/// Reads a decimal number without sign or blanks.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Fault> {
    let number = text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    });
    number
        .filter(|_| !text.is_empty())
        .ok_or(Fault::malformed(NOT_A_NUMBER))
}

fn name(value: &[u8], limits: &LayerLimits) -> Result<Vec<u8>, Fault> {
    check(
        value.len(),
        limits.long_name_bytes_max,
        "bytes in a PAX path",
    )?;
    Ok(value.into())
}

/// Reads `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are dropped.
fn timestamp(text: &[u8]) -> Result<Timestamp, Fault> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = text.split_at(point.unwrap_or(text.len()));
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Fault::malformed(NOT_A_NUMBER));
    }
    let digits = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(NANOSECOND_DIGITS);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| Fault::malformed(NOT_A_NUMBER))?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        // Seconds round down, the nanoseconds count up from there.
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: NANOSECONDS_PER_SECOND - nanoseconds,
        },
    })
}

fn xattr(name: Vec<u8>, value: Vec<u8>) -> Result<Xattr, Fault> {
    if name.is_empty() || name.contains(&0) {
        return Err(Fault::malformed("xattr name is empty or has a NUL"));
    }
    check(name.len(), XATTR_NAME_BYTES_MAX, "bytes in an xattr name")?;
    check(
        value.len(),
        XATTR_VALUE_BYTES_MAX,
        "bytes in an xattr value",
    )?;
    Ok(Xattr {
        name: name.into(),
        value: value.into(),
    })
}

fn percent_decoded(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let byte = tail.split_first_chunk::<2>().and_then(|(hex, tail)| {
            rest = tail;
            u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
        });
        decoded.push(byte.ok_or(Fault::malformed("xattr name is not percent-encoded"))?);
    }
    Ok(decoded)
}

fn check(value: usize, max: usize, what: &'static str) -> Result<(), Fault> {
    Fault::check_limit(value as u64, max as u64, what)
}

#[cfg(test)]
mod tests;
