//! What goes wrong on the way from a source to an image.

use std::io;
use std::path::PathBuf;

use super::credentials::CredentialsError;
use super::digest::OciDigest;
use super::platform::Platform;

/// Why an image or one of its blobs cannot be had. The variants are what callers decide on.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// There is no such image, tag or blob.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The bytes are not those that the digest names.
    #[error("{expected} is corrupt: the bytes received hash to {actual}")]
    Corrupt {
        /// What was asked for.
        expected: OciDigest,
        /// What came.
        actual: OciDigest,
    },
    /// The blob is shorter or longer than its descriptor says.
    #[error("{digest} is corrupt: {} than the {expected} bytes of its descriptor",
        if *longer { "longer" } else { "shorter" })]
    Size {
        /// The blob.
        digest: OciDigest,
        /// Bytes that its descriptor announces.
        expected: u64,
        /// Whether more came than announced; reading stopped there.
        longer: bool,
    },
    /// A document is larger than any sound one.
    #[error("{what} is larger than the {limit_bytes} bytes allowed")]
    TooLarge {
        /// The document.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A document or an answer breaks its specification.
    #[error("{what} is malformed: {message}")]
    Malformed {
        /// The document.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// Sound, but of a kind that is refused on purpose.
    #[error("{0}")]
    Unsupported(String),
    /// The image exists, for other platforms only.
    #[error("no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// Those that are there, separated by commas.
        offered: String,
    },
    /// Several images match and none was named.
    #[error("{what} holds several images, name one of {tags}")]
    Ambiguous {
        /// The layout or archive.
        what: String,
        /// The tags in it, separated by commas.
        tags: String,
    },
    /// The registry wants other credentials.
    #[error("access to {what} was denied: {message}")]
    Denied {
        /// The registry or the blob.
        what: String,
        /// The cause.
        message: String,
    },
    /// Network or server trouble that outlasted the attempts made; worth trying later.
    #[error("read {what}: {message}")]
    Unavailable {
        /// The blob or the URL.
        what: String,
        /// The cause.
        message: String,
    },
    /// The credentials could not be found out.
    #[error("find credentials for {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// The cause.
        #[source]
        source: CredentialsError,
    },
    /// A local file could not be read.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl OciError {
    /// Tells whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn malformed(what: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::Malformed {
            what: what.into(),
            message: cause.into().0,
        }
    }
}

/// What is wrong with a document, in words.
pub(crate) struct Cause(String);

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<serde_json::Error> for Cause {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<url::ParseError> for Cause {
    fn from(error: url::ParseError) -> Self {
        Self(error.to_string())
    }
}
