//! Digests of OCI blobs: an algorithm and a hash, as registries write them.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm that the OCI image specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, which practically all images use.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of an OCI blob, such as `sha256:6c3c...`. Always well-formed, so that it may be used
/// in a path or a URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OciDigest(Box<str>);

/// A text that is no digest of a supported algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest (sha256: or sha512: and lower-case hexadecimal digits)")]
pub struct OciDigestError(String);

impl OciDigest {
    /// Hashes `bytes` by SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with(Algorithm::Sha256.prefix()) {
            Algorithm::Sha256
        } else {
            Algorithm::Sha512
        }
    }

    /// Returns the hash as lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().prefix().len() + 1..]
    }

    /// Returns the digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes `bytes` by this digest's algorithm.
    pub(crate) fn same_kind_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(self.algorithm());
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for OciDigest {
    type Err = OciDigestError;

    fn from_str(text: &str) -> Result<Self, OciDigestError> {
        let well_formed = |algorithm: Algorithm| {
            let hex = text
                .strip_prefix(algorithm.prefix())
                .and_then(|rest| rest.strip_prefix(':'));
            hex.is_some_and(|hex| {
                hex.len() == algorithm.hex_len()
                    && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        if well_formed(Algorithm::Sha256) || well_formed(Algorithm::Sha512) {
            Ok(Self(text.into()))
        } else {
            Err(OciDigestError(text.chars().take(160).collect()))
        }
    }
}

impl TryFrom<String> for OciDigest {
    type Error = OciDigestError;

    fn try_from(text: String) -> Result<Self, OciDigestError> {
        text.parse()
    }
}

impl From<OciDigest> for String {
    fn from(digest: OciDigest) -> Self {
        digest.0.into()
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes an [`OciDigest`] piece by piece.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// By SHA-256.
    Sha256(Sha256),
    /// By SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Starts a hash.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all bytes added.
    pub fn finish(self) -> OciDigest {
        match self {
            Self::Sha256(hasher) => text(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => text(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn text(algorithm: Algorithm, hash: &[u8]) -> OciDigest {
    let mut text = format!("{}:", algorithm.prefix());
    for byte in hash {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    OciDigest(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes_come_out_and_parse_back() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(OciDigest::of(b"").as_str(), empty);
        assert_eq!(empty.parse(), Ok(OciDigest::of(b"")));
        let mut sha512 = Hasher::new(Algorithm::Sha512);
        sha512.update(b"abc");
        let digest = sha512.finish();
        assert!(
            digest.hex().starts_with("ddaf35a193617abacc417349ae204131"),
            "{digest}"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest.clone()));
        assert_eq!(digest.same_kind_of(b"abc"), digest);
    }

    #[test]
    fn other_algorithms_and_forms_are_refused() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for bad in [
            String::new(),
            hex.to_owned(),
            format!("md5:{hex}"),
            format!("sha384:{hex}{}", &hex[..32]),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}0"),
            format!("sha512:{hex}"),
            format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(bad.parse::<OciDigest>().is_err(), "{bad}");
        }
    }
}
