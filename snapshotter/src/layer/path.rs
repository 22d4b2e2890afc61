//! Paths of a layer, normalised, and the names that make an entry a whiteout.

use std::cmp::Ordering;
use std::fmt;

use super::LayerLimits;
use super::error::Fault;

/// Starts the name of a whiteout (OCI image-spec, layer.md).
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks its directory as opaque.
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Starts the names of aufs's own files, which are no part of a layer's content.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// A path below the root of a layer: components without `.`, `..` or NUL, within the limits of
/// [`LayerLimits`]. The root is the path without components.
///
/// Ordered by components, so that a directory's entries follow it directly.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerPath(Box<[u8]>);

/// What a path's name makes of the entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// An ordinary entry.
    None,
    /// Hides the path.
    Whiteout(LayerPath),
    /// Makes the directory opaque.
    Opaque(LayerPath),
    /// Is to be ignored.
    Aufs,
}

impl LayerPath {
    /// Returns the components, from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
    }

    /// Returns the components joined by `/`, without one at either end; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Says whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the directory that the path stands in and its name there; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].into()), &self.0[slash + 1..]),
            None => (Self::default(), &self.0),
        })
    }

    /// Normalises a path as archives write it: drops empty and `.` components.
    pub(super) fn parse(raw: &[u8], limits: &LayerLimits) -> Result<Self, Fault> {
        if raw.contains(&0) {
            return Err(Fault::malformed("path has a NUL"));
        }
        let mut path = Vec::with_capacity(raw.len().min(limits.path_bytes_max));
        let mut depth = 0;
        for name in raw.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(Fault::malformed("path has a `..`")),
                _ => {}
            }
            depth += 1;
            if depth > 1 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            check(name.len(), limits.name_bytes_max, "bytes in a name")?;
            check(path.len(), limits.path_bytes_max, "bytes in a path")?;
            check(depth, limits.depth_max, "directories in a path")?;
        }
        Ok(Self(path.into()))
    }

    /// Returns the path of `name`, one valid component, in this directory.
    pub(super) fn join(&self, name: &[u8], limits: &LayerLimits) -> Result<Self, Fault> {
        Self::parse(&[&self.0, name].join(&b'/'), limits)
    }

    /// Applies the rules of OCI whiteouts to the path.
    pub(super) fn marker(&self) -> Result<Marker, Fault> {
        if !self
            .components()
            .any(|name| name.starts_with(WHITEOUT_PREFIX))
        {
            return Ok(Marker::None);
        }
        let Some((directory, name)) = self.split() else {
            return Ok(Marker::None);
        };
        if directory
            .components()
            .any(|name| name.starts_with(AUFS_PREFIX))
        {
            return Ok(Marker::Aufs);
        }
        if directory
            .components()
            .any(|name| name.starts_with(WHITEOUT_PREFIX))
        {
            return Err(Fault::malformed("entry below a whiteout"));
        }
        if name == OPAQUE_NAME {
            return Ok(Marker::Opaque(directory));
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(Marker::Aufs);
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => Ok(Marker::None),
            Some(b"" | b"." | b"..") => Err(Fault::malformed("whiteout does not name a file")),
            Some(hidden) => {
                let slash: &[u8] = if directory.is_root() { b"" } else { b"/" };
                Ok(Marker::Whiteout(Self(
                    [&*directory.0, slash, hidden].concat().into(),
                )))
            }
        }
    }
}

fn check(value: usize, max: usize, what: &'static str) -> Result<(), Fault> {
    Fault::check_limit(value as u64, max as u64, what)
}

impl Ord for LayerPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerPath({:?})", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
impl LayerPath {
    /// Makes a path as an archive writes it.
    pub(crate) fn of(path: &str) -> Self {
        Self::parse(path.as_bytes(), &LayerLimits::default()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8]) -> Result<LayerPath, Fault> {
        LayerPath::parse(raw, &LayerLimits::default())
    }

