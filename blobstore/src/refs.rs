//! Refs: the mutable names of records, and the only roots of collection.
//!
//! A ref is changed only by compare-and-swap, and only after all that it will name is durable.
//!
//! ```text
//! refs/NAMESPACE/NAME: envelope "REF1": record id | changed, ms since 1970, u64
//! ```

use std::fmt;
use std::str::FromStr;

use futures::TryStreamExt;

use crate::envelope::{self, EnvelopeError};
use crate::wire::{Put, Truncated, Wire};
use crate::{BlobStore, Digest, Key, RecordId, StoreError, Version};

const REFS_FOLDER: &str = "refs";
const REF_BYTES_MAX: u64 = 4096;
/// Longest name of a ref, in bytes.
pub(crate) const REF_NAME_BYTES_MAX: usize = 255;

/// The namespace of refs that keep nothing alive: each names an image that has the layers of a chain
/// id, which is gone when no other ref names it. Collection and checks leave them alone; whoever
/// makes them sees to it that they name nothing that is deleted.
pub const CHAINS_NAMESPACE: &str = "chains";

/// The name of a ref: a namespace and a name, such as `images/pyapp:v1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

/// The text is no name of a ref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid name {0:?}: at most 255 printable ASCII characters without spaces, \
     none of the parts between slashes empty, `.` or `..`"
)]
pub struct RefNameError(String);

impl FromStr for RefName {
    type Err = RefNameError;

    fn from_str(name: &str) -> Result<Self, RefNameError> {
        let segments_ok = name.split('/').all(|s| !matches!(s, "" | "." | ".."));
        let bytes_ok =
            name.len() <= REF_NAME_BYTES_MAX && name.bytes().all(|b| b.is_ascii_graphic());
        if bytes_ok && segments_ok && name.contains('/') {
            Ok(Self(name.to_owned()))
        } else {
            Err(RefNameError(name.to_owned()))
        }
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RefName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether what the ref names is kept for it.
    pub(crate) fn is_root(&self) -> bool {
        self.0
            .split_once('/')
            .is_none_or(|(n, _)| n != CHAINS_NAMESPACE)
    }

    /// Returns the key of the ref: what a key cannot hold is percent-encoded.
    pub fn key(&self) -> Key {
        let mut key = format!("{REFS_FOLDER}/");
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"._-/".contains(&byte) {
                key.push(byte.into());
            } else {
                key.push('%');
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                key.extend([digit(byte >> 4), digit(byte & 15)]);
            }
        }
        Key::new(key).expect("3 * 255 encoded bytes are below the limit of keys")
    }

    /// Reads the name off a key; `None` for keys that no name has.
    pub fn from_key(key: &Key) -> Option<Self> {
        let encoded = key.as_str().strip_prefix("refs/")?.as_bytes();
        let mut name = String::new();
        let mut rest = encoded.iter();
        while let Some(&byte) = rest.next() {
            if byte == b'%' {
                let digits = [*rest.next()?, *rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                name.push(u8::from_str_radix(digits, 16).ok()?.into());
            } else {
                name.push(byte.into());
            }
        }
        let name: Self = name.parse().ok()?;
        (name.key() == *key).then_some(name)
    }
}

/// What a ref says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ref {
    /// The record it names.
    pub record: RecordId,
    /// When it was last changed, in milliseconds since 1970 by the changer's clock.
    pub changed_ms: u64,
}

/// Why a ref cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// The object is damaged or of a later version.
    #[error("ref {name}: {source}")]
    Envelope {
        /// The ref.
        name: String,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The store failed; [`StoreError::Exists`] and [`StoreError::Conflict`] say that someone else
    /// was faster.
    #[error("ref {name}: {source}")]
    Store {
        /// The ref.
        name: String,
        /// The store's error.
        source: StoreError,
    },
}

impl Ref {
    /// Encodes the ref.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(40);
        body.put(self.record.as_bytes());
        body.put_u64(self.changed_ms);
        envelope::seal(*b"REF1", &body).1
    }

    /// Decodes a ref.
    ///
    /// # Errors
    /// [`EnvelopeError`] for damage or a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (_, body) = envelope::open(*b"REF1", bytes)?;
        let mut wire = Wire::new(body);
        let decode = |wire: &mut Wire<'_>| -> Result<Self, Truncated> {
            let record = RecordId::new(Digest::from_bytes(wire.array()?));
            Ok(Self {
                record,
                changed_ms: wire.u64()?,
            })
        };
        let decoded = decode(&mut wire)?;
        wire.finish()?;
        Ok(decoded)
    }
}

