//! What a Python module imports while it is loaded, or a `.pth` file that `site` reads.
//!
//! Only statements that run then count: those of the module itself, of classes, and of `if`, `try`,
//! `with` and loops there. Left out are functions, and branches that a start on Linux does not
//! take: `if TYPE_CHECKING`, `if __name__ == "__main__"`, other platforms, and the fallback of
//! `except ImportError`.
//!
//! Statements and blocks: The Python Language Reference, chapters 2 ("Lexical analysis"), 7 and 8.

mod condition;
mod lexer;

use super::PythonImport;
use condition::{Verdict, judge};
use lexer::{Lexer, Line, Token};

/// Import statements of one file.
const IMPORTS_MAX: usize = 1024;
/// Names of one `from x import ...`.
const NAMES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 1024;
/// Leading dots of one import; a deeper tree has no such package.
const LEVEL_MAX: u32 = 256;
/// Python itself allows 100 levels of indentation.
const BLOCKS_MAX: usize = 100;

/// A compound statement whose body may follow.
#[derive(Debug, Clone, Copy)]
struct Block {
    indent: usize,
    /// Whether the body runs.
    runs: bool,
    /// Whether an `elif` or `else` that follows is reached.
    others_run: bool,
}

/// Returns the imports of a module, in the order of its text.
pub(super) fn imports(text: &[u8]) -> Vec<PythonImport> {
    let mut scan = Scan::default();
    let mut lexer = Lexer::new(text);
    let mut line = Line::default();
    while scan.found.len() < IMPORTS_MAX && lexer.next_line(&mut line) {
        scan.line(&line);
    }
    scan.found
}

#[derive(Debug, Default)]
struct Scan {
    found: Vec<PythonImport>,
    /// Enclosing blocks, the outermost first.
    blocks: Vec<Block>,
}

impl Scan {
    fn line(&mut self, line: &Line<'_>) {
        let mut before = None;
        while let Some(block) = self.blocks.last()
            && block.indent >= line.indent
        {
            before = self
                .blocks
                .pop()
                .filter(|block| block.indent == line.indent);
        }
        if self.blocks.last().is_some_and(|block| !block.runs) || self.blocks.len() >= BLOCKS_MAX {
            return;
        }
        let tokens = &line.tokens[..];
        let Some(mut block) = opened(tokens, before) else {
            self.statements(tokens);
            return;
        };
        block.indent = line.indent;
        self.blocks.push(block);
        if block.runs {
            self.statements(body(tokens));
        }
    }

