//! Conditions whose outcome is the same at every start on Linux.

use super::lexer::Token;

/// What is known of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Always,
    Never,
    Unknown,
}

impl Verdict {
    const fn of(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }

    const fn not(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// Judges the tokens of a condition.
pub(super) fn judge(condition: &[Token<'_>]) -> Verdict {
    if condition.contains(&Token::Name(b"or")) {
        return Verdict::Unknown;
    }
    let mut all = Verdict::Always;
    for part in condition.split(|token| *token == Token::Name(b"and")) {
        match judge_part(part) {
            Verdict::Always => {}
            Verdict::Never => return Verdict::Never,
            Verdict::Unknown => all = Verdict::Unknown,
        }
    }
    all
}

/// Judges what is between `and`s.
fn judge_part(part: &[Token<'_>]) -> Verdict {
    let (mut part, mut is_negated) = (part, false);
    while let [Token::Name(b"not"), rest @ ..] = part {
        (part, is_negated) = (rest, !is_negated);
    }
    if let [Token::Op(b'('), inner @ .., Token::Op(b')')] = part
        && is_plain(inner)
    {
        part = inner;
    }
    let verdict = judge_value(part);
    if is_negated { verdict.not() } else { verdict }
}

fn judge_value(value: &[Token<'_>]) -> Verdict {
    match value {
        [Token::Name(b"False" | b"0" | b"TYPE_CHECKING")]
        | [
            Token::Name(_),
            Token::Op(b'.'),
            Token::Name(b"TYPE_CHECKING"),
        ] => Verdict::Never,
        [
            subject @ ..,
            Token::Op(sign @ (b'=' | b'!')),
            Token::Op(b'='),
            Token::Text(value),
        ] => compare(subject, value, |subject, value| subject == value)
            .map_or(Verdict::Unknown, |equal| {
                Verdict::of(equal == (*sign == b'='))
            }),
        [
            subject @ ..,
            Token::Op(b'.'),
            Token::Name(b"startswith"),
            Token::Op(b'('),
            Token::Text(value),
            Token::Op(b')'),
        ] => compare(subject, value, <[u8]>::starts_with).map_or(Verdict::Unknown, Verdict::of),
        _ => Verdict::Unknown,
    }
}

fn is_plain(tokens: &[Token<'_>]) -> bool {
    !tokens
        .iter()
        .any(|token| matches!(token, Token::Op(b'(' | b')')))
}

/// Compares a value that is the same at every start; `None` for any other.
fn compare(subject: &[Token<'_>], value: &[u8], holds: fn(&[u8], &[u8]) -> bool) -> Option<bool> {
    let actual: &[u8] = match subject {
        [
            Token::Name(b"sys"),
            Token::Op(b'.'),
            Token::Name(b"platform"),
        ] => b"linux",
        [Token::Name(b"os"), Token::Op(b'.'), Token::Name(b"name")] => b"posix",
        // All that is known of a module's name is what it is not.
        [Token::Name(b"__name__")] if value == b"__main__" => b"",
        _ => return None,
    };
    Some(holds(actual, value))
}
