//! JavaScript text as tokens.

use crate::hints::cursor::Cursor;

/// Nested template literals, after which the text is given up.
const TEMPLATES_MAX: usize = 64;
/// The only white space outside of ASCII that real files have.
const NO_BREAK_SPACE: &[u8] = "\u{a0}".as_bytes();

/// A token, as far as loading other modules needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, a keyword or a number.
    Word(&'a [u8]),
    /// What is between the quotes of a string.
    Text(&'a [u8]),
    /// A regular expression.
    Pattern,
    /// A piece of a template literal: whether it begins with the `}` of a substitution, and whether
    /// it ends with the `${` of one.
    Template { closes: bool, opens: bool },
    /// `=>`
    Arrow,
    /// `++` or `--`
    Step,
    /// `...`
    Spread,
    /// One byte of any other operator.
    Op(u8),
}

/// Cuts a text into tokens. Takes any bytes for a text.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    cursor: Cursor<'a>,
    /// For each open substitution of a template literal how many braces are open in it.
    templates: Vec<usize>,
    /// Up to here no regular expression begins.
    no_pattern_before: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let mut lexer = Self {
            cursor: Cursor::new(text),
            templates: Vec::new(),
            no_pattern_before: 0,
        };
        if lexer.cursor.text.starts_with(b"#!") {
            lexer.cursor.skip_while(|byte| !is_end_of_line(byte));
        }
        lexer
    }

    /// Reads the next token, and whether an end of line is before it. A slash may begin a regular
    /// expression only where `operand` says that a value is expected. `None` at the end.
    pub(super) fn next(&mut self, operand: bool) -> Option<(Token<'a>, bool)> {
        let new_line = self.skip_blank();
        let first = self.cursor.peek(0)?;
        let token = match first {
            b'"' | b'\'' => Token::Text(self.string(first)),
            b'`' => self.template(false)?,
            b'}' if self.templates.last() == Some(&0) => {
                self.templates.pop();
                self.template(true)?
            }
            b'/' if operand && self.pattern() => Token::Pattern,
            _ if is_of_word(first) => {
                let start = self.cursor.at;
                self.cursor.skip_while(is_of_word);
                Token::Word(
                    self.cursor
                        .text
                        .get(start..self.cursor.at)
                        .unwrap_or_default(),
                )
            }
            _ => self.operator(first),
        };
        Some((token, new_line))
    }

    /// Skips white space and comments; tells whether an end of line was among them.
    fn skip_blank(&mut self) -> bool {
        let mut new_line = false;
        while let Some(byte) = self.cursor.peek(0) {
            match (byte, self.cursor.peek(1)) {
                (b'/', Some(b'/')) => self.cursor.skip_while(|byte| !is_end_of_line(byte)),
                (b'/', Some(b'*')) => {
                    self.cursor.at += 2;
                    while self.cursor.at < self.cursor.text.len()
                        && !self.cursor.rest().starts_with(b"*/")
                    {
                        new_line |= self.cursor.peek(0).is_some_and(is_end_of_line);
                        self.cursor.at += 1;
                    }
                    self.cursor.at = self.cursor.text.len().min(self.cursor.at + 2);
                }
                _ if is_end_of_line(byte) => {
                    new_line = true;
                    self.cursor.at += 1;
                }
                _ if byte <= b' ' => self.cursor.at += 1,
                _ if self.cursor.rest().starts_with(NO_BREAK_SPACE) => {
                    self.cursor.at += NO_BREAK_SPACE.len();
                }
                _ => break,
            }
        }
        new_line
    }

    fn operator(&mut self, first: u8) -> Token<'a> {
        self.cursor.at += 1;
        if let Some(braces) = self.templates.last_mut() {
            match first {
                b'{' => *braces += 1,
                b'}' => *braces = braces.saturating_sub(1),
                _ => {}
            }
        }
        if first == b'.' && self.cursor.rest().starts_with(b"..") {
            self.cursor.at += 2;
            return Token::Spread;
        }
        let token = match (first, self.cursor.peek(0)) {
            (b'=', Some(b'>')) => Token::Arrow,
            (b'+', Some(b'+')) | (b'-', Some(b'-')) => Token::Step,
            _ => return Token::Op(first),
        };
        self.cursor.at += 1;
        token
    }

    fn string(&mut self, quote: u8) -> &'a [u8] {
        self.cursor.at += 1;
        let start = self.cursor.at;
        while let Some(byte) = self.cursor.peek(0) {
            if byte == b'\\' {
                // An escaped end of line may have two bytes.
                self.cursor.at += if self.cursor.rest().starts_with(b"\\\r\n") {
                    3
                } else {
                    2
                };
            } else if byte == quote {
                self.cursor.at += 1;
                return self
                    .cursor
                    .text
                    .get(start..self.cursor.at - 1)
                    .unwrap_or_default();
            } else if is_end_of_line(byte) {
                break;
            } else {
                self.cursor.at += 1;
            }
        }
        self.cursor
            .text
            .get(start..self.cursor.at)
            .unwrap_or_default()
    }

    /// Reads on behind a backtick or the end of a substitution, up to the next backtick or
    /// substitution. `None` where literals are nested too deeply.
    fn template(&mut self, closes: bool) -> Option<Token<'a>> {
        self.cursor.at += 1;
        let mut opens = false;
        while let Some(byte) = self.cursor.peek(0) {
            self.cursor.at += 1;
            match byte {
                b'\\' => self.cursor.at += 1,
                b'`' => break,
                b'$' if self.cursor.peek(0) == Some(b'{') => {
                    self.cursor.at += 1;
                    opens = true;
                    break;
                }
                _ => {}
            }
        }
        if opens {
            self.templates.push(0);
        }
        (self.templates.len() <= TEMPLATES_MAX).then_some(Token::Template { closes, opens })
    }

    /// Skips a regular expression with its flags, if one ends on this line.
    fn pattern(&mut self) -> bool {
        if self.cursor.at < self.no_pattern_before {
            return false;
        }
        let mut in_class = false;
        let mut at = self.cursor.at + 1;
        while let Some(&byte) = self.cursor.text.get(at) {
            match byte {
                b'\n' | b'\r' => break,
                b'\\' => at += 1,
                b'[' => in_class = true,
                b']' => in_class = false,
                b'/' if !in_class => {
                    self.cursor.at = at + 1;
                    self.cursor.skip_while(is_of_word);
                    return true;
                }
                _ => {}
            }
            at += 1;
        }
        // Looking there only once keeps the work linear.
        self.no_pattern_before = at;
        false
    }
}

const fn is_end_of_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

const fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_searched_once_for_the_end_of_a_regular_expression() {
        // Each slash may begin one that ends nowhere.
        let text = "/[".repeat(1 << 10) + "\n/a/";
        let end = text.find('\n').unwrap();
        let mut lexer = Lexer::new(text.as_bytes());
        for _ in 0..1 << 11 {
            lexer.next(true);
            assert_eq!(lexer.no_pattern_before, end);
        }
        assert_eq!(lexer.next(true), Some((Token::Pattern, true)));
    }
}
