//! How a verb fails: one line for people, one code for scripts.

use std::fmt::Display;

use nacre_blobstore::{
    CatalogError, FsckError, GcError, IndexError, LeaseError, ReadError, RecordError, RefError,
    SecureError, StoreError, TraceError, WriteError,
};
use nacre_snapshotter::layer::LayerError;
use nacre_snapshotter::oci::OciError;
use nacre_snapshotter::{ChainsError, ClientError, ImageError, IngestError, OptimizeError};

/// The verb did what it was asked for.
pub(crate) const SUCCESS: u8 = 0;
/// The verb failed, for a reason of none of the other codes.
pub(crate) const FAILED: u8 = 1;
/// The command line or the settings are wrong.
pub(crate) const USAGE: u8 = 2;
/// What was named is not there.
pub(crate) const NOT_FOUND: u8 = 10;
/// Someone else holds it or was faster.
pub(crate) const BUSY: u8 = 11;
/// Data does not match its digest.
pub(crate) const CORRUPT: u8 = 12;
/// No answer in time.
pub(crate) const TIMED_OUT: u8 = 124;
/// Ended by an interrupt.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    cause: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// Says that `verb` could not be done to `object`.
    pub(crate) fn new(verb: &str, object: &str, cause: &dyn Display) -> Self {
        let what = format!("{verb} {object}");
        Self {
            what,
            cause: cause.to_string(),
            hint: None,
            code: FAILED,
        }
    }

    /// Makes a failure out of an error, with the code of its class and all its causes.
    pub(crate) fn of<E: Classed>(verb: &str, object: &str) -> impl Fn(E) -> Self {
        move |error| {
            let mut cause = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                let text = error.to_string();
                // Some errors quote their cause themselves.
                if !cause.contains(&text) {
                    cause = format!("{cause}: {text}");
                }
                source = error.source();
            }
            let (code, hint) = error.class();
            let hint = hint.map(str::to_owned);
            Self {
                what: format!("{verb} {object}"),
                cause,
                hint,
                code,
            }
        }
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Returns the exit code.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// Returns the failure as one line.
    pub(crate) fn text(&self) -> String {
        format!("cannot {}: {}", self.what, self.cause.replace('\n', " "))
    }

    /// Tells the user and returns the exit code.
    #[expect(
        clippy::print_stderr,
        reason = "the one place that tells users of failures"
    )]
    pub(crate) fn report(&self) -> u8 {
        eprintln!("nacre: {}", self.text());
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        self.code
    }
}

pub(crate) type Class = (u8, Option<&'static str>);

/// Errors that know their exit code, and a hint where there is something to do.
pub(crate) trait Classed: std::error::Error {
    fn class(&self) -> Class;
}

const PLAIN: Class = (FAILED, None);

impl Classed for StoreError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => (NOT_FOUND, None),
            Self::Exists(_) | Self::Conflict(_) => (BUSY, Some("run the command again")),
            Self::Size { .. } => (CORRUPT, None),
            Self::TimedOut { .. } => (TIMED_OUT, None),
            Self::Denied(_) => (FAILED, Some("check the store's credentials")),
            _ => PLAIN,
        }
    }
}

impl Classed for RefError {
    fn class(&self) -> Class {
        match self {
            Self::Envelope { .. } => (CORRUPT, None),
            Self::Store { source, .. } => source.class(),
        }
    }
}

impl Classed for RecordError {
    fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            _ => (CORRUPT, None),
        }
    }
}

impl Classed for IndexError {
    fn class(&self) -> Class {
        match self {
            Self::Busy { .. } => (BUSY, None),
            _ => PLAIN,
        }
    }
}

impl Classed for CatalogError {
    fn class(&self) -> Class {
        match self {
            Self::Store(StoreError::NotFound(_)) | Self::Corrupt { .. } => (CORRUPT, None),
            Self::Store(error) => error.class(),
            Self::Index(error) => error.class(),
            Self::Waited { .. } | Self::Full | Self::Stopped => PLAIN,
        }
    }
}

