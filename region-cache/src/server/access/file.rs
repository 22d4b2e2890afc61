//! The token file, read again when it changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::{Grant, Refusal, TokenFileError, Tokens};

/// Largest token file, in bytes.
const TOKENS_BYTES_MAX: u64 = 1 << 20;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("read token file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// It is not in the format.
    #[error(transparent)]
    Format(#[from] TokenFileError),
}

/// Tells one state of a file from another.
type Seen = (SystemTime, u64);

/// A token file and what it says.
#[derive(Debug)]
pub(in crate::server) struct TokenFile {
    path: PathBuf,
    state: Mutex<(Seen, Arc<Tokens>)>,
}

impl TokenFile {
    /// Reads the file.
    pub(in crate::server) fn open(path: &Path) -> Result<Self, TokensError> {
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(read(path)?),
        })
    }

    /// Returns what the token of an `Authorization` header grants.
    pub(in crate::server) fn grant(
        &self,
        authorization: Option<&[u8]>,
    ) -> Result<Arc<Grant>, Refusal> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = Arc::clone(&state.1);
        drop(state);
        tokens.grant(authorization)
    }

    /// Reads the file again if it changed. One that is gone or wrong leaves what was known.
    pub(in crate::server) fn refresh(&self) {
        let seen = std::fs::metadata(&self.path).and_then(|metadata| seen(&metadata));
        let known = self.state.lock().unwrap_or_else(PoisonError::into_inner).0;
        if seen.is_ok_and(|seen| seen == known) {
            return;
        }
        match read(&self.path) {
            Ok(read) => {
                tracing::info!(path = %self.path.display(), "tokens changed");
                *self.state.lock().unwrap_or_else(PoisonError::into_inner) = read;
            }
            Err(error) => tracing::warn!(%error, "keep the tokens that were known"),
        }
    }
}

fn seen(metadata: &std::fs::Metadata) -> io::Result<Seen> {
    Ok((metadata.modified()?, metadata.len()))
}

fn read(path: &Path) -> Result<(Seen, Arc<Tokens>), TokensError> {
    let fail = |source| TokensError::Io {
        path: path.display().to_string(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    let seen = file
        .metadata()
        .and_then(|metadata| seen(&metadata))
        .map_err(fail)?;
    let mut text = String::new();
    let read = file
        .take(TOKENS_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(fail)?;
    if read as u64 > TOKENS_BYTES_MAX {
        return Err(fail(io::ErrorKind::FileTooLarge.into()));
    }
    Ok((seen, Arc::new(Tokens::parse(&text)?)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn changes_are_seen_and_wrong_files_are_not_taken() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, "a first-token-of-all r *\n").unwrap();
        let file = TokenFile::open(&path).unwrap();
        let known = |token: &str| {
            let header = format!("Bearer {token}");
            file.grant(Some(header.as_bytes())).is_ok()
        };
        assert!(known("first-token-of-all"));
        std::fs::write(&path, "a second-token-of-them-all r *\n").unwrap();
        file.refresh();
        assert!(known("second-token-of-them-all") && !known("first-token-of-all"));
        std::fs::write(&path, "a short r *\n").unwrap();
        file.refresh();
        assert!(known("second-token-of-them-all"));
        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert!(known("second-token-of-them-all"));
        assert!(TokenFile::open(&path).is_err());
    }
}
