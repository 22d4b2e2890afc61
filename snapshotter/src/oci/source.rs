//! What a user names as the source of an image, and the local name that follows from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_client::Reference;

use super::digest::OciDigest;

/// Longest source, in bytes: a path, a registry's longest name and a digest fit.
const SOURCE_BYTES_MAX: usize = 8 << 10;

/// Longest tag of a layout or archive, in bytes.
const TAG_BYTES_MAX: usize = 512;

/// Where an image comes from, in skopeo's notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `docker://HOST[:PORT]/REPO[:TAG][@DIGEST]`: a registry.
    Registry(ImageReference),
    /// `oci:DIR[:TAG]`: a directory in the OCI image layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI image layout.
    OciArchive {
        /// The tar.
        file: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:TAG]`: what `docker save` writes.
    DockerArchive {
        /// The tar.
        file: PathBuf,
        /// Which of its images: `NAME:TAG`, or `TAG` alone where that is clear.
        tag: Option<String>,
    },
    /// `dir:DIR`: a plain root file system.
    Directory(PathBuf),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// The registry: host and port. `docker.io` when the user named none.
    pub host: String,
    /// The repository, with docker's `library/` where it applies.
    pub repository: String,
    /// The tag. Present unless there is a digest.
    pub tag: Option<String>,
    /// The digest of the manifest or index, which then counts and not the tag.
    pub digest: Option<OciDigest>,
}

/// A text that names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No kind of source that is known.
    #[error("{0:?} has no known prefix (docker://, oci:, oci-archive:, docker-archive: or dir:)")]
    UnknownKind(String),
    /// Nothing follows the prefix.
    #[error("{0} needs a path")]
    NoPath(&'static str),
    /// The tag of a layout or archive has characters that no tag has.
    #[error("{0:?} is not a tag")]
    Tag(String),
    /// Not a reference to an image in a registry.
    #[error("{reference:?} is not an image reference: {message}")]
    Reference {
        /// The text after `docker://`.
        reference: String,
        /// What is wrong with it.
        message: String,
    },
    /// Longer than any source.
    #[error("the source is longer than {SOURCE_BYTES_MAX} bytes")]
    TooLong,
}

impl Source {
    /// Returns the local name that the image gets when the user chooses none: the last part of
    /// the repository, or the name of the file, and always a tag.
    ///
    /// | source | name |
    /// |---|---|
    /// | `docker://127.0.0.1:5000/team/pyapp:v1` | `pyapp:v1` |
    /// | `docker://alpine` | `alpine:latest` |
    /// | `docker://ghcr.io/x/y@sha256:12..` | `y@sha256:12..` |
    /// | `oci:images/web:1.2` | `web:1.2` |
    /// | `oci:images:quay.io/x/web:1.2` | `web:1.2` |
    /// | `docker-archive:/tmp/pyapp.tar` | `pyapp:latest` |
    /// | `dir:/srv/rootfs` | `rootfs:latest` |
    pub fn default_name(&self) -> String {
        match self {
            Self::Registry(reference) => {
                let name = last_component(&reference.repository);
                match (&reference.tag, &reference.digest) {
                    (Some(tag), _) => format!("{name}:{tag}"),
                    (None, Some(digest)) => format!("{name}@{digest}"),
                    (None, None) => format!("{name}:latest"),
                }
            }
            Self::Layout { directory, tag } => local_name(file_name(directory), tag.as_deref()),
            Self::OciArchive { file, tag } | Self::DockerArchive { file, tag } => {
                let name = file_name(file);
                local_name(name.strip_suffix(".tar").unwrap_or(name), tag.as_deref())
            }
            Self::Directory(path) => local_name(file_name(path), None),
        }
    }
}

