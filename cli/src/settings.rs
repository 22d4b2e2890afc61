//! Where everything is: flags before environment before the settings file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, ChunkIndex, Clock, Digest, HomeStore, IndexError, READ_WAIT_MAX, StoreOptions,
    StoreUrl, SystemClock, open_store,
};
use nacre_fs::NodeCacheOptions;
use nacre_region_cache::{RegionCache, RegionMembers, RegionOptions, RegionStore};
use nacre_snapshotter::LazyPolicy;
use serde::Deserialize;

use crate::args::{Global, ProgressKind, parse_bytes};
use crate::failure::{Failure, USAGE};
use crate::output;

const DEFAULT_ROOT: &str = "/var/lib/nacre";
/// Checked starts wait a little more, so they are few.
pub(crate) const CHECK_ONE_IN: u32 = 8;
const DEFAULT_CONTAINERD: &str = "/run/containerd/containerd.sock";
/// Between two looks at an index that another process uses.
const INDEX_POLL_MS: u64 = 200;

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SettingsFile {
    root: Option<PathBuf>,
    store: Option<String>,
    #[serde(default)]
    region_cache: Vec<String>,
    region_token: Option<PathBuf>,
    region_ca: Option<PathBuf>,
    region_prefix: Option<String>,
    home_store: Option<String>,
    #[serde(default)]
    home_except: Vec<String>,
    store_timeout: Option<u64>,
    cache_size: Option<Size>,
    cache_files: Option<u64>,
    check_one_in: Option<u32>,
    lazy: Option<String>,
    containerd_address: Option<PathBuf>,
}

/// A number of bytes, as a number or with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes(self) -> Result<u64, Failure> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => parse_bytes(&text)
                .map_err(|error| Failure::new("use cache-size", &text, &error).with_code(USAGE)),
        }
    }
}

/// How to reach the region's cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegionSettings {
    pub(crate) members: Vec<RegionMembers>,
    pub(crate) token: Option<PathBuf>,
    pub(crate) authority: Option<PathBuf>,
    pub(crate) prefix: Option<String>,
}

impl RegionSettings {
    fn resolve(
        members: &[String],
        token: Option<PathBuf>,
        authority: Option<PathBuf>,
        prefix: Option<String>,
    ) -> Result<Self, Failure> {
        // The daemon runs in another directory.
        let absolute = |path: PathBuf| {
            let made = std::path::absolute(&path);
            made.map_err(|error| Failure::new("use", &path.display().to_string(), &error))
        };
        let parse = |text: &String| {
            let parsed: Result<RegionMembers, _> = text.parse();
            match parsed {
                Ok(RegionMembers::File(path)) => absolute(path).map(RegionMembers::File),
                Ok(members) => Ok(members),
                Err(error) => Err(Failure::new("use region cache", text, &error).with_code(USAGE)),
            }
        };
        Ok(Self {
            members: members.iter().map(parse).collect::<Result<_, _>>()?,
            token: token.map(absolute).transpose()?,
            authority: authority.map(absolute).transpose()?,
            prefix,
        })
    }
}

