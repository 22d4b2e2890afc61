//! Labels of a container's snapshot as options: `ctr run --snapshotter-label KEY=VALUE`, or whatever
//! else passes labels on. One that is not understood is refused: a limit that is not in force would
//! be worse than a container that does not start.

use super::error::SnapshotsError;
use super::labels::{self, Labels};
use super::lazy::MountStyle;

/// What the names of options begin with.
const PREFIX: &str = "containerd.io/snapshot/nacre.";
/// `true`: every read of the container is seen, so that its start is recorded whole.
const TRACE: &str = "trace";
/// The most bytes that the container may write, such as `512MiB`.
const QUOTA: &str = "quota";

/// The smallest and the largest quota, in bytes.
const QUOTA_BYTES_MIN: u64 = 16 << 20;
const QUOTA_BYTES_MAX: u64 = 16 << 40;

/// The options of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) trace: bool,
    pub(super) quota_bytes: Option<u64>,
}

impl Options {
    /// Reads the options of a container off its labels.
    ///
    /// # Errors
    /// [`SnapshotsError::Invalid`] for a value that is none, and for an option that is not known.
    pub(super) fn read(labels: &Labels) -> Result<Self, SnapshotsError> {
        let mut options = Self::default();
        for (key, value) in labels {
            let Some(name) = key.strip_prefix(PREFIX).filter(|_| key != labels::MODE) else {
                continue;
            };
            let understood = match name {
                TRACE => value.parse().map(|trace| options.trace = trace).ok(),
                QUOTA => quota(value).map(|bytes| options.quota_bytes = Some(bytes)),
                _ => None,
            };
            understood.ok_or_else(|| {
                SnapshotsError::Invalid(format!(
                    "label {key}={value:?}: there is {PREFIX}{TRACE}=true|false and \
                     {PREFIX}{QUOTA}=BYTES, from 16MiB to 16TiB"
                ))
            })?;
        }
        Ok(options)
    }

    /// Reads the options of a snapshot that was made: they were understood then.
    pub(super) fn of(labels: &Labels) -> Self {
        Self::read(labels).unwrap_or_default()
    }

    /// Returns what the mounts are like where they would be like `style` without options.
    pub(super) const fn style(self, style: MountStyle) -> MountStyle {
        // What the kernel serves by itself is not seen.
        if self.trace {
            MountStyle::Directories
        } else {
            style
        }
    }
}

fn quota(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "KiB" | "Ki" | "K" => 10,
        "MiB" | "Mi" | "M" => 20,
        "GiB" | "Gi" | "G" => 30,
        "TiB" | "Ti" | "T" => 40,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (QUOTA_BYTES_MIN..=QUOTA_BYTES_MAX)
        .contains(&bytes)
        .then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Options, SnapshotsError> {
        let label = (format!("{PREFIX}{key}"), value.to_owned());
        let other = ("containerd.io/snapshot/other".to_owned(), "x".to_owned());
        Options::read(&[label, other].into())
    }

    #[test]
    fn options_are_read_off_labels() {
        assert_eq!(Options::read(&Labels::new()).unwrap(), Options::default());
        assert_eq!(read("mode", "kernel").unwrap(), Options::default());
        assert!(read("trace", "true").unwrap().trace);
        assert!(!read("trace", "false").unwrap().trace);
        for (text, bytes) in [
            ("16777216", 16 << 20),
            ("16MiB", 16 << 20),
            ("2G", 2 << 30),
            ("1Ti", 1 << 40),
        ] {
            assert_eq!(read("quota", text).unwrap().quota_bytes, Some(bytes));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (key, value) in [
            ("trace", "yes"),
            ("quota", "lots"),
            ("quota", "-1G"),
            ("quota", "15MiB"),
            ("quota", "17T"),
            ("quota", "99999999999999T"),
            ("qouta", "1G"),
            ("mount.1", "pyapp"),
        ] {
            let refused = read(key, value);
            assert!(
                matches!(refused, Err(SnapshotsError::Invalid(_))),
                "{key}={value}"
            );
        }
    }
}
