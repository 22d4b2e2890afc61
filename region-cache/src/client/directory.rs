//! Where the list of members comes from: named ones, a file, a DNS name; and keeping it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nacre_blobstore::Clock;

use super::RegionCacheError;
use super::http::Http;
use super::members::{MEMBERS_MAX, Members};

/// Between two looks at files and names.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// How long a name may take to be resolved.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest list of members, or token, in a file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// One entry of `--region-cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionMembers {
    /// `HOST:PORT`, or `https://HOST:PORT`.
    Member(String),
    /// `file:PATH`: members in a file, between white space or commas, that may change.
    File(PathBuf),
    /// `dns:NAME:PORT`: all addresses of a name, which may change.
    Dns(String),
}

impl FromStr for RegionMembers {
    type Err = RegionCacheError;

    fn from_str(text: &str) -> Result<Self, RegionCacheError> {
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::File(path.into()));
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return member(name).map(Self::Dns);
        }
        member(text).map(Self::Member)
    }
}

impl fmt::Display for RegionMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => f.write_str(name),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// Checks the name of a member and spells it as all nodes do: they must agree who has what.
fn member(text: &str) -> Result<String, RegionCacheError> {
    let refused = || RegionCacheError::Member(text.to_owned());
    let text = text.trim_end_matches('/').to_ascii_lowercase();
    let text = text.strip_prefix("http://").unwrap_or(&text);
    let address = text.strip_prefix("https://").unwrap_or(text);
    let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || is_bare_v6 || !host.chars().all(is_of_host) {
        return Err(refused());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err(refused()),
    }
}

/// Reads a list of members; a name that is none makes all of it void.
fn parse(text: &str) -> Result<BTreeSet<String>, RegionCacheError> {
    let names = text.split(|c: char| c == ',' || c.is_whitespace());
    names.filter(|name| !name.is_empty()).map(member).collect()
}

/// Keeps a list of members, and a token, as files and names say.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) entries: Vec<RegionMembers>,
    pub(crate) token: Option<PathBuf>,
    pub(crate) http: Arc<Http>,
}

impl Directory {
    /// Looks at what needs no network: the members of each entry.
    ///
    /// # Errors
    /// [`RegionCacheError`] when a file cannot be read or names what is no member.
    pub(crate) fn first(&self) -> Result<Vec<BTreeSet<String>>, RegionCacheError> {
        if let Some(token) = &self.token {
            self.http.set_token(&read(token)?);
        }
        let members = |entry: &RegionMembers| match entry {
            RegionMembers::Member(name) => Ok([name.clone()].into()),
            RegionMembers::File(path) => parse(&read(path)?),
            RegionMembers::Dns(_) => Ok(BTreeSet::new()),
        };
        self.entries.iter().map(members).collect()
    }

    /// Tells whether anything may change.
    pub(crate) fn is_fixed(&self) -> bool {
        let is_fixed = |entry: &RegionMembers| matches!(entry, RegionMembers::Member(_));
        self.token.is_none() && self.entries.iter().all(is_fixed)
    }

    /// Looks again and again, for as long as there are `members`. What cannot be read or resolved
    /// says nothing: the entry's members stay as they were, at first those `known`.
    pub(crate) async fn follow(
        self,
        mut known: Vec<BTreeSet<String>>,
        members: Weak<Members>,
        clock: Arc<dyn Clock>,
    ) {
        loop {
            for (entry, known) in self.entries.iter().zip(&mut known) {
                match look(entry, &*clock).await {
                    Ok(found) => *known = found,
                    Err(error) => tracing::debug!(%entry, error, "keep the members of before"),
                }
            }
            if let Some(Ok(token)) = self.token.as_deref().map(read) {
                self.http.set_token(&token);
            }
            let Some(members) = members.upgrade() else {
                return;
            };
            members.replace(&known.iter().flatten().cloned().collect());
            members.note_looked();
            drop(members);
            clock.sleep(LOOK_PERIOD).await;
        }
    }
}

async fn look(entry: &RegionMembers, clock: &dyn Clock) -> Result<BTreeSet<String>, String> {
    match entry {
        RegionMembers::Member(name) => Ok([name.clone()].into()),
        RegionMembers::File(path) => {
            let path = path.clone();
            let text = tokio::task::spawn_blocking(move || read(&path)).await;
            let text = text.map_err(|_| "stopped".to_owned())?;
            text.and_then(|text| parse(&text))
                .map_err(|error| error.to_string())
        }
        RegionMembers::Dns(name) => {
            let (scheme, name) = match name.strip_prefix("https://") {
                Some(name) => ("https://", name),
                None => ("", name.as_str()),
            };
            let found = tokio::select! {
                biased;
                found = tokio::net::lookup_host(name) => found.map_err(|e| e.to_string())?,
                () = clock.sleep(RESOLVE_DEADLINE) => return Err("timed out".to_owned()),
            };
            let found = found.take(MEMBERS_MAX);
            Ok(found.map(|address| format!("{scheme}{address}")).collect())
        }
    }
}

fn read(path: &Path) -> Result<String, RegionCacheError> {
    let failed = |source| RegionCacheError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut file = std::io::Read::take(file, FILE_BYTES_MAX);
    std::io::Read::read_to_string(&mut file, &mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_spelled_one_way() {
        let spelled = |text: &str| text.parse::<RegionMembers>().unwrap().to_string();
        assert_eq!(
            spelled("http://Cache-1.example:8080/"),
            "cache-1.example:8080"
        );
        assert_eq!(spelled("https://cache:443"), "https://cache:443");
        assert_eq!(spelled("[::1]:80"), "[::1]:80");
        assert_eq!(spelled("file:///etc/members"), "file:/etc/members");
        assert_eq!(
            spelled("dns:nacre-region.default.svc:8080"),
            "dns:nacre-region.default.svc:8080"
        );
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:99999",
            ":80",
            "::1:80",
            "a b:80",
            "host/path:80",
            "dns:name",
            "user@host:80",
            "ftp://host:80",
        ] {
            assert!(text.parse::<RegionMembers>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_names_members_one_way_or_another() {
        let expected: BTreeSet<String> = ["a:1".to_owned(), "b:2".to_owned()].into();
        for text in ["a:1,b:2", "a:1\nb:2\n", " b:2 ,\t a:1\r\n", "a:1 a:1 b:2"] {
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
        }
        assert!(parse("").unwrap().is_empty());
        assert!(parse("a:1 <html>").is_err());
    }
}