    /// Takes simple statements, which `;` separates.
    fn statements(&mut self, tokens: &[Token<'_>]) {
        for statement in tokens.split(|token| *token == Token::Op(b';')) {
            match statement {
                [Token::Name(b"import"), modules @ ..] => self.import(modules),
                [Token::Name(b"from"), rest @ ..] => self.found.extend(from(rest)),
                other => self.found.extend(called(other)),
            }
        }
        self.found.truncate(IMPORTS_MAX);
    }

    fn import(&mut self, modules: &[Token<'_>]) {
        let modules = modules.split(|token| *token == Token::Op(b','));
        let room = IMPORTS_MAX.saturating_sub(self.found.len());
        let imports = modules.take(room).filter_map(|tokens| {
            let (module, rest) = dotted(tokens)?;
            let is_whole = matches!(rest, [] | [Token::Name(b"as"), ..]);
            (is_whole && !module.is_empty()).then_some(PythonImport {
                module,
                ..PythonImport::default()
            })
        });
        self.found.extend(imports);
    }
}

/// Reads a call of a function that imports the module whose name it is given.
fn called(tokens: &[Token<'_>]) -> Option<PythonImport> {
    tokens.windows(4).find_map(|call| match call {
        [
            Token::Name(b"__import__" | b"import_module"),
            Token::Op(b'('),
            Token::Text(module),
            Token::Op(b')'),
        ] => {
            let is_module = module.split(|byte| *byte == b'.').all(is_word);
            Some(PythonImport {
                module: text(module).filter(|_| is_module)?,
                ..PythonImport::default()
            })
        }
        _ => None,
    })
}

fn is_word(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !bytes.is_empty() && bytes.iter().all(is_part)
}

/// Tells which block a line opens, if it does, after the block `before` at the same indentation.
fn opened(tokens: &[Token<'_>], before: Option<Block>) -> Option<Block> {
    let Some(Token::Name(keyword)) = tokens.first() else {
        return None;
    };
    let reached = before.is_none_or(|block| block.others_run);
    let (runs, others_run) = match *keyword {
        b"def" | b"async" => (false, true),
        b"class" | b"try" | b"finally" | b"for" | b"while" | b"with" => (true, true),
        b"except" => (!catches_import_error(tokens), true),
        b"else" => (reached, true),
        b"if" | b"elif" => {
            let reached = *keyword == b"if" || reached;
            let verdict = judge(header(tokens));
            (
                reached && verdict != Verdict::Never,
                reached && verdict != Verdict::Always,
            )
        }
        _ => return None,
    };
    Some(Block {
        indent: 0,
        runs,
        others_run,
    })
}

fn catches_import_error(tokens: &[Token<'_>]) -> bool {
    header(tokens)
        .iter()
        .any(|token| matches!(token, Token::Name(b"ImportError" | b"ModuleNotFoundError")))
}

/// What is between the keyword of a compound statement and its colon.
fn header<'a, 'b>(tokens: &'b [Token<'a>]) -> &'b [Token<'a>] {
    let end = colon(tokens).unwrap_or(tokens.len());
    tokens.get(1..end).unwrap_or_default()
}

/// The statements behind the colon on the same line.
fn body<'a, 'b>(tokens: &'b [Token<'a>]) -> &'b [Token<'a>] {
    let start = colon(tokens).map_or(tokens.len(), |at| at + 1);
    tokens.get(start..).unwrap_or_default()
}

/// Where the colon is that ends the header: the first one outside of brackets.
fn colon(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    tokens.iter().position(|token| {
        match token {
            Token::Op(b'(' | b'[' | b'{') => depth += 1,
            Token::Op(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *token == Token::Op(b':')
    })
}

/// Reads what follows `from`.
fn from(tokens: &[Token<'_>]) -> Option<PythonImport> {
    let dots = tokens
        .iter()
        .take_while(|token| **token == Token::Op(b'.'))
        .count();
    let level = u32::try_from(dots)
        .ok()
        .filter(|level| *level <= LEVEL_MAX)?;
    let rest = tokens.get(dots..)?;
    let (module, rest) = match rest.first() {
        Some(Token::Name(b"import")) if level > 0 => (String::new(), rest),
        _ => dotted(rest).filter(|(module, _)| !module.is_empty())?,
    };
    let [Token::Name(b"import"), names @ ..] = rest else {
        return None;
    };
    let names = names
        .split(|token| matches!(token, Token::Op(b',' | b'(' | b')')))
        .filter_map(|name| match name {
            [Token::Name(name)] | [Token::Name(name), Token::Name(b"as"), ..] => text(name),
            _ => None,
        })
        .take(NAMES_MAX)
        .collect();
    Some(PythonImport {
        level,
        module,
        names,
    })
}

/// Reads a dotted name and returns what follows it.
fn dotted<'a, 'b>(tokens: &'b [Token<'a>]) -> Option<(String, &'b [Token<'a>])> {
    let mut module = String::new();
    let mut rest = tokens;
    while let [Token::Name(name), after @ ..] = rest {
        module.push_str(&text(name)?);
        if module.len() > NAME_BYTES_MAX {
            return None;
        }
        rest = after;
        let [Token::Op(b'.'), after @ ..] = rest else {
            break;
        };
        module.push('.');
        rest = after;
    }
    (!module.ends_with('.')).then_some((module, rest))
}

/// A name as text; `None` for what is none, such as a number.
fn text(name: &[u8]) -> Option<String> {
    if name.len() > NAME_BYTES_MAX || name.first().is_none_or(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests;
