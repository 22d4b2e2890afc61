//! Names of stored things: a BLAKE3 hash each, one type per kind of thing.
//!
//! The types keep a chunk's id from being used as a tree's; none of them converts into another
//! except where the format says that two are equal ([`ContentId::as_single_chunk`]).

use std::fmt;
use std::str::FromStr;

/// A BLAKE3 hash that does not say of what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id (64 lower-case hexadecimal digits)")]
pub struct DigestError;

impl Digest {
    /// Bytes in a digest.
    pub const LEN: usize = size_of::<Self>();

    /// Wraps the bytes of a hash computed elsewhere.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the hash's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(DigestError),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != Self::LEN || !rest.is_empty() {
            return Err(DigestError);
        }
        let mut bytes = [0; Self::LEN];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

/// Declares an id type for one kind of stored thing.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Digest);

        impl $name {
            /// Wraps a digest that is known to name such a thing.
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// Returns the digest.
            pub const fn digest(&self) -> &Digest {
                &self.0
            }

            /// Returns the digest's bytes.
            pub const fn as_bytes(&self) -> &[u8; Digest::LEN] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

id_type!(
    /// The BLAKE3 of a chunk's plain bytes.
    ChunkId
);
id_type!(
    /// The BLAKE3 of a whole file's bytes. Does not depend on how the file is chunked.
    ContentId
);
id_type!(
    /// The BLAKE3 of an encoded [`Tree`](crate::Tree).
    TreeId
);
id_type!(
    /// The BLAKE3 of a pack's index, which in turn holds the hash of each of its frames.
    PackId
);
id_type!(
    /// The BLAKE3 of an encoded record.
    RecordId
);
id_type!(
    /// The BLAKE3 of an encoded metadata image.
    MetadataImageId
);

impl ContentId {
    /// Returns the id that the one chunk of this content has, if it has only one.
    pub const fn as_single_chunk(&self) -> ChunkId {
        ChunkId(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_strict() {
        let id = ChunkId::new(Digest::of(b"nacre"));
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        let upper = id.to_string().to_uppercase();
        for bad in [
            "",
            "ab",
            upper.as_str(),
            &format!("{id}0"),
            &format!("{:0>63}\u{e9}", ""),
        ] {
            assert_eq!(bad.parse::<ChunkId>(), Err(DigestError), "{bad}");
        }
    }
}
