//! A trace as a page: a time line of what was waited for, without scripts or anything from
//! elsewhere.

use std::fmt::Write as _;

use super::show::Shown;

/// Width of the time line, in its own units.
const WIDTH: f64 = 1000.0;
/// Height of one read.
const ROW_HEIGHT: f64 = 6.0;
/// Reads that are drawn; the text of all is in `nacre trace show`.
const ROWS_MAX: usize = 5000;

const STYLE: &str = "body{font:14px sans-serif;margin:2em}svg{width:100%;background:#fafafa}\
.node{fill:#4a9a5a}.region{fill:#3b7dd8}.origin{fill:#d8653b}\
.key{display:inline-block;width:1em;height:1em;margin:0 .4em 0 1em}";

/// Draws a page. Each read is a bar from when it was asked for to when it was answered, in the
/// colour of the tier that it came from, with its name as a tool tip.
pub(super) fn page(name: &str, starts: u32, reads: &[Shown]) -> String {
    let reads = &reads[..reads.len().min(ROWS_MAX)];
    let end = |read: &Shown| read.at_ms + read.waited_ms;
    let total_ms = reads.iter().map(end).fold(1.0, f64::max);
    let waited_ms: f64 = reads.iter().map(|read| read.waited_ms).sum();
    let bytes: u64 = reads.iter().map(|read| read.len_bytes).sum();
    let name = escape(name);
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Trace of {name}</title><style>{STYLE}</style></head><body>\
         <h1>What starts of {name} read</h1>\
         <p>{} reads of {bytes} bytes in {starts} recorded starts; {total_ms:.0} ms, of which \
         {waited_ms:.0} ms (of all readers together) were waits.</p><p>",
        reads.len()
    );
    for tier in ["node", "region", "origin"] {
        let of_tier: Vec<_> = reads.iter().filter(|read| read.tier == tier).collect();
        let waited_ms: f64 = of_tier.iter().map(|read| read.waited_ms).sum();
        push(
            &mut page,
            format_args!(
                "<svg class=\"key\" viewBox=\"0 0 1 1\"><rect class=\"{tier}\" width=\"1\" \
                 height=\"1\"/></svg>{tier}: {} reads, {waited_ms:.0} ms",
                of_tier.len()
            ),
        );
    }
    let rows = u32::try_from(reads.len()).unwrap_or(u32::MAX);
    let height = f64::from(rows) * ROW_HEIGHT;
    push(
        &mut page,
        format_args!("</p><svg viewBox=\"0 0 {WIDTH} {height}\">"),
    );
    for (row, read) in (0_u32..).zip(reads) {
        let x = read.at_ms / total_ms * WIDTH;
        let y = f64::from(row) * ROW_HEIGHT;
        // What took no time is drawn as a dot.
        let width = (read.waited_ms / total_ms * WIDTH).max(1.0);
        let (tier, what) = (&read.tier, escape(&read.what));
        let (at_ms, waited_ms, len_bytes) = (read.at_ms, read.waited_ms, read.len_bytes);
        push(
            &mut page,
            format_args!(
                "<rect class=\"{tier}\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"5\">\
                 <title>{what}: {len_bytes} bytes, waited {waited_ms:.1} ms for {tier} at \
                 {at_ms:.1} ms</title></rect>"
            ),
        );
    }
    page.push_str("</svg></body></html>\n");
    page
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes all text");
}

/// Makes text harmless in HTML: names come out of images.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            control if control.is_control() => out.push('?'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_and_bars_are_in_the_picture() {
        let read = |what: &str, at_ms, waited_ms| Shown {
            what: what.to_owned(),
            kind: "file",
            offset_bytes: 0,
            len_bytes: 10,
            size_bytes: 10,
            at_ms,
            waited_ms,
            tier: "origin".to_owned(),
            starts: 1,
            unread: 0,
        };
        let reads = [
            read("/<script>alert('x')</script>&\"\n", 0.0, 20.0),
            read("/b", 20.0, 20.0),
        ];
        let page = page("a<b", 1, &reads);
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("a<b"), "{page}");
        assert!(
            page.contains("x=\"500.00\" y=\"6\" width=\"500.00\""),
            "{page}"
        );
        assert!(!page.contains("http"), "nothing comes from elsewhere");
    }
}
