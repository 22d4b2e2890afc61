//! `WWW-Authenticate` headers: how a registry wants to be shown credentials (RFC 9110, 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longest header looked at, in bytes.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Returns the challenge of an answer, a token rather than a password.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let headers = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = headers.filter_map(|value| value.to_str().ok());
        let texts = texts.filter(|text| text.len() <= HEADER_BYTES_MAX);
        let all: Vec<Self> = texts.flat_map(parse).collect();
        let bearer = all
            .iter()
            .find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or_else(|| all.first()).cloned()
    }
}

/// Parses the challenges of one header and leaves out those of unknown schemes.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for part in split_outside_quotes(header) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        // `Scheme key=value` starts a challenge, `key=value` adds to the last one.
        let key = match key.trim().split_once(char::is_whitespace) {
            Some((scheme, key)) => {
                challenges.push((scheme.to_ascii_lowercase(), Vec::new()));
                key.trim()
            }
            None if !part.contains('=') => {
                challenges.push((key.trim().to_ascii_lowercase(), Vec::new()));
                continue;
            }
            None => key.trim(),
        };
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.push((key.to_ascii_lowercase(), unquoted(value.trim())));
        }
    }
    challenges
        .into_iter()
        .filter_map(|(scheme, parameters)| known(&scheme, &parameters))
        .collect()
}

fn known(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name| {
        parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, v)| v.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|c| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            ',' => return !quoted,
            _ => {}
        }
        false
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn unquoted(value: &str) -> String {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else {
        return value.to_owned();
    };
    let mut escaped = false;
    let keep = |c: &char| {
        escaped = *c == '\\' && !escaped;
        !escaped
    };
    inner.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn what_registries_send_is_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(parse(hub), [expected]);
        assert_eq!(parse(r#"Basic realm="x, y""#), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, BEARER Realm = https://t/ , Basic realm="r""#),
            [bearer("https://t/", None, None), Challenge::Basic]
        );
        assert_eq!(
            parse(r#"Bearer realm="a\"b\\c""#),
            [bearer(r#"a"b\c"#, None, None)]
        );
        assert_eq!(parse("Bearer service=x"), []);
    }

    #[test]
    fn a_token_is_preferred() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=r".parse().unwrap());
        assert_eq!(Challenge::of(&headers), Some(Challenge::Basic));
        headers.append(WWW_AUTHENTICATE, "Bearer realm=t".parse().unwrap());
        assert_eq!(Challenge::of(&headers), Some(bearer("t", None, None)));
        assert_eq!(Challenge::of(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(header in r#"([a-zA-Z =",\\]|\PC){0,60}"#) {
            prop_assert!(parse(&header).len() <= header.len());
        }
    }
}
