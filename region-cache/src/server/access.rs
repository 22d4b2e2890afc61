//! Who may read and write what: tokens, each with prefixes of keys.
//!
//! The file has a line for each token, with fields between blanks:
//!
//! ```text
//! # name    token                             rights  prefixes
//! tenant-a  6f1c...at-least-16-characters     rw      tenant-a
//! backup    blake3:HASH-OF-THE-TOKEN          r       tenant-a tenant-b
//! operator  9d80...                           rw      *
//! ```
//! A prefix is a folder of the store: `tenant-a` covers `tenant-a/packs/ID` and nothing of
//! `tenant-ab/`. `*` covers all, and `/metrics` and `/status` want it. Tokens are compared by
//! their hashes, so that the time of a comparison says nothing of a token.

mod file;

use std::collections::HashMap;
use std::sync::Arc;

use nacre_blobstore::Digest;

pub(super) use self::file::TokenFile;
pub use self::file::TokensError;
use super::object::ObjectName;

/// Shorter tokens are refused: they could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const EVERYTHING: &str = "*";

/// Why a token file is refused. Never quotes a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the token file: {reason}")]
pub struct TokenFileError {
    line: usize,
    reason: &'static str,
}

/// The tokens that a member knows.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    grants: HashMap<Digest, Arc<Grant>>,
}

/// What the bearer of a token may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) name: String,
    may_write: bool,
    prefixes: Vec<String>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no token, or none that is known.
    Unknown,
    /// The token does not cover this.
    Forbidden,
}

impl Tokens {
    /// Reads a token file's text.
    ///
    /// # Errors
    /// [`TokenFileError`], of the first line that is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = Self::default();
        for (index, line) in text.lines().enumerate() {
            let fail = |reason| TokenFileError {
                line: index + 1,
                reason,
            };
            let mut fields = line.split_ascii_whitespace();
            let Some(name) = fields.next().filter(|name| !name.starts_with('#')) else {
                continue;
            };
            let (Some(token), Some(rights)) = (fields.next(), fields.next()) else {
                return Err(fail("not `name token rights prefixes`"));
            };
            let hash = match token.strip_prefix("blake3:") {
                Some(hash) => hash.parse().map_err(|_| fail("not a BLAKE3 hash"))?,
                None if token.len() < TOKEN_BYTES_MIN => return Err(fail("the token is short")),
                None => Digest::of(token.as_bytes()),
            };
            let may_write = match rights {
                "r" => false,
                "rw" => true,
                _ => return Err(fail("rights are r or rw")),
            };
            let prefixes: Vec<_> = fields
                .map(|prefix| prefix.trim_end_matches('/').to_owned())
                .collect();
            if prefixes.is_empty() || prefixes.iter().any(String::is_empty) {
                return Err(fail("a prefix is missing; * is all"));
            }
            let grant = Arc::new(Grant {
                name: name.to_owned(),
                may_write,
                prefixes,
            });
            if tokens.grants.insert(hash, grant).is_some() {
                return Err(fail("another line has this token"));
            }
        }
        Ok(tokens)
    }

    /// Returns what the token of an `Authorization` header grants.
    pub(super) fn grant(&self, authorization: Option<&[u8]>) -> Result<Arc<Grant>, Refusal> {
        let header = authorization.ok_or(Refusal::Unknown)?;
        let (scheme, token) = header
            .iter()
            .position(|byte| *byte == b' ')
            .map(|at| header.split_at(at))
            .ok_or(Refusal::Unknown)?;
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return Err(Refusal::Unknown);
        }
        let known = self.grants.get(&Digest::of(token.trim_ascii()));
        known.map(Arc::clone).ok_or(Refusal::Unknown)
    }
}