impl Classed for FsckError {
    fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Catalog(error) => error.class(),
            Self::Ref(error) => error.class(),
            Self::Index(error) => error.class(),
        }
    }
}

impl Classed for GcError {
    fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Ref(RefError::Store { source, .. }) => source.class(),
            Self::Ref(RefError::Envelope { .. }) | Self::Record { .. } => (
                CORRUPT,
                Some("`nacre store fsck` tells what is wrong; nothing was deleted"),
            ),
            Self::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }) => {
                (BUSY, Some("wait for the other one to end"))
            }
            Self::Envelope { .. } => (CORRUPT, None),
            Self::Lease(_) | Self::TooMany(_) => PLAIN,
        }
    }
}

impl Classed for ChainsError {
    fn class(&self) -> Class {
        match self {
            Self::Ref(error) => error.class(),
            Self::Record { source, .. } => source.class(),
        }
    }
}

impl Classed for SecureError {
    fn class(&self) -> Class {
        match self {
            Self::Gc(error) => error.class(),
            Self::Gone(_) | Self::Late => (BUSY, Some("run the command again")),
            Self::Busy(_) => (BUSY, Some("run the command again in some minutes")),
        }
    }
}

impl Classed for ImageError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => (NOT_FOUND, Some("`nacre image ls` lists the images")),
            Self::Name(_) => (USAGE, None),
            Self::Ref(error) => error.class(),
            // The name is there, so what it names should be.
            Self::Record {
                source: RecordError::Store(StoreError::NotFound(_)),
                ..
            } => (CORRUPT, None),
            Self::Record { source, .. } => source.class(),
            Self::Kind(_) => PLAIN,
        }
    }
}

impl Classed for OciError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => (NOT_FOUND, None),
            Self::Corrupt { .. } | Self::Size { .. } => (CORRUPT, None),
            _ => PLAIN,
        }
    }
}

impl Classed for IngestError {
    fn class(&self) -> Class {
        match self {
            Self::Source(error) => error.class(),
            Self::DiffId { .. } | Self::Merge { .. } => (CORRUPT, None),
            Self::Layer(LayerError::Malformed { .. }) => (CORRUPT, None),
            Self::Write(WriteError::Store(error)) => error.class(),
            Self::Store(error) => error.class(),
            Self::Index(error) => error.class(),
            Self::Catalog(error) => error.class(),
            Self::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }) => (BUSY, None),
            Self::Ref(error) => error.class(),
            Self::Secure(error) => error.class(),
            Self::Name(_) => (USAGE, None),
            _ => PLAIN,
        }
    }
}

impl Classed for ClientError {
    fn class(&self) -> Class {
        match self {
            Self::Refused { code, .. } => (*code, None),
            Self::TimedOut => (TIMED_OUT, None),
            _ => PLAIN,
        }
    }
}

impl Classed for ReadError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) | Self::Corrupt { .. } => (CORRUPT, None),
            Self::Unavailable { source, .. } => source.class(),
            Self::Catalog { source, .. } => source.class(),
            _ => PLAIN,
        }
    }
}

impl Classed for TraceError {
    fn class(&self) -> Class {
        match self {
            Self::Malformed(_) | Self::Envelope(_) => (CORRUPT, None),
            Self::Record(error) => error.class(),
            Self::Ref(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::Secure(error) => error.class(),
            Self::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }) => (BUSY, None),
            Self::Lease(_) | Self::Random => PLAIN,
        }
    }
}

impl Classed for OptimizeError {
    fn class(&self) -> Class {
        match self {
            Self::NoTrace(_) => (NOT_FOUND, Some("`nacre trace record` records a start")),
            Self::Trace(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Catalog(error) => error.class(),
            Self::Index(error) => error.class(),
            Self::Write(WriteError::Store(error)) => error.class(),
            Self::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }) => (BUSY, None),
            _ => PLAIN,
        }
    }
}