/// What every verb works with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) root: PathBuf,
    pub(crate) store: StoreUrl,
    /// In seconds.
    pub(crate) store_timeout: Option<u64>,
    pub(crate) region: RegionSettings,
    pub(crate) home_store: Option<StoreUrl>,
    pub(crate) home_except: Vec<String>,
    pub(crate) cache: NodeCacheOptions,
    pub(crate) check_one_in: u32,
    pub(crate) lazy: LazyPolicy,
    /// The socket of containerd.
    pub(crate) containerd: PathBuf,
    pub(crate) json: bool,
    pub(crate) progress: ProgressKind,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Settings {
    pub(crate) fn resolve(global: Global) -> Result<Self, Failure> {
        let file = match &global.config {
            Some(path) => read_file(path)?,
            None => SettingsFile::default(),
        };
        let root = global
            .root
            .or(file.root)
            .unwrap_or_else(|| DEFAULT_ROOT.into());
        let root = std::path::absolute(&root)
            .map_err(|error| Failure::new("use root", &root.display().to_string(), &error))?;
        let store = match global.store.or(file.store) {
            Some(url) => parse_url(&url)?,
            None => StoreUrl::directory(root.join("store")),
        };
        let region = global.region;
        let home_store = region.home_store.or(file.home_store);
        let home_store = home_store.as_deref().map(parse_url).transpose()?;
        let home_except = if region.home_except.is_empty() {
            file.home_except
        } else {
            region.home_except
        };
        let region_cache = if region.region_cache.is_empty() {
            file.region_cache
        } else {
            region.region_cache
        };
        let cache_size = file.cache_size.map(Size::bytes).transpose()?;
        let lazy = file.lazy.map(|text| {
            let policy = text.parse::<LazyPolicy>();
            policy.map_err(|error| Failure::new("use lazy", &text, &error).with_code(USAGE))
        });
        let lazy = lazy.transpose()?;
        let containerd = global.containerd_address.or(file.containerd_address);
        let containerd = containerd.unwrap_or_else(|| DEFAULT_CONTAINERD.into());
        // The daemon runs in another directory.
        let containerd = std::path::absolute(&containerd)
            .map_err(|error| Failure::new("use", &containerd.display().to_string(), &error))?;
        Ok(Self {
            root,
            store,
            store_timeout: global.store_timeout.or(file.store_timeout),
            region: RegionSettings::resolve(
                &region_cache,
                region.region_token.or(file.region_token),
                region.region_ca.or(file.region_ca),
                region.region_prefix.or(file.region_prefix),
            )?,
            home_store,
            home_except,
            cache: NodeCacheOptions {
                bytes_max: global.cache_size.or(cache_size),
                files_max: global.cache_files.or(file.cache_files),
            },
            check_one_in: global
                .check_one_in
                .or(file.check_one_in)
                .unwrap_or(CHECK_ONE_IN),
            lazy: global.lazy.or(lazy).unwrap_or_default(),
            containerd,
            json: global.json,
            progress: global.progress,
            clock: Arc::new(SystemClock::new()),
        })
    }

    /// Opens the object store, with the credentials that the environment holds.
    pub(crate) fn open_store(&self) -> Result<Arc<dyn BlobStore>, Failure> {
        self.open(&self.store)
    }

    fn open(&self, url: &StoreUrl) -> Result<Arc<dyn BlobStore>, Failure> {
        let mut options = StoreOptions::new(Arc::clone(&self.clock), self.seed());
        options.config = cloud_environment();
        options.retry.deadline = self.wait_max();
        open_store(url, &options).map_err(Failure::of("open store", &url.to_string()))
    }

    /// Returns how long a read waits for what is not on the node, and a request for the store.
    pub(crate) fn wait_max(&self) -> Duration {
        self.store_timeout
            .map_or(READ_WAIT_MAX, Duration::from_secs)
    }

    /// Makes the client of the region's cache, if one is given. Must be called in a runtime.
    pub(crate) fn open_region(&self) -> Result<Option<Arc<RegionCache>>, Failure> {
        if self.region.members.is_empty() {
            return Ok(None);
        }
        let options = RegionOptions {
            members: self.region.members.clone(),
            token: self.region.token.clone(),
            authority: self.region.authority.clone(),
            prefix: self.region.prefix.clone(),
            client: format!("{:x}", self.seed()),
            // The other half is for the store.
            patience: self.wait_max() / 2,
            clock: Arc::clone(&self.clock),
            seed: self.seed(),
        };
        let region = RegionCache::new(options)
            .map_err(|error| Failure::new("use", "the region cache", &error).with_code(USAGE))?;
        Ok(Some(Arc::new(region)))
    }

    /// Opens the object store with that of the home region behind it, if one is given.
    pub(crate) fn open_store_with_home(&self) -> Result<Arc<dyn BlobStore>, Failure> {
        let own = self.open_store()?;
        let Some(home) = &self.home_store else {
            return Ok(own);
        };
        let Some(resident) = resident(&self.home_except, self.region.prefix.as_deref()) else {
            return Ok(own);
        };
        let home = self.open(home)?;
        Ok(Arc::new(HomeStore::new(own, home, resident)))
    }

    /// Opens the object store with the region before it: what is written goes to both.
    pub(crate) fn open_store_in_region(&self) -> Result<Arc<dyn BlobStore>, Failure> {
        let store = self.open_store_with_home()?;
        Ok(match self.open_region()? {
            Some(region) => Arc::new(RegionStore::new(store, region)),
            None => store,
        })
    }

    /// Returns a number that other processes do not have.
    pub(crate) fn seed(&self) -> u64 {
        u64::from(std::process::id()) << 42 ^ self.clock.now_ms()
    }

    /// Opens the index that ingests and checks of this root share; waits while another process
    /// uses it.
    pub(crate) async fn open_index(&self) -> Result<Arc<ChunkIndex>, Failure> {
        let path = self.index_path("ingest");
        let mut told = false;
        loop {
            match ChunkIndex::open(&path) {
                Err(IndexError::Busy { .. }) => {
                    if !told {
                        output::note("waiting for another nacre that uses this root's index");
                        told = true;
                    }
                    self.clock.sleep(Duration::from_millis(INDEX_POLL_MS)).await;
                }
                opened => {
                    let object = path.display().to_string();
                    return opened
                        .map(Arc::new)
                        .map_err(Failure::of("open index", &object));
                }
            }
        }
    }

    /// Returns the folder of an index of this store's packs. Each user of it has one: a database
    /// has one process.
    pub(crate) fn index_path(&self, user: &str) -> PathBuf {
        let store = Digest::of(self.store.to_string().as_bytes()).to_string();
        self.root
            .join("index")
            .join(format!("{user}-{}", &store[..16]))
    }

    /// Returns the socket of this root's daemon.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("nacre.sock")
    }

    /// Returns the socket on which containerd asks for snapshots.
    pub(crate) fn snapshotter_socket(&self) -> PathBuf {
        self.root.join("snapshotter.sock")
    }

    /// Returns the name that it had for containerd from 2.3 on in older releases.
    pub(crate) fn former_snapshotter_socket(&self) -> PathBuf {
        self.root.join("snapshotter-directories.sock")
    }

    /// Returns the socket of this root's keeper.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.root.join("keeper.sock")
    }

    /// Returns the file that takes what background processes of this root say.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }
}

