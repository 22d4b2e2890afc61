use nacre_blobstore::{Attributes, ContentId, Device, Digest, TreePath};
use proptest::prelude::*;

use super::*;

fn entry(node: Node, mode: u16) -> Entry {
    Entry {
        name: b"f".as_slice().into(),
        attributes: Attributes {
            mode,
            ..Attributes::default()
        },
        node,
        hard_link: None,
    }
}

fn file(bytes: &[u8], mode: u16) -> (Entry, Option<Body>) {
    let node = Node::File {
        content: ContentId::new(Digest::of(bytes)),
        size_bytes: bytes.len() as u64,
    };
    let body = Body::Whole(Bytes::copy_from_slice(bytes));
    (entry(node, mode), Some(body))
}

fn symlink(target: &str) -> (Entry, Option<Body>) {
    (entry(Node::Symlink(target.as_bytes().into()), 0o777), None)
}

type Side = Option<(Entry, Option<Body>)>;

fn shown(path: &[u8], before: Side, after: Side) -> String {
    let (before, old) = before.map_or((None, None), |(entry, body)| (Some(entry), body));
    let (after, new) = after.map_or((None, None), |(entry, body)| (Some(entry), body));
    let difference = Difference {
        path: TreePath::root(),
        before,
        after,
    };
    patch(path, &difference, old, new)
}

#[test]
fn texts_become_hunks_with_three_lines_around() {
    let numbers = |from: u32, to: u32| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
    let old = numbers(1, 30);
    let new = old.replace("\n5\n", "\nfive\n").replace("\n25\n", "\n") + "31";
    let text = shown(
        b"/d/f",
        Some(file(old.as_bytes(), 0o644)),
        Some(file(new.as_bytes(), 0o644)),
    );
    let expected = "diff --git a/d/f b/d/f\n--- a/d/f\n+++ b/d/f\n\
        @@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n\
        @@ -22,9 +22,9 @@\n 22\n 23\n 24\n-25\n 26\n 27\n 28\n 29\n 30\n\
        +31\n\\ No newline at end of file\n";
    assert_eq!(text, expected);
}

#[test]
fn what_comes_and_goes_has_its_mode_and_no_other_side() {
    assert_eq!(
        shown(b"/f", None, Some(file(b"a\n", 0o755))),
        "diff --git a/f b/f\nnew file mode 100755\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+a\n"
    );
    assert_eq!(
        shown(b"/f", Some(file(b"a\nb\n", 0o644)), None),
        "diff --git a/f b/f\ndeleted file mode 100644\n--- a/f\n+++ /dev/null\n\
         @@ -1,2 +0,0 @@\n-a\n-b\n"
    );
    assert_eq!(
        shown(b"/f", None, Some(file(b"", 0o644))),
        "diff --git a/f b/f\nnew file mode 100644\n"
    );
}

#[test]
fn modes_links_and_kinds_are_shown_as_git_shows_them() {
    let same = file(b"a", 0o644);
    assert_eq!(
        shown(b"/f", Some(same.clone()), Some(file(b"a", 0o4755))),
        "diff --git a/f b/f\nold mode 100644\nnew mode 104755\n"
    );
    // Another time or owner.
    assert_eq!(shown(b"/f", Some(same.clone()), Some(same.clone())), "");
    assert_eq!(
        shown(b"/l", Some(symlink("x")), Some(symlink("y"))),
        "diff --git a/l b/l\n--- a/l\n+++ b/l\n@@ -1 +1 @@\n-x\n\\ No newline at end of file\n\
         +y\n\\ No newline at end of file\n"
    );
    let text = shown(b"/f", Some(same), Some(symlink("x")));
    assert!(text.starts_with("diff --git a/f b/f\ndeleted file mode 100644\n"));
    assert!(text.contains("\ndiff --git a/f b/f\nnew file mode 120000\n"));
    let device = entry(Node::CharDevice(Device { major: 1, minor: 3 }), 0o666);
    assert_eq!(shown(b"/f", None, Some((device, None))), "");
}

