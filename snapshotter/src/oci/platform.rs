//! Platforms, and which of an index's images runs on one.

use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, as OCI names them (Go's names).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform (os/architecture or os/architecture/variant)")]
pub struct PlatformError(String);

impl Platform {
    /// Makes a platform from the names in a descriptor or a config. Other spellings of a name
    /// (`x86_64`, `aarch64`, arm64's implied `v8`) become the one that OCI prefers.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant
            .filter(|v| !v.is_empty())
            .map(str::to_ascii_lowercase);
        let variant = variant.as_deref();
        let (architecture, variant) = match architecture.to_ascii_lowercase().as_str() {
            "amd64" | "x86_64" | "x86-64" => ("amd64".to_owned(), variant.filter(|v| *v != "v1")),
            "386" | "i386" | "i686" => ("386".to_owned(), None),
            "arm64" | "aarch64" => (
                "arm64".to_owned(),
                variant.filter(|v| !matches!(*v, "8" | "v8")),
            ),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            "arm" => ("arm".to_owned(), Some(variant.unwrap_or("v7"))),
            other => (other.to_owned(), variant),
        };
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.map(|v| match v {
            "5" | "6" | "7" | "8" if architecture == "arm" => format!("v{v}"),
            _ => v.to_owned(),
        });
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// Returns Linux on the processor that this program was built for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Returns the operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Returns the processor.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns the processor's variant, where it is not the one that goes without saying.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Tells how well an image for `offered` runs here: 0 is exact, higher is worse, `None` not
    /// at all. The order is that of containerd's `platforms.Only`: older variants of the same
    /// processor, then the 32-bit processor that a 64-bit one can stand in for.
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os {
            return None;
        }
        let offered = (offered.architecture.as_str(), offered.variant.as_deref());
        self.processors()
            .iter()
            .position(|(a, v)| (a.as_str(), v.as_deref()) == offered)
    }

    /// Lists the processors whose programs run on this one, best first.
    fn processors(&self) -> Vec<(String, Option<String>)> {
        let own = (self.architecture.clone(), self.variant.clone());
        let level = self
            .variant
            .as_deref()
            .and_then(|v| v.strip_prefix('v')?.parse::<u8>().ok());
        let arm_down_to_v5 = |from: u8| (5..=from).rev().map(|v| ("arm", Some(format!("v{v}"))));
        let fallbacks: Vec<(&str, Option<String>)> = match self.architecture.as_str() {
            "amd64" => {
                // Level 1 carries no variant.
                let lower = (2..level.unwrap_or(1).min(8))
                    .rev()
                    .map(|v| Some(format!("v{v}")));
                let plain = level.map(|_| None);
                let amd64 = lower.chain(plain).map(|variant| ("amd64", variant));
                amd64.chain([("386", None)]).collect()
            }
            "arm64" => {
                let plain = self.variant.iter().map(|_| ("arm64", None));
                plain.chain(arm_down_to_v5(8)).collect()
            }
            "arm" => arm_down_to_v5(level.unwrap_or(5).clamp(5, 9) - 1).collect(),
            _ => Vec::new(),
        };
        let fallbacks = fallbacks.into_iter().map(|(a, v)| (a.to_owned(), v));
        std::iter::once(own).chain(fallbacks).collect()
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/');
        let well_formed = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if [Some(os), Some(architecture), variant]
                    .iter()
                    .flatten()
                    .all(well_formed) =>
            {
                Ok(Self::new(os, architecture, variant))
            }
            _ => Err(PlatformError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(host: &str, image: &str) -> Option<usize> {
        host.parse::<Platform>()
            .unwrap()
            .rank(&image.parse().unwrap())
    }

    #[test]
    fn other_spellings_are_the_same_platform() {
        for (spelling, canonical) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/amd64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
        ] {
            assert_eq!(spelling.parse::<Platform>().unwrap().to_string(), canonical);
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/amd64/v2/x",
            "linux/am d64",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fallbacks_follow_containerd() {
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/amd64", "unknown/unknown"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64/v2"), Some(1));
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm/v5", "linux/arm/v5"), Some(0));
        assert!(rank("linux/arm64", "linux/arm/v8") < rank("linux/arm64", "linux/arm/v7"));
        assert_eq!(rank("linux/arm/v8", "linux/arm64"), None);
        assert_eq!(rank("linux/riscv64", "linux/amd64"), None);
    }
}
