//! Docker's `config.json`, as far as it says who to be.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::{Credential, CredentialsError};

/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl ConfigFile {
    /// Reads the file, if it exists.
    pub(super) async fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let text = match read(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialsError::Read { path: path.to_owned(), source }),
            Ok(text) => text,
        };
        let mut config: Self =
            serde_json::from_slice(&text).map_err(|error| malformed(path, &error.to_string()))?;
        config.auths = config.auths.map(by_normalized_key);
        config.cred_helpers = config.cred_helpers.map(by_normalized_key);
        Ok(Some(config))
    }

    /// Returns the helpers to ask for `key`, in order. That for all is asked for hosts only.
    pub(super) fn helpers(&self, key: &str, is_host: bool) -> impl Iterator<Item = &str> {
        let own = self.cred_helpers.as_ref().and_then(|helpers| helpers.get(normalized(key)));
        let for_all = self.creds_store.as_ref().filter(|_| is_host && own.is_none());
        own.into_iter().chain(for_all).map(String::as_str).filter(|helper| !helper.is_empty())
    }

    /// Returns what the file itself holds for `key`. An entry without a secret, as docker leaves
    /// it for what a helper keeps, is none.
    pub(super) fn credential(
        &self,
        key: &str,
        path: &Path,
    ) -> Result<Option<Credential>, CredentialsError> {
        let entry = self.auths.as_ref().and_then(|auths| auths.get(normalized(key))?.as_ref());
        let Some(entry) = entry else { return Ok(None) };
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&entry.registrytoken) {
            return Ok(Some(Credential::Bearer(token)));
        }
        if set(&entry.identitytoken).is_some() {
            return Err(CredentialsError::IdentityToken);
        }
        if let Some(auth) = set(&entry.auth) {
            let message = format!("the entry {key:?} has an auth that is not base64 of user:password");
            return decode(&auth).map(Some).ok_or_else(|| malformed(path, &message));
        }
        let both = set(&entry.username).zip(set(&entry.password));
        Ok(both.map(|(username, password)| Credential::Basic { username, password }))
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text).await?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a configuration"));
    }
    Ok(text)
}

fn malformed(path: &Path, message: &str) -> CredentialsError {
    CredentialsError::Malformed { path: path.to_owned(), message: message.to_owned() }
}

/// Decodes `USER:PASSWORD`. Docker pads the password with NULs and cuts them off again.
fn decode(auth: &str) -> Option<Credential> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    Some(Credential::Basic { username: username.to_owned(), password: password.to_owned() })
}

/// Rewrites keys so that they can be looked up. Of two keys that mean the same host, the one
/// without a scheme counts, which is what is written today.
fn by_normalized_key<T>(map: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let (old, new): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| key.contains("://"));
    old.into_iter().chain(new).map(|(key, value)| (normalized(&key).to_owned(), value)).collect()
}

/// Strips what earlier versions of docker wrote around a host: `https://`, `/v1/` and `/v2/`. All
/// names of Docker Hub, whose historic key is `https://index.docker.io/v1/`, become `docker.io`.
fn normalized(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.strip_suffix('/').unwrap_or(key);
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key,
    }
}
