//! Differences of files as git shows them: its extended unified format, which `git apply` and
//! `patch -p1` read (git's `Documentation/diff-generate-patch.txt`).
//!
//! Only what git keeps is in a patch: files, symlinks, and their permission bits. Directories,
//! devices, owners, times and extended attributes are not.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use nacre_blobstore::{Difference, Entry, Node};
use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices, group_diff_ops};

/// Largest file whose bytes are compared, as git calls it `core.bigFileThreshold`.
pub(crate) const PATCH_FILE_BYTES_MAX: u64 = 1 << 20;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;
/// What git calls the side that is not there.
const NOTHING: &str = "/dev/null";
const SYMLINK_MODE: u32 = 0o120_000;
const FILE_MODE: u32 = 0o100_000;

/// The bytes of one side of a difference.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// All of them.
    Whole(Bytes),
    /// The file is larger than [`PATCH_FILE_BYTES_MAX`].
    TooLarge,
}

/// Returns what of an entry has to be read for a patch; `None` for what needs no reading.
pub(crate) const fn content_of(entry: &Entry) -> Option<(nacre_blobstore::ContentId, u64)> {
    match entry.node {
        Node::File {
            content,
            size_bytes,
        } => Some((content, size_bytes)),
        _ => None,
    }
}

/// One side as git sees it.
#[derive(Debug, Clone)]
struct Blob {
    mode: u32,
    body: Body,
}

impl Blob {
    fn of(entry: Option<&Entry>, body: Option<Body>) -> Option<Self> {
        let entry = entry?;
        match (&entry.node, body) {
            (Node::File { .. }, Some(body)) => Some(Self {
                mode: FILE_MODE | u32::from(entry.attributes.mode),
                body,
            }),
            (Node::Symlink(target), _) => Some(Self {
                mode: SYMLINK_MODE,
                body: Body::Whole(Bytes::copy_from_slice(target)),
            }),
            _ => None,
        }
    }

    const fn is_symlink(&self) -> bool {
        self.mode == SYMLINK_MODE
    }
}

/// Writes the patch of a difference at `path`, absolute as people write it. `before` and `after`
/// are the bytes of those sides that are files; a side without bytes counts as none. Empty where
/// git would see no change.
///
/// Takes time and memory in proportion to the files: not for the reactor.
pub(crate) fn patch(
    path: &[u8],
    difference: &Difference,
    before: Option<Body>,
    after: Option<Body>,
) -> String {
    let before = Blob::of(difference.before.as_ref(), before);
    let after = Blob::of(difference.after.as_ref(), after);
    let mut text = String::new();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    match (before, after) {
        // Another kind: git takes the old one away and adds the new one.
        (Some(old), Some(new)) if old.is_symlink() != new.is_symlink() => {
            one(&mut text, path, Some(&old), None);
            one(&mut text, path, None, Some(&new));
        }
        (old, new) => one(&mut text, path, old.as_ref(), new.as_ref()),
    }
    text
}

/// Writes one `diff --git`.
fn one(text: &mut String, path: &[u8], old: Option<&Blob>, new: Option<&Blob>) {
    let name = |side: &[u8]| quote_path(&[side, path].concat());
    let (a, b) = (name(b"a/"), name(b"b/"));
    let head = match (old, new) {
        (None, None) => return,
        (None, Some(new)) => format!("new file mode {:o}\n", new.mode),
        (Some(old), None) => format!("deleted file mode {:o}\n", old.mode),
        (Some(old), Some(new)) if old.mode != new.mode => {
            format!("old mode {:o}\nnew mode {:o}\n", old.mode, new.mode)
        }
        (Some(_), Some(_)) => String::new(),
    };
    let nothing = Body::Whole(Bytes::new());
    let bodies = [old, new].map(|side| side.map_or(&nothing, |blob| &blob.body));
    let names = [
        if old.is_some() { &*a } else { NOTHING },
        if new.is_some() { &*b } else { NOTHING },
    ];
    let changes = changes(bodies, names);
    if head.is_empty() && changes.is_empty() {
        return;
    }
    put(text, format_args!("diff --git {a} {b}\n{head}{changes}"));
}

/// Tells what of the bytes differs.
fn changes([old, new]: [&Body; 2], [a, b]: [&str; 2]) -> String {
    let (Body::Whole(old), Body::Whole(new)) = (old, new) else {
        return format!("Files {a} and {b} differ, over {PATCH_FILE_BYTES_MAX} bytes\n");
    };
    if old == new {
        return String::new();
    }
    let (Some(old), Some(new)) = (as_text(old), as_text(new)) else {
        return format!("Binary files {a} and {b} differ\n");
    };
    let mut text = String::new();
    // git ends a name with a blank in it by a tab, so that no tool takes the rest for a time.
    let end = |name: &str| if name.contains(' ') { "\t" } else { "" };
    put(
        &mut text,
        format_args!("--- {a}{}\n+++ {b}{}\n", end(a), end(b)),
    );
    hunks(&mut text, old, new);
    text
}

/// Text is what can be shown as it is: UTF-8 without a NUL.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(text)
}

fn hunks(text: &mut String, old: &str, new: &str) {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    // Bounds its work as git does, whatever the files are.
    let ops = capture_diff_slices(Algorithm::Myers, &old, &new);
    for group in group_diff_ops(ops, CONTEXT_LINES) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        put(
            text,
            format_args!(
                "@@ -{} +{} @@\n",
                range(first.old_range().start, last.old_range().end),
                range(first.new_range().start, last.new_range().end)
            ),
        );
        for op in &group {
            let both = op.tag() == DiffTag::Equal;
            let (removed, added): (&[&str], &[&str]) = match op {
                DiffOp::Equal { .. } => (&old[op.old_range()], &[]),
                _ => (&old[op.old_range()], &new[op.new_range()]),
            };
            let mark = if both { ' ' } else { '-' };
            removed.iter().for_each(|line| put_line(text, mark, line));
            added.iter().for_each(|line| put_line(text, '+', line));
        }
    }
}

/// Writes the lines of one side of a hunk, which `start` counts from 0.
fn range(start: usize, end: usize) -> String {
    match end - start {
        // Of no lines the one before is named.
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        count => format!("{},{count}", start + 1),
    }
}

fn put_line(text: &mut String, mark: char, line: &str) {
    text.push(mark);
    text.push_str(line);
    if !line.ends_with('\n') {
        text.push_str("\n\\ No newline at end of file\n");
    }
}

fn put(text: &mut String, what: fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes any text");
}

/// Writes a path so that it is one line of printable text: as it is, or, where it has bytes that
/// are no UTF-8, control or invisible characters, quotes or backslashes, in C's notation between
/// quotes, as git has it (`core.quotePath` off).
pub fn quote_path(path: &[u8]) -> String {
    let plain = |c: char| c == '\'' || c.escape_debug().count() == 1;
    if let Some(text) = std::str::from_utf8(path)
        .ok()
        .filter(|t| t.chars().all(plain))
    {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            let escaped: Cow<'_, str> = match c {
                '"' => "\\\"".into(),
                '\\' => "\\\\".into(),
                '\t' => "\\t".into(),
                '\n' => "\\n".into(),
                '\r' => "\\r".into(),
                c if plain(c) => c.to_string().into(),
                c => octal(c.encode_utf8(&mut [0; 4]).as_bytes()).into(),
            };
            quoted.push_str(&escaped);
        }
        quoted.push_str(&octal(part.invalid()));
    }
    quoted.push('"');
    quoted
}

fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

#[cfg(test)]
mod tests;
