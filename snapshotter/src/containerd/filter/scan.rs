//! Reading a filter's text.

/// How a selector compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Present,
    Equal,
    NotEqual,
    Matches,
}

/// Reads a filter from left to right. Spaces may stand between its parts.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Reads `field.field`; the parts without their quotes.
    pub(super) fn path(&mut self) -> Result<Vec<String>, &'static str> {
        let mut path = vec![self.field()?];
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, &'static str> {
        self.skip_spaces();
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let is_field = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let field = self.taken(is_field);
        if field.is_empty() {
            return Err("expected a field");
        }
        Ok(field)
    }

    /// Reads an operator and a value, if they are there.
    pub(super) fn comparison(&mut self) -> Result<(Operator, String), &'static str> {
        self.skip_spaces();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok((Operator::Present, String::new()));
        }
        let text = self.taken(|c| matches!(c, '=' | '!' | '~'));
        let operator = match text.as_str() {
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "~=" => Operator::Matches,
            _ => return Err("expected ==, != or ~="),
        };
        self.skip_spaces();
        let value = match self.rest.chars().next() {
            None => return Err("expected a value"),
            Some('"') => self.quoted('"')?,
            Some(quote @ ('/' | '|')) if operator == Operator::Matches => self.quoted(quote)?,
            Some('/' | '|') => return Err("such quotes are for regular expressions"),
            Some(_) => {
                let value = self.taken(|c| c != ',' && !c.is_whitespace() && !c.is_control());
                if value.is_empty() {
                    return Err("expected a value");
                }
                value
            }
        };
        Ok((operator, value))
    }

    /// Goes on to the next selector; `false` at the end.
    pub(super) fn next_selector(&mut self) -> Result<bool, &'static str> {
        self.skip_spaces();
        if self.rest.is_empty() {
            return Ok(false);
        }
        let rest = self.rest.strip_prefix(',').ok_or("expected a comma")?;
        self.rest = rest;
        Ok(true)
    }

    fn taken(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !is_part(c));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken.to_owned()
    }

    /// Reads text between quotes, with Go's escapes.
    fn quoted(&mut self, quote: char) -> Result<String, &'static str> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    return Ok(text);
                }
                '\n' => break,
                '\\' => {
                    let (_, escape) = chars.next().ok_or("quote does not end")?;
                    let mut number = |first: Option<char>, base, digits: u32| {
                        let mut value = first.map_or(0, |c| c.to_digit(base).unwrap_or(0));
                        for _ in 0..digits {
                            let digit = chars.next().and_then(|(_, c)| c.to_digit(base));
                            let digit = digit.ok_or("illegal escape")?;
                            value = value * base + digit;
                        }
                        char::from_u32(value).ok_or("illegal escape")
                    };
                    text.push(match escape {
                        'a' => '\x07',
                        'b' => '\x08',
                        'f' => '\x0c',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\x0b',
                        '\\' => '\\',
                        'x' => number(None, 16, 2)?,
                        'u' => number(None, 16, 4)?,
                        'U' => number(None, 16, 8)?,
                        c @ '0'..='7' => number(Some(c), 8, 2)?,
                        c if c == quote => c,
                        _ => return Err("illegal escape"),
                    });
                }
                c => text.push(c),
            }
        }
        Err("quote does not end")
    }
}
