//! Which containerd it is.

use std::process::Command;

/// A version of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) patch: u32,
}

impl Version {
    pub(super) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Reads a version off text such as `v1.6.20~ds1` or `2.4`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = text.splitn(3, '.').map(|part| {
            let end = part.find(|c: char| !c.is_ascii_digit());
            part[..end.unwrap_or(part.len())].parse().ok()
        });
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let patch = numbers.next().flatten().unwrap_or(0);
        Some(Self::new(major, minor, patch))
    }

    /// Asks the containerd that is installed.
    pub(super) fn installed() -> Result<Self, String> {
        let output = Command::new("containerd").arg("--version").output();
        let output = output.map_err(|error| format!("containerd --version: {error}"))?;
        // containerd PACKAGE VERSION REVISION
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().find_map(Self::parse);
        version.ok_or_else(|| format!("containerd --version says {:?}", text.trim()))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_what_builds_call_themselves() {
        for (text, version) in [
            ("1.6.20~ds1", Version::new(1, 6, 20)),
            ("v1.7.0-rc.1", Version::new(1, 7, 0)),
            ("v2.4.2", Version::new(2, 4, 2)),
            ("2.1", Version::new(2, 1, 0)),
        ] {
            assert_eq!(Version::parse(text), Some(version));
        }
        for bad in [
            "",
            "containerd",
            "github.com/containerd/containerd",
            "2",
            "2.x",
        ] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}