/// Returns the folders `except` by their names in this store, which is the folder `prefix` of the
/// one that they are named in; `None` when that folder is in one of them, so all of it stays.
fn resident(except: &[String], prefix: Option<&str>) -> Option<Vec<String>> {
    let above = Path::new(prefix.unwrap_or_default().trim_matches('/'));
    let mut below = Vec::new();
    for folder in except {
        let folder = Path::new(folder.trim_matches('/'));
        if above.starts_with(folder) {
            return None;
        }
        if let Ok(rest) = folder.strip_prefix(above) {
            below.push(rest.display().to_string());
        }
    }
    Some(below)
}

fn parse_url(url: &str) -> Result<StoreUrl, Failure> {
    let parsed = url.parse();
    parsed.map_err(|error: nacre_blobstore::StoreUrlError| {
        Failure::new("use store", url, &error).with_code(USAGE)
    })
}

fn read_file(path: &Path) -> Result<SettingsFile, Failure> {
    let object = path.display().to_string();
    let fail = |error: &dyn std::fmt::Display| {
        Failure::new("read settings", &object, error).with_code(USAGE)
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    toml::from_str(&text).map_err(|error| fail(&error.message()))
}

/// The environment variables that the clouds' own tools read.
fn cloud_environment() -> BTreeMap<String, String> {
    let is_cloud = |name: &str| {
        ["AWS_", "GOOGLE_", "AZURE_", "GCS_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_cloud(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_stay_are_those_of_the_region_s_store() {
        let except = ["eu/".to_owned(), "us/secret".to_owned()];
        let of = |prefix| resident(&except, prefix);
        let all = ["eu", "us/secret"].map(str::to_owned).to_vec();
        assert_eq!(of(None), Some(all));
        for prefix in ["eu", "eu/", "/eu/team", "us/secret"] {
            assert_eq!(of(Some(prefix)), None, "{prefix}");
        }
        assert_eq!(of(Some("us")), Some(vec!["secret".to_owned()]));
        for prefix in ["europe", "asia"] {
            assert_eq!(of(Some(prefix)), Some(Vec::new()), "{prefix}");
        }
    }
}
