//! Patterns of paths to leave out.

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// Patterns as in a `.gitignore`: `*` and `?` stay within a name, `**` does not; a pattern without
/// a slash is matched with each name, any other with the path from the root.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globs(Vec<Box<[u8]>>);

impl Globs {
    /// Reads patterns; `Err` says what is wrong with one.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, String> {
        let read = |pattern: &String| {
            let plain = pattern.trim_end_matches('/');
            if plain.is_empty() || plain.len() > PATTERN_BYTES_MAX {
                return Err(format!(
                    "pattern {pattern:?} is empty or longer than {PATTERN_BYTES_MAX} bytes"
                ));
            }
            Ok(plain.as_bytes().into())
        };
        patterns
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Tells whether one of them matches a path, given from the root without a leading slash.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        self.0.iter().any(|pattern| {
            if pattern.contains(&b'/') {
                matches(pattern.strip_prefix(b"/").unwrap_or(pattern), path)
            } else {
                matches(pattern, name)
            }
        })
    }
}

/// Matches in time `pattern * text`, whatever the pattern.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Whether the pattern so far matches each prefix of the text.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((&first, after)) = rest.split_first() {
        let deep = first == b'*' && after.first() == Some(&b'*');
        rest = if deep { &after[1..] } else { after };
        let before = reached.clone();
        for end in 0..reached.len() {
            let last = end.checked_sub(1);
            reached[end] = match (first, last) {
                (b'*', None) => before[end],
                (b'*', Some(at)) => before[end] || (reached[at] && (deep || text[at] != b'/')),
                (_, None) => false,
                (b'?', Some(at)) => before[at] && text[at] != b'/',
                (byte, Some(at)) => before[at] && text[at] == byte,
            };
        }
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_or_paths() {
        let cases = [
            ("*.log", "a/b.log", true),
            ("*.log", "a.log/b", false),
            ("/tmp/*", "tmp/x", true),
            ("/tmp/*", "tmp/x/y", false),
            ("/tmp/**", "tmp/x/y", true),
            ("var/**/cache", "var/a/b/cache", true),
            ("var/**/cache", "var/a/b/cached", false),
            ("?", "x", true),
            ("a?c", "a/c", false),
            ("a/", "b/a", true),
            ("**", "any/thing", true),
        ];
        for (pattern, path, expected) in cases {
            let globs = Globs::new(&[pattern.to_owned()]).unwrap();
            assert_eq!(globs.matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(!Globs::default().matches(b"a"));
        for bad in [String::new(), "/".to_owned(), "x".repeat(2000)] {
            assert!(Globs::new(&[bad]).is_err());
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_soon() {
        let globs = Globs::new(&["*a".repeat(500) + "/b"]).unwrap();
        assert!(!globs.matches("a".repeat(4000).as_bytes()));
    }
}
