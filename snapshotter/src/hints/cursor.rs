//! A place in a text of any bytes.

/// Reads a text from its beginning to its end. What is beyond the end reads as nothing.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    /// Begins behind the byte order mark, if there is one.
    pub(super) fn new(text: &'a [u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self { text, at: 0 }
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn skip_while(&mut self, wanted: fn(u8) -> bool) {
        let rest = self.rest();
        let len = rest.iter().position(|byte| !wanted(*byte));
        self.at += len.unwrap_or(rest.len());
    }
}
