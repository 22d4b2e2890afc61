//! The frame that every stored object but a pack's body has: what it is, which features a reader
//! must know, and a checksum that is also the object's id.
//!
//! ```text
//! magic "NACR" | kind 4 bytes | version u16 | compat u32 | ro_compat u32 | incompat u32
//! body length u64 | body | BLAKE3 of all before
//! ```
//! The feature words work as in ext4 and composefs: a reader ignores unknown `compat` bits, must
//! not write beside unknown `ro_compat` bits, and must refuse unknown `incompat` bits.

use crate::Digest;
use crate::wire::{Put, Truncated, Wire};

const MAGIC: &[u8; 4] = b"NACR";
const VERSION: u16 = 1;
const INCOMPAT_KNOWN: u32 = 0;
/// Bytes that the envelope adds to its body.
pub(crate) const OVERHEAD_BYTES: usize = 4 + 4 + 2 + 12 + 8 + Digest::LEN;

/// Four letters that say what the body is.
pub(crate) type Kind = [u8; 4];

/// Why an object's envelope is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes do not match their checksum.
    #[error("checksum mismatch")]
    Mismatch,
    /// Not an object of the kind that was asked for, or not in the format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Written by a later version with features that this one must not ignore.
    #[error("needs version {version} with features {features:#x}, which this nacre does not have")]
    Unsupported {
        /// Version of the format.
        version: u16,
        /// The unknown `incompat` bits.
        features: u32,
    },
}

impl From<Truncated> for EnvelopeError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

/// Wraps `body`; returns the object's bytes and its id.
pub(crate) fn seal(kind: Kind, body: &[u8]) -> (Digest, Vec<u8>) {
    let mut out = Vec::with_capacity(body.len() + OVERHEAD_BYTES);
    out.put(MAGIC);
    out.put(&kind);
    out.put_u16(VERSION);
    out.put_u32(0);
    out.put_u32(0);
    out.put_u32(0);
    out.put_u64(body.len() as u64);
    out.put(body);
    let id = Digest::of(&out);
    out.put(id.as_bytes());
    (id, out)
}

/// Checks an object and returns its id and body.
pub(crate) fn open(kind: Kind, bytes: &[u8]) -> Result<(Digest, &[u8]), EnvelopeError> {
    let mut wire = Wire::new(bytes);
    if wire.array()? != *MAGIC || wire.array()? != kind {
        return Err(EnvelopeError::Malformed("not an object of this kind"));
    }
    let version = wire.u16()?;
    let (_compat, _ro_compat, incompat) = (wire.u32()?, wire.u32()?, wire.u32()?);
    let features = incompat & !INCOMPAT_KNOWN;
    if version != VERSION || features != 0 {
        return Err(EnvelopeError::Unsupported { version, features });
    }
    let body_len = usize::try_from(wire.u64()?).map_err(|_| EnvelopeError::Malformed("length"))?;
    let body = wire.take(body_len)?;
    let checksum = Digest::from_bytes(wire.array()?);
    wire.finish()?;
    let covered = &bytes[..bytes.len() - Digest::LEN];
    // A fuzzer cannot guess BLAKE3, so it may pass without.
    if cfg!(fuzzing) || Digest::of(covered) == checksum {
        Ok((checksum, body))
    } else {
        Err(EnvelopeError::Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (id, sealed) = seal(*b"TEST", b"body");
        assert_eq!(open(*b"TEST", &sealed), Ok((id, &b"body"[..])));
        assert!(open(*b"ELSE", &sealed).is_err());
        for byte in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[byte] ^= 1 << bit;
                assert!(open(*b"TEST", &bad).is_err(), "byte {byte} bit {bit}");
            }
            assert!(open(*b"TEST", &sealed[..byte]).is_err());
        }
    }

    #[test]
    fn unknown_incompat_features_are_refused_and_compat_ones_are_not() {
        let with_word = |offset: usize| {
            let (_, mut sealed) = seal(*b"TEST", b"body");
            sealed[offset] = 1;
            let end = sealed.len() - Digest::LEN;
            let checksum = Digest::of(&sealed[..end]);
            sealed[end..].copy_from_slice(checksum.as_bytes());
            open(*b"TEST", &sealed).map(|(_, body)| body.to_vec())
        };
        assert_eq!(with_word(10), Ok(b"body".to_vec()));
        assert_eq!(
            with_word(18),
            Err(EnvelopeError::Unsupported {
                version: 1,
                features: 1
            })
        );
    }
}
