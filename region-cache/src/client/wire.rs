//! What goes between the client and one member, and what may come of it.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::Key;

/// A request for bytes of an object.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) key: Key,
    /// Exactly these bytes; without, the whole object.
    pub(crate) range: Option<Range<u64>>,
    /// Longest answer to read, in bytes.
    pub(crate) limit_bytes: u64,
    /// Only what the member has already: it must not ask the origin (RFC 9111, 5.2.1.7).
    pub(crate) only_if_cached: bool,
    /// Nobody waits for it yet: it may take its turn behind all others.
    pub(crate) ahead: bool,
}

impl Ask {
    /// Returns the same request for what the member has already.
    pub(crate) fn only_cached(&self) -> Self {
        Self {
            only_if_cached: true,
            ..self.clone()
        }
    }
}

/// Where a member had the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Had {
    Memory,
    Disk,
    /// It had to ask the origin, or does not say.
    Origin,
}

/// What a member gave.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) bytes: Bytes,
    pub(crate) had: Had,
    /// A burst of the image begins, whose record this is.
    pub(crate) burst: bool,
}

/// Why it gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WireError {
    /// It lives and has no capacity left; to be asked again after that time.
    #[error("it is busy")]
    Busy(Duration),
    /// It lives and has not got it, or does not give it to us.
    #[error("it answers {0}")]
    Refused(u16),
    /// It does not answer, or not as it should.
    #[error("{0}")]
    Failed(String),
}

/// A part of an object on its way to a member.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) key: Key,
    pub(crate) body: Bytes,
    /// Where in the object the part begins.
    pub(crate) offset: u64,
    /// Length of the whole object.
    pub(crate) total: u64,
}

impl Part {
    /// Tells whether it is the whole object.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.len() as u64 == self.total
    }
}

/// The way to the members: HTTP, or a simulated one.
#[async_trait::async_trait]
pub(crate) trait Wire: std::fmt::Debug + Send + Sync + 'static {
    /// Asks `member` for bytes; an answer has exactly those that were asked for. May be cancelled.
    async fn get(&self, member: &str, ask: &Ask) -> Result<Answer, WireError>;

    /// Gives `member` a part of an object to keep.
    async fn put(&self, member: &str, part: &Part) -> Result<(), WireError>;

    /// Tells `member` that it gave wrong bytes for a range.
    async fn report(&self, member: &str, key: &Key, range: Range<u64>) -> Result<(), WireError>;
}