fn last_component(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// Names an image of a file. A tag that is a reference of its own names the image alone.
fn local_name(file: &str, tag: Option<&str>) -> String {
    let tag = tag.map(last_component);
    if let Some(whole) = tag.filter(|tag| tag.contains(':') && !tag.starts_with(':')) {
        return whole.to_owned();
    }
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let file: String = file.chars().map(safe).collect();
    let file = file.trim_matches(['.', '-']);
    let file = if file.is_empty() { "image" } else { file };
    format!(
        "{file}:{}",
        tag.filter(|tag| !tag.is_empty()).unwrap_or("latest")
    )
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if text.len() > SOURCE_BYTES_MAX {
            return Err(SourceError::TooLong);
        }
        if let Some(reference) = text.strip_prefix("docker://") {
            return reference.parse().map(Self::Registry);
        }
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "oci" => {
                let (directory, tag) = path_and_tag("oci:", rest)?;
                Ok(Self::Layout { directory, tag })
            }
            "oci-archive" => {
                let (file, tag) = path_and_tag("oci-archive:", rest)?;
                Ok(Self::OciArchive { file, tag })
            }
            "docker-archive" => {
                let (file, tag) = path_and_tag("docker-archive:", rest)?;
                Ok(Self::DockerArchive { file, tag })
            }
            "dir" if rest.is_empty() => Err(SourceError::NoPath("dir:")),
            "dir" => Ok(Self::Directory(rest.into())),
            _ => Err(SourceError::UnknownKind(text.chars().take(80).collect())),
        }
    }
}

/// Splits `PATH[:TAG]` at the first colon, as skopeo does; a path with a colon cannot be named.
fn path_and_tag(kind: &'static str, rest: &str) -> Result<(PathBuf, Option<String>), SourceError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(SourceError::NoPath(kind));
    }
    let well_formed = |tag: &str| {
        (1..=TAG_BYTES_MAX).contains(&tag.len())
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-/:@+".contains(&b))
    };
    match tag {
        Some(tag) if !well_formed(tag) => Err(SourceError::Tag(tag.chars().take(80).collect())),
        tag => Ok((path.into(), tag.map(str::to_owned))),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(reference) => return write!(f, "docker://{reference}"),
            Self::Layout { directory, tag } => ("oci", directory, tag),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag),
            Self::DockerArchive { file, tag } => ("docker-archive", file, tag),
            Self::Directory(path) => ("dir", path, &None),
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl FromStr for ImageReference {
    type Err = SourceError;

    /// Parses a reference with docker's habits: `alpine` is `docker.io/library/alpine:latest`.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let invalid = |message: &dyn fmt::Display| SourceError::Reference {
            reference: text.chars().take(160).collect(),
            message: message.to_string(),
        };
        // The client's grammar knows no IPv6 hosts: a name stands in for one while it parses.
        let (ipv6_host, parsed) = match split_ipv6_host(text) {
            Some((host, rest)) => (Some(host), Reference::try_from(format!("localhost/{rest}"))),
            None => (None, Reference::try_from(text)),
        };
        let parsed = parsed.map_err(|error| invalid(&error))?;
        // The client's grammar allows letters of any script in a tag, and takes `Upper` in
        // `Upper/app` first for a host and then for a part of the repository.
        if !text.is_ascii() {
            return Err(invalid(&"not in ASCII"));
        }
        if parsed.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid(&"a repository is lower-case"));
        }
        let digest = parsed
            .digest()
            .map(str::parse)
            .transpose()
            .map_err(|e| invalid(&e))?;
        Ok(Self {
            host: ipv6_host.unwrap_or_else(|| parsed.registry()).to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest,
        })
    }
}