#[test]
fn what_is_no_text_is_only_said_to_differ() {
    let text = Some(file(b"text", 0o644));
    for binary in [&b"a\0b"[..], b"\xff\xfe"] {
        assert_eq!(
            shown(b"/f", text.clone(), Some(file(binary, 0o644))),
            "diff --git a/f b/f\nBinary files a/f and b/f differ\n"
        );
    }
    let mut large = file(b"x", 0o644);
    large.1 = Some(Body::TooLarge);
    assert_eq!(
        shown(b"/f", None, Some(large)),
        "diff --git a/f b/f\nnew file mode 100644\n\
         Files /dev/null and b/f differ, over 1048576 bytes\n"
    );
}

#[test]
fn paths_are_one_printable_line_each() {
    for (path, quoted) in [
        (&b"/a b/c'd"[..], "/a b/c'd"),
        ("/caf\u{e9}".as_bytes(), "/caf\u{e9}"),
        (b"/a\nb", r#""/a\nb""#),
        (b"/a\xffb", r#""/a\377b""#),
        (br#"/a"b\c"#, r#""/a\"b\\c""#),
        (b"/\x1b[31m", r#""/\033[31m""#),
        ("/\u{202e}x".as_bytes(), r#""/\342\200\256x""#),
    ] {
        assert_eq!(quote_path(path), quoted);
    }
    let text = shown(b"/a\nb c", None, Some(file(b"x\n", 0o644)));
    assert!(
        text.starts_with("diff --git \"a/a\\nb c\" \"b/a\\nb c\"\n"),
        "{text}"
    );
    assert!(text.contains("+++ \"b/a\\nb c\"\t\n"), "{text}");
}

/// Applies the hunks of a patch of one file; every line is checked.
fn apply(old: &str, text: &str) -> String {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let (mut at, mut new) = (0, String::new());
    let text = text.replace("\n\\ No newline at end of file\n", "\u{1}");
    let lines = text.split_inclusive(['\n', '\u{1}']);
    let lines = lines.skip_while(|line| !line.starts_with("@@"));
    for line in lines {
        let content = line[1..].trim_end_matches('\u{1}');
        match &line[..1] {
            "@" => {
                let start = line.split(['-', ',', ' ']).nth(2).unwrap();
                let empty = line.contains(",0 +");
                let start: usize = start.parse().unwrap();
                let start = if empty { start } else { start - 1 };
                new.extend(old[at..start].iter().copied());
                at = start;
            }
            "+" => new.push_str(content),
            mark => {
                assert_eq!(old[at], content);
                at += 1;
                if mark == " " {
                    new.push_str(content);
                }
            }
        }
    }
    new.extend(old[at..].iter().copied());
    new
}

proptest! {
    #[test]
    fn a_patch_leads_from_one_text_to_the_other(
        old in "([ab]?\n){0,20}[ab]?", new in "([ab]?\n){0,20}[ab]?",
    ) {
        let side = |text: &str| Some(file(text.as_bytes(), 0o644));
        let text = shown(b"/f", side(&old), side(&new));
        prop_assert_eq!(text.is_empty(), old == new);
        prop_assert_eq!(apply(&old, &text), new);
    }
}

/// Lines that are all different, or all but few, make plain algorithms quadratic.
#[test]
fn hostile_texts_of_the_largest_size_are_compared() {
    let lines = |seed: u32| {
        let line = |n: u32| format!("{:x}\n", n.wrapping_mul(seed) % 5);
        (0..400_000).map(line).collect::<String>()
    };
    let (old, new) = (lines(2_654_435_761), lines(40_503));
    let side = |text: &str| Some(file(text.as_bytes(), 0o644));
    let text = shown(b"/f", side(&old), side(&new));
    assert_eq!(apply(&old, &text), new);
}
