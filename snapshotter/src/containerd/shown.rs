//! Trees that are shown inside of a container, beside its root: what a label asks for.

use super::record::RemoteLayer;

/// Where the runtime mounts what would hide it.
const HIDDEN: [&str; 4] = ["dev", "proc", "run", "sys"];

/// A tree by its name, and where it is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Of an image, a snapshot or a volume.
    pub(super) source: String,
    /// Absolute, without `.`, `..`, doubled and trailing slashes.
    pub(super) path: String,
}

/// A tree that is shown, the same for as long as its snapshot is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Where, as in [`Asked`].
    pub(super) path: String,
    pub(super) layer: RemoteLayer,
}

impl Asked {
    /// Reads `NAME:/PATH`, or `NAME:/PATH:ro`, as `nacre run --mount` does. The path begins at the
    /// first `:/`, for names may hold colons.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix(":ro").unwrap_or(text);
        let at = text.find(":/").filter(|at| *at > 0)?;
        let (source, path) = (&text[..at], &text[at + 1..]);
        let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
        let is_bad = |name: &&str| matches!(*name, "." | "..") || name.contains('\0');
        let is_hidden = names.first().is_none_or(|first| HIDDEN.contains(first));
        // A path on the host is no name.
        if source.starts_with('/') || is_hidden || names.iter().any(is_bad) {
            return None;
        }
        Some(Self {
            source: source.to_owned(),
            path: format!("/{}", names.join("/")),
        })
    }

    /// Tells whether both are at one path, or one is below the other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let below = |low: &Self, high: &Self| {
            let rest = low.path.strip_prefix(&*high.path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        below(self, other) || below(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_colons_and_paths_are_normal() {
        for (text, source, path) in [
            ("pyapp:v1:/opt", "pyapp:v1", "/opt"),
            ("pyapp:v1:/opt//a/:ro", "pyapp:v1", "/opt/a"),
            ("h:5000/a:v1:/a:b", "h:5000/a:v1", "/a:b"),
            ("v:/ro", "v", "/ro"),
            ("v:/devices", "v", "/devices"),
        ] {
            let asked = Asked::parse(text).unwrap();
            assert_eq!((&*asked.source, &*asked.path), (source, path), "{text}");
        }
        for bad in [
            "",
            "v",
            ":/a",
            "v:a",
            "v:/",
            "v://",
            "v:/a/..",
            "v:/./a",
            "v:ro",
            "v:/:ro",
            "/srv:/a",
            "v:/dev",
            "v:/proc/x",
            "v://sys",
            "v:/run/a",
        ] {
            assert_eq!(Asked::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_overlap_by_whole_names() {
        let asked = |path: &str| Asked::parse(&format!("v:{path}")).unwrap();
        for (one, other, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/b", "/a", true),
            ("/a", "/ab", false),
            ("/a/b", "/a/c", false),
        ] {
            assert_eq!(
                asked(one).overlaps(&asked(other)),
                expected,
                "{one} {other}"
            );
        }
    }
}