/// Splits `[::1]:5000/repo` before the last slash of its host.
fn split_ipv6_host(text: &str) -> Option<(&str, &str)> {
    let (address, after) = text.strip_prefix('[')?.split_once(']')?;
    let _: std::net::Ipv6Addr = address.parse().ok()?;
    let (port, rest) = after.split_once('/')?;
    let port_ok = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
    let host_bytes = text.len() - rest.len() - 1;
    port_ok.then(|| (&text[..host_bytes], rest))
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest
            .iter()
            .try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn reference(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn references_follow_dockers_habits() {
        for (text, host, repository, tag) in [
            ("alpine", "docker.io", "library/alpine", "latest"),
            (
                "index.docker.io/alpine:3",
                "docker.io",
                "library/alpine",
                "3",
            ),
            ("user/app:v1", "docker.io", "user/app", "v1"),
            ("localhost/app", "localhost", "app", "latest"),
            ("127.0.0.1:5000/pyapp:v1", "127.0.0.1:5000", "pyapp", "v1"),
            ("[::1]:5000/a/b:v1", "[::1]:5000", "a/b", "v1"),
            ("[::1]/a", "[::1]", "a", "latest"),
            ("ghcr.io/a/b/c", "ghcr.io", "a/b/c", "latest"),
        ] {
            let parsed = reference(text);
            assert_eq!(
                (parsed.host.as_str(), parsed.repository.as_str()),
                (host, repository)
            );
            assert_eq!(parsed.tag.as_deref(), Some(tag), "{text}");
            assert_eq!(reference(&parsed.to_string()), parsed);
        }
    }

    #[test]
    fn a_digest_pins_and_needs_no_tag() {
        let pinned = reference(&format!("ghcr.io/a/b@sha256:{HEX}"));
        assert_eq!(
            (pinned.tag.as_ref(), pinned.digest.as_ref().unwrap().hex()),
            (None, HEX)
        );
        assert_eq!(
            reference(&format!("a:v1@sha256:{HEX}")).tag.as_deref(),
            Some("v1")
        );
    }

    #[test]
    fn broken_sources_are_refused() {
        for bad in [
            "",
            "alpine",
            "http://x/y",
            "docker://",
            "docker://Upper/Case",
            "docker://Upper/case",
            "docker://a:t\u{e9}",
            "docker://a b",
            "docker://a:",
            "docker://[::1/a",
            "docker://[::1]:99999/a",
            "docker://[nonsense]/a",
            "docker://a/../b",
            "docker:alpine",
            "oci:",
            "oci::tag",
            "oci:dir:",
            "oci:dir:t ag",
            "oci-archive:",
            "dir:",
        ] {
            assert!(bad.parse::<Source>().is_err(), "{bad:?}");
        }
        let sha384 = format!("docker://a@sha384:{HEX}{}", &HEX[..32]);
        assert!(matches!(
            sha384.parse::<Source>(),
            Err(SourceError::Reference { .. })
        ));
        let long = format!("dir:{}", "x".repeat(SOURCE_BYTES_MAX));
        assert_eq!(long.parse::<Source>(), Err(SourceError::TooLong));
    }

    #[test]
    fn names_are_those_that_users_type_next() {
        for (source, name) in [
            (
                "docker://127.0.0.1:5000/team/pyapp:v1".to_owned(),
                "pyapp:v1".to_owned(),
            ),
            ("docker://alpine".to_owned(), "alpine:latest".to_owned()),
            (format!("docker://a/b:v1@sha256:{HEX}"), "b:v1".to_owned()),
            (
                format!("docker://ghcr.io/a/b@sha256:{HEX}"),
                format!("b@sha256:{HEX}"),
            ),
            ("oci:images/web:1.2".to_owned(), "web:1.2".to_owned()),
            (
                "oci:images:quay.io/x/web:1.2".to_owned(),
                "web:1.2".to_owned(),
            ),
            (
                "oci:images:quay.io/x/web".to_owned(),
                "images:web".to_owned(),
            ),
            (
                "oci-archive:/tmp/a b.tar".to_owned(),
                "a-b:latest".to_owned(),
            ),
            (
                "docker-archive:/tmp/pyapp.tar:pyapp:v1".to_owned(),
                "pyapp:v1".to_owned(),
            ),
            ("dir:/srv/rootfs/".to_owned(), "rootfs:latest".to_owned()),
            ("dir:/".to_owned(), "image:latest".to_owned()),
        ] {
            let parsed: Source = source.parse().unwrap();
            assert_eq!(parsed.default_name(), name, "{source}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(
            text in "(docker://|oci:|oci-archive:|docker-archive:|dir:|)[\\[\\]a-z0-9:/@.%\\PC-]{0,80}",
        ) {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert!(!source.default_name().is_empty());
                prop_assert_eq!(source.to_string().parse(), Ok(source));
            }
        }
    }
}
