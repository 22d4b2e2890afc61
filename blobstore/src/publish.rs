//! Publishing a file: the one place that renames.
//!
//! A published file is there wholly or not at all, whatever dies on the way, and survives a power
//! loss once the call returns: write a staging file in the same directory, fsync it, give it its
//! name, fsync the directory.
//!
//! A staging file is called `#` and 16 hexadecimal digits. Its writer holds an exclusive `flock`
//! on it, so one that a dead writer left behind can be told from one being written
//! ([`reap_staging`]) without looking at a clock.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// First byte of a staging file's name; no object key and no id has it.
const STAGING_MARK: u8 = b'#';
/// Hexadecimal digits after [`STAGING_MARK`].
const STAGING_DIGITS: usize = 16;

/// Writes `bytes` to `path`, replacing the file that is there.
///
/// # Errors
/// Those of the file system. The old file, if any, is then still there, unless only the last step
/// went wrong (fsync of the directory): in that case `path` may have either content.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staging = Staging::write(path, bytes)?;
    rename(&staging.path, path)?;
    sync_directory(parent(path)?)
}

/// Writes `bytes` to `path`, which must not exist; of several racing callers exactly one succeeds.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or those of the file system as for [`publish`].
pub fn publish_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staging = Staging::write(path, bytes)?;
    std::fs::hard_link(&staging.path, path)?;
    drop(staging);
    sync_directory(parent(path)?)
}

/// Gives a file that is complete the name `path`, replacing the file that is there. Both names must be
/// on one file system.
///
/// # Errors
/// Those of the file system, as for [`publish`].
pub fn publish_file(file: &Path, path: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    rename(file, path)?;
    sync_directory(parent(path)?)
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Tells whether a file of this name is a staging file.
pub fn is_staging(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .split_first()
        .is_some_and(|(mark, digits)| {
            *mark == STAGING_MARK
                && digits.len() == STAGING_DIGITS
                && digits.iter().all(u8::is_ascii_hexdigit)
        })
}

/// Removes a staging file if its writer is dead, and tells whether it did.
///
/// A writer that has created its file but not yet locked it may lose it; its [`publish`] then ends
/// in an error and has changed nothing.
///
/// # Errors
/// Those of the file system. A file that is gone by now is no error.
pub fn reap_staging(path: &Path) -> io::Result<bool> {
    let reap = || {
        let file = File::open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => std::fs::remove_file(path).map(|()| true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    match reap() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome,
    }
}

/// A staging file, complete and synced. Dropping it removes the name, which after a rename is gone
/// already.
struct Staging {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

impl Staging {
    fn write(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let path = parent(target)?.join(format!("#{random:016x}"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let mut staging = Self { path, file };
        rustix::fs::flock(&staging.file, FlockOperation::NonBlockingLockExclusive)?;
        staging.file.write_all(bytes)?;
        staging.file.sync_all()?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(path = %self.path.display(), %error, "staging file stays behind");
            }
            _ => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that renames")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// The directory that holds `path`; `.` for a bare name.
fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "path has no parent directory",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect()
    }

    #[test]
    fn publishing_replaces_whole_files_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        publish(&path, b"long first content").unwrap();
        publish(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(
            publish_new(&path, b"x").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_file_that_is_published_has_its_new_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let [file, path] = ["made", "file"].map(|name| directory.path().join(name));
        publish(&path, b"first").unwrap();
        std::fs::write(&file, b"second").unwrap();
        publish_file(&file, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names(directory.path()), ["file"]);
        assert!(publish_file(&file, &path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn a_failed_rename_removes_the_staging_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        publish(&path, b"x").unwrap_err();
        assert_eq!(names(directory.path()), ["folder"]);
    }

    #[test]
    fn only_staging_files_of_dead_writers_are_reaped() {
        let directory = tempfile::tempdir().unwrap();
        let alive = Staging::write(&directory.path().join("file"), b"x").unwrap();
        assert!(is_staging(alive.path.file_name().unwrap()));
        assert!(!reap_staging(&alive.path).unwrap());
        let dead = directory.path().join("#0123456789abcdef");
        std::fs::write(&dead, b"half").unwrap();
        assert!(reap_staging(&dead).unwrap());
        assert!(!reap_staging(&dead).unwrap(), "gone is no error");
        assert_eq!(names(directory.path()), [alive.path.file_name().unwrap()]);
        for real in [
            "file",
            "#lock",
            "#",
            "#0123456789abcdeg",
            "0123456789abcdef0",
        ] {
            assert!(!is_staging(OsStr::new(real)), "{real}");
        }
    }
}
