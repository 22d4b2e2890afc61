//! What a JavaScript module loads while it is loaded.
//!
//! `import` and `export ... from` are found at the top of a module, `require` of a literal wherever
//! it runs at once: outside of functions but those that are called where they are written, such as
//! `(function () { ... })()`. The fallback in a `catch` and `import()` are left out.
//!
//! Grammar: ECMA-262, chapters 12 and 16; `require`: Node.js, "Modules: CommonJS modules". Where a
//! brace opens a function and where a slash divides is told by the tokens before it, not by
//! parsing.

mod lexer;

use std::collections::HashSet;

use lexer::{Lexer, Token};

/// Specifiers of one file. Some packages have an index that exports ten thousand modules.
const SPECIFIERS_MAX: usize = 16 << 10;
const SPECIFIER_BYTES_MAX: usize = 1024;
/// Nested brackets of any kind, after which the text is given up.
const FRAMES_MAX: usize = 512;

/// Returns the specifiers of a module, in the order of its text, each once.
pub(super) fn specifiers(text: &[u8]) -> Vec<String> {
    let mut scan = Scan::default();
    let mut lexer = Lexer::new(text);
    while scan.frames.len() <= FRAMES_MAX
        && scan.found.len() < SPECIFIERS_MAX
        && let Some((token, new_line)) = lexer.next(scan.expects_operand())
    {
        scan.token(token, new_line);
    }
    scan.found
}

/// What opened a bracket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The parenthesis of `if`, `for`, `while`, `switch` or `with`.
    Control,
    /// That of `catch`.
    Catch,
    /// One that begins a statement: a function in it is called at once.
    Statement,
    /// The brace of an object literal.
    Object,
    /// The brace of statements or of a class.
    Block,
    Other,
}

/// An open bracket.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Whether what is in it runs when the module is loaded.
    runs: bool,
}

#[derive(Debug, Default)]
struct Scan<'a> {
    found: Vec<String>,
    seen: HashSet<&'a [u8]>,
    frames: Vec<Frame>,
    /// The tokens before the next one, the last one first.
    before: [Option<Token<'a>>; 4],
    /// What the last token closed, if it did.
    closed: Option<Kind>,
    /// How many brackets are open around the expression that is the body of an arrow function.
    arrow_body: Option<usize>,
    /// Whether the next function is called at once.
    is_called: bool,
    /// Whether a `from` would be that of an `import` or `export`.
    in_clause: bool,
}

impl<'a> Scan<'a> {
    fn runs(&self) -> bool {
        self.arrow_body.is_none() && self.frames.last().is_none_or(|frame| frame.runs)
    }

    /// Tells whether a value may stand here, and not an operator.
    fn expects_operand(&self) -> bool {
        match self.before[0] {
            None | Some(Token::Arrow | Token::Spread) => true,
            Some(Token::Op(b')')) => matches!(self.closed, Some(Kind::Control | Kind::Catch)),
            Some(Token::Op(b'}')) => self.closed != Some(Kind::Object),
            Some(Token::Op(operator)) => operator != b']',
            Some(Token::Word(word)) => matches!(
                word,
                b"await"
                    | b"case"
                    | b"delete"
                    | b"do"
                    | b"else"
                    | b"in"
                    | b"instanceof"
                    | b"new"
                    | b"of"
                    | b"return"
                    | b"throw"
                    | b"typeof"
                    | b"void"
                    | b"yield"
            ),
            Some(Token::Template { opens, .. }) => opens,
            Some(Token::Text(_) | Token::Pattern | Token::Step) => false,
        }
    }

    fn token(&mut self, token: Token<'a>, new_line: bool) {
        self.bound_arrow_body(token, new_line);
        let mut closed = None;
        match token {
            Token::Op(b'(') => self.open(self.parenthesis()),
            Token::Op(b'[') => self.open(Kind::Other),
            Token::Op(b'{') => self.brace(),
            Token::Op(b')' | b']' | b'}') => closed = self.close(token),
            Token::Op(b';' | b'=') => self.in_clause &= !self.frames.is_empty(),
            Token::Template { closes, opens } => {
                if closes {
                    closed = self.close(token);
                }
                if opens {
                    self.open(Kind::Other);
                }
            }
            Token::Word(word) => self.word(word),
            Token::Text(text) => self.text(text),
            _ => {}
        }
        self.closed = closed;
        let [last, second, third, _] = self.before;
        self.before = [Some(token), last, second, third];
    }

