//! Labels of a container's snapshot as options: `ctr run --snapshotter-label KEY=VALUE`, or whatever
//! else passes labels on. One that is not understood is refused: a limit that is not in force would
//! be worse than a container that does not start.

use super::error::SnapshotsError;
use super::labels::{self, Labels};
use super::shown::Asked;
use crate::daemon::MountMode;

/// What the names of options begin with.
const PREFIX: &str = "containerd.io/snapshot/nacre.";
/// `true`: every read of the container is seen, so that its start is recorded whole.
const TRACE: &str = "trace";
/// The most bytes that the container may write, such as `512MiB`.
const QUOTA: &str = "quota";
/// With a number behind it `NAME:/PATH`: the image, snapshot or volume `NAME` is shown at `/PATH`.
const MOUNT: &str = "mount.";

/// Trees that are shown in one container.
const MOUNTS_MAX: usize = 16;

/// The smallest and the largest quota, in bytes.
const QUOTA_BYTES_MIN: u64 = 16 << 20;
const QUOTA_BYTES_MAX: u64 = 16 << 40;

/// The options of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) trace: bool,
    pub(super) quota_bytes: Option<u64>,
    pub(super) mounts: Vec<Asked>,
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
                _ if is_mount(name) => Asked::parse(value).map(|asked| options.mounts.push(asked)),
                _ => None,
            };
            understood.ok_or_else(|| {
                SnapshotsError::Invalid(format!(
                    "label {key}={value:?}: there is {PREFIX}{TRACE}=true|false, \
                     {PREFIX}{QUOTA}=BYTES, from 16MiB to 16TiB, and {PREFIX}{MOUNT}N=NAME:/PATH, \
                     not below /dev, /proc, /run and /sys"
                ))
            })?;
        }
        options.check_mounts()?;
        Ok(options)
    }

    fn check_mounts(&self) -> Result<(), SnapshotsError> {
        let invalid = |text| Err(SnapshotsError::Invalid(text));
        if self.mounts.len() > MOUNTS_MAX {
            return invalid(format!("more than {MOUNTS_MAX} labels {PREFIX}{MOUNT}N"));
        }
        for (number, mount) in self.mounts.iter().enumerate() {
            let others = &self.mounts[number + 1..];
            if let Some(other) = others.iter().find(|other| mount.overlaps(other)) {
                let (one, other) = (&mount.path, &other.path);
                return invalid(format!(
                    "labels {PREFIX}{MOUNT}N: {one} and {other} are one in the other"
                ));
            }
        }
        Ok(())
    }

    /// Reads the options of a snapshot that was made: they were understood then.
    pub(super) fn of(labels: &Labels) -> Self {
        Self::read(labels).unwrap_or_default()
    }

    /// Returns the mode in which layers must be served, if it is not for the node to choose.
    pub(super) fn mode(&self) -> Option<MountMode> {
        // What the kernel serves by itself is not seen.
        self.trace.then_some(MountMode::Fuse)
    }
}

fn is_mount(name: &str) -> bool {
    let number = name.strip_prefix(MOUNT).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
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

    fn mounts(values: &[&str]) -> Result<Options, SnapshotsError> {
        let label = |(number, value): (usize, &&str)| {
            (format!("{PREFIX}{MOUNT}{number}"), (*value).to_owned())
        };
        Options::read(&values.iter().enumerate().map(label).collect())
    }

    #[test]
    fn mounts_are_apart_and_not_too_many() {
        let read = mounts(&["a:v1:/x", "b:/y/z"]).unwrap().mounts;
        let paths: Vec<_> = read.iter().map(|asked| &*asked.path).collect();
        assert_eq!(paths, ["/x", "/y/z"]);
        assert!(mounts(&["a:/x", "b:/x/y"]).is_err());
        let many: Vec<_> = (0..=MOUNTS_MAX).map(|n| format!("a:/{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(mounts(&many[1..]).is_ok());
        assert!(mounts(&many).is_err());
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
            ("mount.", "pyapp:/opt"),
            ("mount.x", "pyapp:/opt"),
            ("mount.1", "pyapp:/proc"),
        ] {
            let refused = read(key, value);
            assert!(
                matches!(refused, Err(SnapshotsError::Invalid(_))),
                "{key}={value}"
            );
        }
    }
}
