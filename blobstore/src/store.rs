//! The boundary to object storage: [`BlobStore`] and its implementations.
//!
//! Everything above this module speaks of [`Key`]s and bytes. What is written under a
//! content-derived key never changes; only refs and leases are replaced, and those by
//! compare-and-swap.

mod check;
mod delay;
mod home;
mod journal;
mod limit;
mod local;
mod object;
mod retry;
mod span;
mod staged;
mod url;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::url::{StoreOptions, StoreUrl, StoreUrlError, open};
pub use check::check;
pub use delay::DelayStore;
pub use home::HomeStore;
pub use journal::JournalStore;
pub use limit::{CONCURRENT_REQUESTS_MAX, LimitStore};
pub use local::LocalStore;
pub use object::ObjectBackend;
pub use retry::{RetryPolicy, RetryStore};
pub use span::{SpanStore, in_span, origin_get, range_text, span_number};
pub use staged::StagedStore;

/// The name of an object in a store: `/`-separated segments of `[A-Za-z0-9._%~-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Longest key, in bytes (S3 allows 1,024 with the store's prefix).
    pub const LEN_MAX: usize = 800;

    /// Makes a key.
    ///
    /// # Errors
    /// [`StoreError::InvalidKey`] for an empty or over-long key, an empty segment, `.`, `..`, or a
    /// byte outside `[A-Za-z0-9._%~-]`.
    pub fn new(key: impl Into<String>) -> Result<Self, StoreError> {
        let key = key.into();
        let segment_ok = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._%~-".contains(&b))
        };
        if key.len() <= Self::LEN_MAX && key.split('/').all(segment_ok) {
            Ok(Self(key))
        } else {
            Err(StoreError::InvalidKey(key))
        }
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies one state of a replaceable object, for [`BlobStore::replace`]. Opaque.
///
/// A store may give equal bytes equal versions (S3's `ETag` is a hash of them), so a record whose
/// history matters must hold a counter or something else that never repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub(crate) String);

impl Version {
    /// Returns the version of what is never replaced. No object is in it for
    /// [`BlobStore::replace`].
    pub const fn unchanging() -> Self {
        Self(String::new())
    }
}

/// What [`BlobStore::list`] tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was last written, in milliseconds since 1970 by the store's clock.
    pub modified_ms: u64,
}

/// What went wrong at the store. The variants are what callers decide on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("{0} is not in the store")]
    NotFound(Key),
    /// [`BlobStore::create`]: an object has this key already.
    #[error("{0} exists already")]
    Exists(Key),
    /// [`BlobStore::replace`]: the object is no longer in the version given.
    #[error("{0} was changed by someone else")]
    Conflict(Key),
    /// The object is not as long as it should be, or longer than the caller allows.
    #[error("{key} has {actual} bytes where {expected} were expected")]
    Size {
        /// The object.
        key: Key,
        /// Bytes asked for, or the limit.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// The text is no key.
    #[error("{0:?} is not a valid object key")]
    InvalidKey(String),
    /// The store cannot do this at all, or its configuration is wrong.
    #[error("store: {0}")]
    Unsupported(String),
    /// The store has no room for the object; its old state is unchanged.
    #[error("no space left in the store for {0}")]
    NoSpace(Key),
    /// The store refused the credentials.
    #[error("store refused access to {0}")]
    Denied(String),
    /// No answer within the deadline.
    #[error("{operation} {key} timed out after {seconds} s")]
    TimedOut {
        /// The verb.
        operation: &'static str,
        /// The object.
        key: Key,
        /// The deadline.
        seconds: u64,
    },
    /// Network, server or disk trouble; worth trying again.
    #[error("{operation} {target}: {message}")]
    Unavailable {
        /// The verb.
        operation: &'static str,
        /// Object or prefix.
        target: String,
        /// The cause, as the store's client tells it.
        message: String,
    },
}

impl StoreError {
    /// Describes trouble that may pass, in `operation` on the object or prefix `target`.
    pub(crate) fn unavailable(
        operation: &'static str,
        target: impl fmt::Display,
        cause: impl fmt::Display,
    ) -> Self {
        Self::Unavailable {
            operation,
            target: target.to_string(),
            message: cause.to_string(),
        }
    }

    /// Tells whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// Refuses a prefix for [`BlobStore::list`] that is neither empty nor a key.
fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() {
        Ok(())
    } else {
        Key::new(prefix).map(drop)
    }
}

/// An object store: the only shared state of all nodes.
///
/// Reads after an acknowledged write see that write. All methods may be cancelled by dropping the
/// future; a write that was under way then has happened, or will, wholly or not at all. The same
/// holds after [`StoreError::Unavailable`] and [`StoreError::TimedOut`].
///
/// No key may be the folder of another (`a` beside `a/b`), and no segment may be longer than 255
/// bytes: a local directory can hold neither.
#[async_trait::async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Returns a whole object of at most `limit_bytes`, and its version. A longer one is
    /// [`StoreError::Size`], found before its body is read.
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError>;

    /// Returns exactly the bytes of `range`; never fewer: a range that passes the object's end is
    /// [`StoreError::Size`]. An empty range is answered without asking the store.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Returns the bytes of `range` that the object has, and its length in bytes: for readers that
    /// know neither. A range that starts at or past the object's end is [`StoreError::Size`].
    ///
    /// Two requests, unless the store can do it by one.
    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let actual = self.size(key).await?;
        if range.start >= actual {
            return Err(StoreError::Size {
                key: key.clone(),
                expected: range.start.saturating_add(1),
                actual,
            });
        }
        let range = range.start..range.end.min(actual);
        Ok((self.get_range(key, range).await?, actual))
    }

    /// Returns the length of an object in bytes.
    async fn size(&self, key: &Key) -> Result<u64, StoreError>;

    /// Writes an object whose key is derived from its bytes. Writing it twice is harmless. Durable
    /// when this returns.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;

    /// Writes an object that must not exist yet; of several racing callers exactly one succeeds.
    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError>;

    /// Writes an object that must still be in version `expected`; of several racing callers
    /// exactly one succeeds. [`StoreError::Conflict`] also when it is gone.
    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError>;

    /// Deletes an object; one that is not there is no error.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Lists the objects below the folder `prefix` (without a trailing `/`; empty for all), in no
    /// given order, each once. A folder that is not there is empty. Names that are no [`Key`] are
    /// passed over. Objects written or deleted meanwhile may be listed or not.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>>;
}