    /// Finds where the body of an arrow function without braces begins and ends.
    fn bound_arrow_body(&mut self, token: Token<'a>, new_line: bool) {
        let depth = self.frames.len();
        match self.arrow_body {
            None if self.before[0] == Some(Token::Arrow) && token != Token::Op(b'{') => {
                self.arrow_body = Some(depth);
            }
            Some(start) if start == depth => {
                let is_end = matches!(token, Token::Op(b',' | b';' | b')' | b']' | b'}'));
                let is_behind = new_line && !self.expects_operand();
                if is_end || is_behind {
                    self.arrow_body = None;
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, kind: Kind) {
        let runs = self.frames.last().is_none_or(|frame| frame.runs);
        self.frames.push(Frame { kind, runs });
    }

    /// Tells which parenthesis opens here.
    fn parenthesis(&self) -> Kind {
        match self.before[0] {
            Some(Token::Word(b"if" | b"for" | b"while" | b"switch" | b"with")) => Kind::Control,
            Some(Token::Word(b"catch")) => Kind::Catch,
            last if begins_statement(last) => Kind::Statement,
            _ => Kind::Other,
        }
    }

    /// Opens the body of a function, a block or an object literal.
    fn brace(&mut self) {
        let is_function = match (self.before[0], self.closed) {
            (Some(Token::Arrow), _) => true,
            (Some(Token::Op(b')')), Some(kind)) => kind != Kind::Control,
            _ => false,
        };
        if is_function || self.before[0] == Some(Token::Word(b"catch")) {
            let around = self.frames.last().copied();
            let is_catch = self.closed == Some(Kind::Catch) || !is_function;
            let is_called =
                self.is_called || around.is_some_and(|frame| frame.kind == Kind::Statement);
            self.is_called = false;
            self.frames.push(Frame {
                kind: Kind::Block,
                runs: !is_catch && is_called && around.is_none_or(|frame| frame.runs),
            });
            return;
        }
        let is_block = match self.before[0] {
            None | Some(Token::Op(b';' | b'{' | b'}' | b')')) => true,
            Some(Token::Word(word)) => !matches!(word, b"return" | b"typeof" | b"default" | b"in"),
            _ => false,
        };
        self.open(if is_block { Kind::Block } else { Kind::Object });
    }

    fn close(&mut self, token: Token<'a>) -> Option<Kind> {
        let closed = self.frames.pop()?;
        if token == Token::Op(b')')
            && let [
                Some(Token::Text(specifier)),
                Some(Token::Op(b'(')),
                Some(Token::Word(b"require")),
                before,
            ] = self.before
            && !matches!(before, Some(Token::Op(b'.') | Token::Word(b"function")))
            && self.runs()
        {
            self.add(specifier);
        }
        Some(closed.kind)
    }

    fn word(&mut self, word: &[u8]) {
        let [last, second, ..] = self.before;
        match word {
            b"import" | b"export" => {
                self.in_clause |= self.frames.is_empty() && last != Some(Token::Op(b'.'));
            }
            b"function" => {
                let is_unary = matches!(
                    last,
                    Some(Token::Op(b'!' | b'+' | b'-' | b'~') | Token::Word(b"void"))
                );
                self.is_called = is_unary && begins_statement(second);
            }
            b"const" | b"let" | b"var" | b"class" => self.in_clause &= !self.frames.is_empty(),
            _ => {}
        }
    }

    fn text(&mut self, text: &'a [u8]) {
        let is_source = matches!(self.before[0], Some(Token::Word(b"import" | b"from")));
        if is_source && self.in_clause && self.frames.is_empty() {
            self.in_clause = false;
            self.add(text);
        }
    }

    fn add(&mut self, specifier: &'a [u8]) {
        let is_kept = !specifier.is_empty()
            && specifier.len() <= SPECIFIER_BYTES_MAX
            && !specifier.starts_with(b"node:")
            && !specifier.contains(&b'\\');
        if let (true, Ok(text)) = (is_kept, std::str::from_utf8(specifier))
            && self.seen.insert(specifier)
        {
            self.found.push(text.to_owned());
        }
    }
}

/// Whether what follows `last` begins a statement.
const fn begins_statement(last: Option<Token<'_>>) -> bool {
    matches!(last, None | Some(Token::Op(b';' | b'{' | b'}')))
}

#[cfg(test)]
mod tests;
