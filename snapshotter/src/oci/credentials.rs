//! Who to be at a registry, from docker's `config.json` and its credential helpers.
//!
//! The format is docker's (`docker login` writes it), with the keys by repository that podman and
//! skopeo add. Secrets appear in no log, no error and no `Debug` output.

mod config_file;
mod helper;

use std::fmt;
use std::io;
use std::path::PathBuf;

use config_file::ConfigFile;

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A user name and a password, for HTTP basic or in exchange for a token.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ..)"),
            Self::Bearer(_) => f.write_str("Bearer(..)"),
        }
    }
}

/// Why no credential could be found out, where one is configured.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file exists and cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not one that docker writes.
    #[error("{} is malformed: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A credential helper could not be run or gave no sound answer.
    #[error("run {program}: {message}")]
    Helper {
        /// The helper.
        program: String,
        /// What went wrong.
        message: String,
    },
    /// An OAuth refresh token, which would have to be exchanged in a way not known here.
    #[error("the credential is an identity token, use a user name and a password")]
    IdentityToken,
}

/// Finds credentials. Reads the configuration anew each time, as users log in and out.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    config: Option<PathBuf>,
    helpers: Option<PathBuf>,
}

impl CredentialStore {
    /// Reads docker's configuration from the file `config`, where there is one. Helpers are run
    /// from the directory `helpers`, or as the system finds programs.
    pub const fn new(config: Option<PathBuf>, helpers: Option<PathBuf>) -> Self {
        Self { config, helpers }
    }

    /// Finds the credential for a repository. The longest key that is a prefix of
    /// `host/repository` in whole components counts; for one key a helper of its own comes before
    /// the helper for all and that before the file. Without any it is [`Credential::Anonymous`].
    ///
    /// # Errors
    /// [`CredentialsError`], rather than going on as somebody else.
    pub async fn find(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Credential, CredentialsError> {
        let Some(path) = &self.config else { return Ok(Credential::Anonymous) };
        let Some(config) = ConfigFile::read(path).await? else { return Ok(Credential::Anonymous) };
        let mut key = format!("{host}/{repository}");
        loop {
            let is_host = key == host;
            for helper in config.helpers(&key, is_host) {
                if let Some(found) = helper::get(self.helpers.as_deref(), helper, &key).await? {
                    return Ok(found);
                }
            }
            if let Some(found) = config.credential(&key, path)? {
                return Ok(found);
            }
            match key.rsplit_once('/') {
                Some((parent, _)) if !is_host => key.truncate(parent.len()),
                _ => return Ok(Credential::Anonymous),
            }
        }
    }
}
