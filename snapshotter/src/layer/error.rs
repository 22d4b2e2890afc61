//! Why a layer is refused.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// Where in which layer an error lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerPosition {
    /// The name that the layer's reader was given, its digest as a rule.
    pub layer: String,
    /// The entry's path, lossily; empty before the first entry and for the layer as a whole.
    pub entry: String,
}

impl fmt::Display for LayerPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.layer)?;
        if self.entry.is_empty() {
            Ok(())
        } else {
            write!(f, ", entry {:?}", self.entry)
        }
    }
}

/// Why a layer cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The bytes could not be read. Says nothing about the layer; another try may do.
    #[error("read layer {at}")]
    Io {
        /// Where.
        at: LayerPosition,
        /// The reader's error.
        #[source]
        source: io::Error,
    },
    /// The bytes break a rule of their format. No other try helps.
    #[error("malformed layer {at}: {reason}")]
    Malformed {
        /// Where.
        at: LayerPosition,
        /// The rule.
        reason: Cow<'static, str>,
    },
    /// The layer is beyond a limit of [`LayerLimits`](super::LayerLimits) or of Linux, and may be
    /// hostile.
    #[error("layer {at} is beyond a limit: more than {max} {what}")]
    Limit {
        /// Where.
        at: LayerPosition,
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The layer uses something that this version does not know.
    #[error("layer {at} is not supported: {what}")]
    Unsupported {
        /// Where.
        at: LayerPosition,
        /// What is not known.
        what: Cow<'static, str>,
    },
    /// A file of a directory source changed while it was read.
    #[error("layer {at} changed while it was read")]
    Changed {
        /// Where.
        at: LayerPosition,
    },
}

/// A [`LayerError`] before its position is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("read")]
    Io(#[source] io::Error),
    #[error("{0}")]
    Malformed(Cow<'static, str>),
    #[error("more than {max} {what}")]
    Limit { what: &'static str, max: u64 },
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
    #[error("changed")]
    Changed,
}

impl Fault {
    pub(crate) const fn malformed(reason: &'static str) -> Self {
        Self::Malformed(Cow::Borrowed(reason))
    }

    /// Fails when `value` is above `max`.
    pub(crate) const fn check_limit(value: u64, max: u64, what: &'static str) -> Result<(), Self> {
        if value <= max {
            Ok(())
        } else {
            Err(Self::Limit { what, max })
        }
    }

    /// Says where the fault lies.
    pub(crate) fn at(self, at: LayerPosition) -> LayerError {
        match self {
            Self::Io(source) => LayerError::Io { at, source },
            Self::Malformed(reason) => LayerError::Malformed { at, reason },
            Self::Limit { what, max } => LayerError::Limit { at, what, max },
            Self::Unsupported(what) => LayerError::Unsupported { at, what },
            Self::Changed => LayerError::Changed { at },
        }
    }
}

impl From<io::Error> for Fault {
    /// Unwraps the fault that a reader below wrapped into an I/O error.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(fault) => fault,
            Err(error) => Self::Io(error),
        }
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}