    #[test]
    fn spellings_of_a_path_are_one() {
        for raw in ["a/b", "/a/b", "./a/b", "./a//./b/", "//a/b/."] {
            assert_eq!(parse(raw.as_bytes()).unwrap().as_bytes(), b"a/b", "{raw}");
        }
        for raw in ["", ".", "/", "./", "././/"] {
            assert!(parse(raw.as_bytes()).unwrap().is_root(), "{raw}");
        }
        let path = parse(b"a/b/c").unwrap();
        assert_eq!(path.split(), Some((parse(b"a/b").unwrap(), &b"c"[..])));
        assert_eq!(
            parse(b"a").unwrap().split(),
            Some((LayerPath::default(), &b"a"[..]))
        );
        assert_eq!(LayerPath::default().split(), None);
    }

    #[test]
    fn entries_of_a_directory_follow_it_in_order() {
        let mut paths = ["a.b", "a/z", "a", "b", ""].map(|raw| parse(raw.as_bytes()).unwrap());
        paths.sort();
        assert_eq!(
            paths.map(|path| path.to_string()),
            ["", "a", "a/z", "a.b", "b"]
        );
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for raw in ["..", "../a", "a/..", "/../a", "a/../b", "./.."] {
            assert!(
                matches!(parse(raw.as_bytes()), Err(Fault::Malformed(_))),
                "{raw}"
            );
        }
        assert!(parse(b"...").is_ok());
        assert!(matches!(parse(b"a\0b"), Err(Fault::Malformed(_))));
    }

    #[test]
    fn limits_hold_exactly() {
        let name = |len: usize| vec![b'n'; len];
        assert!(parse(&name(255)).is_ok());
        assert!(matches!(
            parse(&name(256)),
            Err(Fault::Limit { max: 255, .. })
        ));
        assert!(parse(&b"d/".repeat(256)).is_ok());
        assert!(matches!(
            parse(&b"d/".repeat(257)),
            Err(Fault::Limit { max: 256, .. })
        ));
        let long = [name(255), name(255)].join(&b'/').repeat(8);
        assert_eq!(long.len(), 4_088);
        let long = vec![name(255); 16].join(&b'/');
        assert_eq!(parse(&long).unwrap().as_bytes().len(), 4_095);
        let longer = [long, b"/a".to_vec()].concat();
        assert!(matches!(
            parse(&longer),
            Err(Fault::Limit { max: 4_096, .. })
        ));
    }

    #[test]
    fn markers_follow_the_image_spec() {
        let marker = |raw: &[u8]| parse(raw).unwrap().marker();
        let path = |raw: &[u8]| parse(raw).unwrap();
        for (raw, expected) in [
            (&b""[..], Marker::None),
            (b"a/wh.b", Marker::None),
            (b"a/.wh.b", Marker::Whiteout(path(b"a/b"))),
            (b".wh.b", Marker::Whiteout(path(b"b"))),
            (b".wh....", Marker::Whiteout(path(b"..."))),
            (b".wh..b", Marker::Whiteout(path(b".b"))),
            (b"a/.wh..wh..opq", Marker::Opaque(path(b"a"))),
            (b".wh..wh..opq", Marker::Opaque(path(b""))),
            (b".wh..wh.plnk", Marker::Aufs),
            (b".wh..wh.plnk/1.2", Marker::Aufs),
            (b"a/.wh..wh.aufs", Marker::Aufs),
        ] {
            assert_eq!(
                marker(raw).unwrap(),
                expected,
                "{}",
                String::from_utf8_lossy(raw)
            );
        }
        for raw in [
            &b".wh."[..],
            b"a/.wh..",
            b"a/.wh...",
            b".wh.a/b",
            b".wh.a/.wh.b",
        ] {
            assert!(matches!(marker(raw), Err(Fault::Malformed(_))), "{raw:?}");
        }
    }
}
