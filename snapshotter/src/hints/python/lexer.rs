//! Python text as logical lines.

use crate::hints::cursor::Cursor;

/// Tokens kept of one logical line. What is behind them is skipped: only tables are that long.
const TOKENS_MAX: usize = 4096;
/// Columns of a tab stop.
const TAB: usize = 8;

/// A token, as far as imports need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, a keyword or a number.
    Name(&'a [u8]),
    /// What is between the quotes of a string of any kind.
    Text(&'a [u8]),
    /// One byte of any operator. That of `:=` is left out, so a colon is one.
    Op(u8),
}

/// A logical line: a statement, or several with `;`.
#[derive(Debug, Default)]
pub(super) struct Line<'a> {
    /// The column of the first token.
    pub(super) indent: usize,
    /// Not empty.
    pub(super) tokens: Vec<Token<'a>>,
}

/// Cuts a text into logical lines. Takes any bytes for a text.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(text),
        }
    }

    /// Reads the next line that has a token. `false` at the end.
    pub(super) fn next_line(&mut self, line: &mut Line<'a>) -> bool {
        line.tokens.clear();
        line.indent = self.indent();
        let mut depth = 0_usize;
        while let Some(byte) = self.cursor.peek(0) {
            match byte {
                b'\n' | b'\r' => {
                    self.cursor.at += 1;
                    if depth == 0 {
                        if !line.tokens.is_empty() {
                            return true;
                        }
                        line.indent = self.indent();
                    }
                }
                b' ' | b'\t' | b'\x0c' => self.cursor.at += 1,
                b'#' => self.cursor.skip_while(|byte| !is_end_of_line(byte)),
                b'\\' => self.continuation(),
                _ => {
                    let token = self.token(byte);
                    match token {
                        Token::Op(b'(' | b'[' | b'{') => depth += 1,
                        Token::Op(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if line.tokens.len() < TOKENS_MAX {
                        line.tokens.push(token);
                    }
                }
            }
        }
        !line.tokens.is_empty()
    }

    /// Skips the indentation of a line and returns its width.
    fn indent(&mut self) -> usize {
        let mut columns = 0_usize;
        while let Some(byte) = self.cursor.peek(0) {
            columns = match byte {
                b' ' => columns + 1,
                b'\t' => (columns / TAB + 1) * TAB,
                b'\x0c' => 0,
                _ => break,
            };
            self.cursor.at += 1;
        }
        columns
    }

    /// Skips a backslash with the end of the line behind it.
    fn continuation(&mut self) {
        self.cursor.at += if self.cursor.rest().starts_with(b"\\\r\n") {
            3
        } else if matches!(self.cursor.peek(1), Some(b'\n' | b'\r')) {
            2
        } else {
            1
        };
    }

    /// Reads the token that begins with `first`.
    fn token(&mut self, first: u8) -> Token<'a> {
        if matches!(first, b'"' | b'\'') {
            return Token::Text(self.string(first));
        }
        if is_of_name(first) {
            let rest = self.cursor.rest();
            self.cursor.skip_while(is_of_name);
            let name = rest
                .get(..rest.len() - self.cursor.rest().len())
                .unwrap_or_default();
            return match self.cursor.peek(0) {
                Some(quote @ (b'"' | b'\'')) if is_string_prefix(name) => {
                    Token::Text(self.string(quote))
                }
                _ => Token::Name(name),
            };
        }
        self.cursor.at += 1;
        if first == b':' && self.cursor.peek(0) == Some(b'=') {
            self.cursor.at += 1;
            return Token::Op(b'=');
        }
        Token::Op(first)
    }

    /// Reads a string that begins with `quote`. In raw strings, too, a quote behind a backslash
    /// does not end it. Quotes within the braces of an f-string come in pairs, so that it reads as
    /// several strings in a row.
    fn string(&mut self, quote: u8) -> &'a [u8] {
        let triple = [quote; 3];
        let is_triple = self.cursor.rest().starts_with(&triple);
        let end: &[u8] = if is_triple { &triple } else { &triple[..1] };
        self.cursor.at += end.len();
        let start = self.cursor.at;
        let is_special =
            |byte: u8| byte == quote || byte == b'\\' || (!is_triple && is_end_of_line(byte));
        while let Some(len) = self.cursor.rest().iter().position(|byte| is_special(*byte)) {
            self.cursor.at += len;
            let rest = self.cursor.rest();
            if rest.starts_with(b"\\\r\n") {
                self.cursor.at += 3;
            } else if rest.starts_with(b"\\") {
                self.cursor.at += 2;
            } else if rest.starts_with(end) {
                let body = self
                    .cursor
                    .text
                    .get(start..self.cursor.at)
                    .unwrap_or_default();
                self.cursor.at += end.len();
                return body;
            } else if is_triple {
                self.cursor.at += 1;
            } else {
                return self
                    .cursor
                    .text
                    .get(start..self.cursor.at)
                    .unwrap_or_default();
            }
        }
        self.cursor.at = self.cursor.text.len();
        self.cursor.text.get(start..).unwrap_or_default()
    }
}

const fn is_end_of_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn is_string_prefix(name: &[u8]) -> bool {
    name.len() <= 2
        && name
            .iter()
            .all(|byte| b"bfrtu".contains(&byte.to_ascii_lowercase()))
}
