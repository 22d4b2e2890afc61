//! Credentials for registries, from docker's `config.json` or podman's `auth.json`.
//!
//! Both have the same format (docker-config-json(5), containers-auth.json(5)). For a repository
//! the most specific key counts: `host/team/app`, then `host/team`, then `host`. A credential
//! helper named for a host in `credHelpers` comes first, then what `auths` holds, then the helper
//! for all hosts (`credsStore`).

mod helper;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Largest config file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Docker Hub, as references name it.
const DOCKER_HUB: &str = "docker.io";

/// Docker Hub, as `docker login` has named it since before it had a second API.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A user's name and password, or a token in place of the password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth refresh token, to be exchanged for an access token.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Password { username, .. } => write!(f, "Password({username:?}, redacted)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(redacted)"),
        }
    }
}

/// Why credentials cannot be found out. Names no secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not such a config.
    #[error("{} is not a docker config: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The entry for the registry cannot be understood.
    #[error("the auth entry for {0:?} is neither base64 of user:password nor a token")]
    Entry(String),
    /// A credential helper cannot be run or does not answer as it should.
    #[error("credential helper {program:?}: {message}")]
    Helper {
        /// The helper.
        program: String,
        /// The cause.
        message: String,
    },
}

/// Where credentials are looked up.
#[derive(Clone, Default)]
pub struct CredentialStore {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
    helper_directory: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    auths: Option<HashMap<String, AuthEntry>>,
    cred_helpers: Option<HashMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Clone, Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl CredentialStore {
    /// Returns a store that knows no credentials.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Reads a config file. One that does not exist holds no credentials. Blocks.
    ///
    /// # Errors
    /// [`CredentialsError::Read`] and [`CredentialsError::Malformed`].
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let read_error = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        let malformed = |message| CredentialsError::Malformed {
            path: path.to_owned(),
            message,
        };
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(read_error)?,
        };
        let mut json = Vec::new();
        let mut bounded = io::Read::take(file, FILE_BYTES_MAX + 1);
        io::Read::read_to_end(&mut bounded, &mut json).map_err(read_error)?;
        if json.len() as u64 > FILE_BYTES_MAX {
            return Err(malformed(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        let config: ConfigFile =
            serde_json::from_slice(&json).map_err(|error| malformed(redacted(&error)))?;
        Ok(Self {
            auths: normalized(config.auths),
            cred_helpers: normalized(config.cred_helpers),
            creds_store: config.creds_store.filter(|name| !name.is_empty()),
            helper_directory: None,
        })
    }

    /// Runs credential helpers from `directory` and not from the search path.
    #[must_use]
    pub fn with_helper_directory(mut self, directory: PathBuf) -> Self {
        self.helper_directory = Some(directory);
        self
    }

    /// Returns the credentials for a repository. May run a credential helper.
    ///
    /// # Errors
    /// [`CredentialsError::Entry`] and [`CredentialsError::Helper`].
    pub async fn find(&self, host: &str, repository: &str) -> Result<Credential, CredentialsError> {
        let full = format!("{}/{repository}", host_name(host));
        if let Some((key, name)) = most_specific(&self.cred_helpers, &full) {
            return self.ask_helper(name, key).await;
        }
        if let Some((key, entry)) = most_specific(&self.auths, &full) {
            let credential = entry.credential(key)?;
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        match &self.creds_store {
            Some(name) => self.ask_helper(name, host_name(host)).await,
            None => Ok(Credential::Anonymous),
        }
    }

    async fn ask_helper(&self, name: &str, key: &str) -> Result<Credential, CredentialsError> {
        let server = if key == DOCKER_HUB {
            DOCKER_HUB_KEY
        } else {
            key
        };
        helper::get(name, self.helper_directory.as_deref(), server).await
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialStore")
            .field("auths", &self.auths.keys())
            .field("cred_helpers", &self.cred_helpers)
            .field("creds_store", &self.creds_store)
            .finish_non_exhaustive()
    }
}

impl AuthEntry {
    fn credential(&self, key: &str) -> Result<Credential, CredentialsError> {
        let set = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Credential::IdentityToken(token));
        }
        if let Some(auth) = set(&self.auth) {
            let invalid = || CredentialsError::Entry(key.to_owned());
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| invalid())?;
            let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
            let (username, password) = decoded.split_once(':').ok_or_else(invalid)?;
            // Docker has padded passwords with NULs.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Credential::Password {
                username: username.to_owned(),
                password,
            });
        }
        Ok(match (set(&self.username), set(&self.password)) {
            (Some(username), Some(password)) => Credential::Password { username, password },
            _ => Credential::Anonymous,
        })
    }
}

/// Says where a JSON text is wrong but not what is there: that may be a secret.
fn redacted(error: &serde_json::Error) -> String {
    format!("wrong at line {} column {}", error.line(), error.column())
}

/// Rewrites the keys of a config to `host[/path]`.
fn normalized<T>(entries: Option<HashMap<String, T>>) -> HashMap<String, T> {
    let entries = entries.unwrap_or_default().into_iter();
    entries
        .map(|(key, entry)| (key_name(&key), entry))
        .collect()
}

/// Strips what old versions of docker wrote around a host: a scheme, and an API version as path.
fn key_name(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let bare = bare.unwrap_or(key).trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare.split_once('/') {
        Some((host, path)) => format!("{}/{path}", host_name(host)),
        None => host_name(bare).to_owned(),
    }
}

/// Returns the one name of a host that has several.
fn host_name(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    }
}

/// Finds the longest prefix of `full`, cut at slashes, that is a key.
fn most_specific<'a, T>(
    entries: &'a HashMap<String, T>,
    full: &str,
) -> Option<(&'a String, &'a T)> {
    let mut prefix = full;
    loop {
        if let Some(found) = entries.get_key_value(prefix) {
            return Some(found);
        }
        prefix = prefix.rsplit_once('/')?.0;
    }
}

#[cfg(test)]
mod tests;