/// Reads a ref and the version to change it from; `None` when there is none of that name.
///
/// # Errors
/// [`RefError`] when the store fails or the ref is damaged.
pub async fn read_ref(
    store: &dyn BlobStore,
    name: &RefName,
) -> Result<Option<(Ref, Version)>, RefError> {
    match store.get(&name.key(), REF_BYTES_MAX).await {
        Ok((bytes, version)) => {
            let envelope = |source| RefError::Envelope {
                name: name.to_string(),
                source,
            };
            Ok(Some((Ref::decode(&bytes).map_err(envelope)?, version)))
        }
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(source) => Err(RefError::Store {
            name: name.to_string(),
            source,
        }),
    }
}

/// Makes or changes a ref, if it is still as `seen` (`None`: not there).
///
/// # Errors
/// [`RefError::Store`] with [`StoreError::Exists`] or [`StoreError::Conflict`] when it is not.
pub async fn write_ref(
    store: &dyn BlobStore,
    name: &RefName,
    value: Ref,
    seen: Option<&Version>,
) -> Result<(), RefError> {
    let (key, body) = (name.key(), value.encode().into());
    let written = match seen {
        None => store.create(&key, body).await,
        Some(version) => store.replace(&key, body, version).await,
    };
    written.map(drop).map_err(|source| RefError::Store {
        name: name.to_string(),
        source,
    })
}

/// Deletes a ref; what it named becomes garbage unless another ref names it.
///
/// # Errors
/// [`RefError::Store`] when the store fails.
pub async fn delete_ref(store: &dyn BlobStore, name: &RefName) -> Result<(), RefError> {
    let error = |source| RefError::Store {
        name: name.to_string(),
        source,
    };
    store.delete(&name.key()).await.map_err(error)
}

/// Returns the names of all refs that keep something alive, sorted.
///
/// # Errors
/// [`RefError::Store`] when the store fails.
pub(crate) async fn list_roots(store: &dyn BlobStore) -> Result<Vec<RefName>, RefError> {
    let mut names = list_refs(store, None).await?;
    names.retain(RefName::is_root);
    Ok(names)
}

/// Returns the names of all refs, or those of one namespace, sorted.
///
/// # Errors
/// [`RefError::Store`] when the store fails.
pub async fn list_refs(
    store: &dyn BlobStore,
    namespace: Option<&str>,
) -> Result<Vec<RefName>, RefError> {
    let folder = namespace.map_or_else(|| REFS_FOLDER.into(), |n| format!("{REFS_FOLDER}/{n}"));
    let error = |source| RefError::Store {
        name: folder.clone(),
        source,
    };
    let objects: Vec<_> = store.list(&folder).try_collect().await.map_err(error)?;
    let mut names: Vec<_> = objects
        .iter()
        .filter_map(|object| RefName::from_key(&object.key))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_store;

    #[test]
    fn names_and_keys_are_one_to_one() {
        for name in [
            "images/pyapp:v1",
            "images/host:5000/a/b@sha256:0f",
            "v/%41",
            "i/~x",
        ] {
            let name: RefName = name.parse().unwrap();
            assert_eq!(RefName::from_key(&name.key()), Some(name));
        }
        for bad in [
            "", "images", "images/", "/x", "a/../b", "a/b c", "a/\u{e9}", "a/\n",
        ] {
            assert!(bad.parse::<RefName>().is_err(), "{bad:?}");
        }
        let twice = Key::new("refs/images/%61").unwrap();
        assert_eq!(RefName::from_key(&twice), None, "`a` has another key");
    }

    #[tokio::test]
    async fn a_stale_change_is_refused_and_loses_nothing() {
        let store = memory_store();
        let name: RefName = "images/a:b".parse().unwrap();
        let to = |byte| Ref {
            record: RecordId::new(Digest::of(&[byte])),
            changed_ms: 7,
        };
        assert_eq!(read_ref(&*store, &name).await.unwrap(), None);
        write_ref(&*store, &name, to(1), None).await.unwrap();
        let (seen, version) = read_ref(&*store, &name).await.unwrap().unwrap();
        assert_eq!(seen, to(1));
        let error = write_ref(&*store, &name, to(2), None).await.unwrap_err();
        assert!(matches!(
            error,
            RefError::Store {
                source: StoreError::Exists(_),
                ..
            }
        ));
        write_ref(&*store, &name, to(2), Some(&version))
            .await
            .unwrap();
        let error = write_ref(&*store, &name, to(3), Some(&version))
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            RefError::Store {
                source: StoreError::Conflict(_),
                ..
            }
        ));
        assert_eq!(read_ref(&*store, &name).await.unwrap().unwrap().0, to(2));
        assert_eq!(
            list_refs(&*store, Some("images")).await.unwrap(),
            std::slice::from_ref(&name)
        );
        delete_ref(&*store, &name).await.unwrap();
        assert_eq!(list_refs(&*store, None).await.unwrap(), []);
    }

    #[test]
    fn damage_is_noticed() {
        let bytes = Ref {
            record: RecordId::new(Digest::of(b"r")),
            changed_ms: 1,
        }
        .encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Ref::decode(&bad).is_err());
            assert!(Ref::decode(&bytes[..at]).is_err());
        }
    }
}
