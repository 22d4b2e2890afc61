//! Naming a store by a URL, and opening what it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::{
    BlobStore, CONCURRENT_REQUESTS_MAX, DelayStore, JournalStore, LimitStore, LocalStore,
    ObjectBackend, RetryPolicy, RetryStore, StoreError, check_prefix,
};
use crate::Clock;

mod cloud;

/// Longest latency that `?delay_ms=` may add.
const DELAY_MS_MAX: u64 = 60_000;

/// Where a store is: `file:///abs/dir`, `s3://bucket/prefix`, `gs://bucket/prefix`,
/// `az://container/prefix` or `memory:`.
///
/// Measuring aids on any of them: `?delay_ms=20` adds 20 ms to each request ([`DelayStore`]), and
/// `?journal=/FILE` notes each request in a file ([`JournalStore`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    place: Place,
    aids: Aids,
}

/// What is to be measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Aids {
    delay: Duration,
    journal: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Forgotten with the store; each `open` makes a new one.
    Memory,
    Directory(PathBuf),
    Bucket {
        provider: Provider,
        bucket: String,
        prefix: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    S3,
    Gcs,
    Azure,
}

/// A text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a store URL: {reason}")]
pub struct StoreUrlError {
    text: String,
    reason: &'static str,
}

impl StoreUrl {
    /// Names the store in a directory of this machine.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self {
            place: Place::Directory(path.into()),
            aids: Aids::default(),
        }
    }

    /// Returns the directory, of a store on this machine.
    pub fn as_directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(path) => Some(path),
            Place::Memory | Place::Bucket { .. } => None,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        parse(text).map_err(|reason| StoreUrlError {
            text: text.to_owned(),
            reason,
        })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Memory => f.write_str("memory:")?,
            Place::Directory(path) => match Url::from_directory_path(path) {
                Ok(url) => f.write_str(url.as_str().trim_end_matches('/'))?,
                Err(()) => write!(f, "file:{}", path.display())?,
            },
            Place::Bucket {
                provider,
                bucket,
                prefix,
            } if prefix.is_empty() => {
                write!(f, "{}://{bucket}", provider.scheme())?;
            }
            Place::Bucket {
                provider,
                bucket,
                prefix,
            } => {
                write!(f, "{}://{bucket}/{prefix}", provider.scheme())?;
            }
        }
        let mut before = '?';
        if !self.aids.delay.is_zero() {
            write!(f, "?delay_ms={}", self.aids.delay.as_millis())?;
            before = '&';
        }
        match &self.aids.journal {
            Some(path) => write!(f, "{before}journal={}", path.display()),
            None => Ok(()),
        }
    }
}

impl Provider {
    const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

fn parse(text: &str) -> Result<StoreUrl, &'static str> {
    let url = Url::parse(text).map_err(|_| "it does not parse as a URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
        return Err("credentials and endpoints are given by options, not in the URL");
    }
    if url.fragment().is_some() {
        return Err("it has a fragment");
    }
    let aids = parse_query(&url)?;
    let bucket = |provider| parse_bucket(provider, &url, text);
    let place = match url.scheme() {
        "memory" if url.path().is_empty() && !url.has_host() => Place::Memory,
        "memory" => return Err("memory: takes no path"),
        "file" => {
            let path = url
                .to_file_path()
                .map_err(|()| "file: needs an absolute path")?;
            Place::Directory(path)
        }
        "s3" => bucket(Provider::S3)?,
        "gs" => bucket(Provider::Gcs)?,
        "az" => bucket(Provider::Azure)?,
        _ => return Err("the scheme is none of file, s3, gs, az, memory"),
    };
    Ok(StoreUrl { place, aids })
}