impl Grant {
    /// Tells whether an object may be read, or also written.
    pub(super) fn object(&self, name: &ObjectName, write: bool) -> Result<(), Refusal> {
        let covered = self.prefixes.iter().any(|prefix| {
            prefix == EVERYTHING
                || name
                    .key()
                    .as_str()
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.starts_with('/'))
        });
        if covered && (self.may_write || !write) {
            Ok(())
        } else {
            Err(Refusal::Forbidden)
        }
    }

    /// Tells whether what is about all objects may be read.
    pub(super) fn everything(&self) -> Result<(), Refusal> {
        if self.prefixes.iter().any(|prefix| prefix == EVERYTHING) {
            Ok(())
        } else {
            Err(Refusal::Forbidden)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn object(prefix: &str) -> ObjectName {
        let id = Digest::of(b"x");
        ObjectName::from_key(&format!("{prefix}packs/{id}")).unwrap()
    }

    fn grant(file: &str) -> Arc<Grant> {
        let header = format!("Bearer {TOKEN}");
        let tokens = Tokens::parse(file).unwrap();
        tokens.grant(Some(header.as_bytes())).unwrap()
    }

    #[test]
    fn a_token_covers_its_prefixes_and_no_more() {
        let grant = grant(&format!("a {TOKEN} r tenant-a other/x/\n"));
        for prefix in ["tenant-a/", "tenant-a/deep/", "other/x/"] {
            assert_eq!(grant.object(&object(prefix), false), Ok(()), "{prefix}");
            assert_eq!(grant.object(&object(prefix), true), Err(Refusal::Forbidden));
        }
        for prefix in [
            "",
            "tenant-ab/",
            "tenant/",
            "b/tenant-a/",
            "other/",
            "other/xy/",
        ] {
            let refused = grant.object(&object(prefix), false);
            assert_eq!(refused, Err(Refusal::Forbidden), "{prefix}");
        }
        assert_eq!(grant.everything(), Err(Refusal::Forbidden));
    }

    #[test]
    fn a_star_covers_all() {
        let grant = grant(&format!("# comment\n\n  op {TOKEN} rw *\n"));
        assert_eq!(grant.object(&object(""), true), Ok(()));
        assert_eq!(grant.object(&object("a/"), true), Ok(()));
        assert_eq!(grant.everything(), Ok(()));
    }

    #[test]
    fn only_the_token_itself_is_known() {
        let tokens = Tokens::parse(&format!("a {TOKEN} r *")).unwrap();
        let hashed = format!("a blake3:{} r *", Digest::of(TOKEN.as_bytes()));
        let hashed = Tokens::parse(&hashed).unwrap();
        for tokens in [tokens, hashed] {
            for good in [format!("Bearer {TOKEN}"), format!("bearer   {TOKEN} ")] {
                assert_eq!(tokens.grant(Some(good.as_bytes())).unwrap().name, "a");
            }
            for bad in [
                format!("Basic {TOKEN}"),
                TOKEN.to_owned(),
                format!("Bearer {TOKEN}0"),
                format!("Bearer {}", &TOKEN[1..]),
                "Bearer ".to_owned(),
                String::new(),
                format!("Bearer blake3:{}", Digest::of(TOKEN.as_bytes())),
            ] {
                let refused = tokens.grant(Some(bad.as_bytes()));
                assert_eq!(refused, Err(Refusal::Unknown), "{bad}");
            }
            assert_eq!(tokens.grant(None), Err(Refusal::Unknown));
        }
    }

    #[test]
    fn wrong_files_are_refused() {
        for (file, line) in [
            ("a short r *".to_owned(), 1),
            (format!("a {TOKEN}"), 1),
            (format!("\na {TOKEN} w *"), 2),
            (format!("a {TOKEN} r"), 1),
            (format!("a {TOKEN} r /"), 1),
            (format!("a {TOKEN} r x\nb {TOKEN} rw *"), 2),
            ("a blake3:00 r *".to_owned(), 1),
        ] {
            let error = Tokens::parse(&file).unwrap_err();
            assert_eq!(error.line, line, "{file}");
            assert!(!error.to_string().contains(TOKEN));
        }
    }
}