fn parse_bucket(provider: Provider, url: &Url, text: &str) -> Result<Place, &'static str> {
    let bucket = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or("it names no bucket")?;
    let prefix = url.path().trim_matches('/');
    let place = text.split_once('?').map_or(text, |(place, _)| place);
    // The parser has encoded what no URL may hold, and resolved `..`; neither is meant.
    if check_prefix(prefix).is_err() || !place.ends_with(&format!("://{bucket}{}", url.path())) {
        return Err("the prefix has a segment or character that no object key may have");
    }
    Ok(Place::Bucket {
        provider,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

fn parse_query(url: &Url) -> Result<Aids, &'static str> {
    let mut aids = Aids::default();
    for (name, value) in url.query_pairs() {
        match &*name {
            "delay_ms" => {
                let delay_ms = value.parse().ok().filter(|ms| *ms <= DELAY_MS_MAX);
                let delay_ms = delay_ms.ok_or("delay_ms is not a number up to 60000")?;
                aids.delay = Duration::from_millis(delay_ms);
            }
            "journal" if value.starts_with('/') && !value.contains(['&', '#', '%', '+']) => {
                aids.journal = Some(PathBuf::from(&*value));
            }
            "journal" => return Err("journal is not the plain path of a file"),
            _ => return Err("the only queries it may have are delay_ms and journal"),
        }
    }
    Ok(aids)
}

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// Credentials, endpoint and the like, by the names that the clouds' own tools read from the
    /// environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, ...), in any case. Names that the client does not know are
    /// passed over, as those tools have many more.
    pub config: BTreeMap<String, String>,
    /// How to repeat failed requests.
    pub retry: RetryPolicy,
    /// Requests under way at once.
    pub concurrent_max: usize,
    /// Time for retries and delays.
    pub clock: Arc<dyn Clock>,
    /// Decides the jitter of retries; should differ between processes.
    pub seed: u64,
}

impl StoreOptions {
    /// Returns options without credentials and with the default policy.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            config: BTreeMap::new(),
            retry: RetryPolicy::default(),
            concurrent_max: CONCURRENT_REQUESTS_MAX,
            clock,
            seed,
        }
    }
}

/// Shows the names of the configuration, never its values: some are secrets.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("config", &self.config.keys())
            .field("retry", &self.retry)
            .field("concurrent_max", &self.concurrent_max)
            .finish_non_exhaustive()
    }
}

/// Opens the store that `url` names, with retries and a limit on concurrent requests.
///
/// A directory is created if it is missing; no other request is made.
///
/// # Errors
/// [`StoreError::Unsupported`] for a configuration that the store's client refuses;
/// [`StoreError::Denied`] or [`StoreError::Unavailable`] for a directory that cannot be created.
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn BlobStore>, StoreError> {
    let mut store: Arc<dyn BlobStore> = match &url.place {
        Place::Memory => Arc::new(ObjectBackend::memory()),
        Place::Directory(path) => Arc::new(LocalStore::open(path)?),
        Place::Bucket {
            provider,
            bucket,
            prefix,
        } => {
            let client = match provider {
                Provider::S3 => cloud::s3(bucket, &options.config),
                Provider::Gcs => cloud::gcs(bucket, &options.config),
                Provider::Azure => cloud::azure(bucket, &options.config),
            };
            let client =
                client.map_err(|error| StoreError::Unsupported(format!("open {url}: {error}")))?;
            let client = ObjectBackend::new(client, prefix)?;
            Arc::new(client.with_deadline(Arc::clone(&options.clock), options.retry.deadline))
        }
    };
    let clock = || Arc::clone(&options.clock);
    if !url.aids.delay.is_zero() {
        store = Arc::new(DelayStore::new(store, clock(), url.aids.delay));
    }
    if let Some(path) = &url.aids.journal {
        store = Arc::new(JournalStore::open(store, path)?);
    }
    // Inside the retries, so that no turn is held through a backoff.
    store = Arc::new(LimitStore::new(store, options.concurrent_max));
    Ok(Arc::new(RetryStore::new(
        store,
        clock(),
        options.retry.clone(),
        options.seed,
    )))
}

#[cfg(test)]
mod tests;
