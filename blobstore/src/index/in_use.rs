//! Telling why a database cannot be opened, the index or another one.

// RocksDB has no codes for these: they are texts of `PosixFileSystem::LockFile` (its env/fs_posix.cc).
const LOCKED_ELSEWHERE: &str = "IO error: While lock file: ";
const LOCKED_HERE: &str = "IO error: lock hold by current process, ";
const NO_LOCK_FILE: &str = "IO error: while open a file for lock: ";

/// Tells whether a database could not be opened because somebody has it open.
pub(super) fn is_in_use(error: &rocksdb::Error) -> bool {
    let text = error.to_string();
    text.starts_with(LOCKED_ELSEWHERE) || text.starts_with(LOCKED_HERE)
}

/// Tells whether somebody may have the database open that could not be opened: it could not be locked.
pub(crate) fn may_be_in_use(error: &rocksdb::Error) -> bool {
    is_in_use(error) || error.to_string().starts_with(NO_LOCK_FILE)
}

#[cfg(test)]
mod tests {
    use rocksdb::DB;

    use super::{is_in_use, may_be_in_use};

    #[test]
    fn a_lock_is_told_from_what_only_looks_like_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks/db");
        std::fs::create_dir_all(&path).unwrap();
        let open = || DB::open_default(&path);
        let opened = open().unwrap();
        let error = open().unwrap_err();
        assert!(is_in_use(&error) && may_be_in_use(&error));
        drop(opened);
        std::fs::write(path.join("CURRENT"), "nonsense").unwrap();
        let error = open().unwrap_err();
        assert!(!is_in_use(&error) && !may_be_in_use(&error));
        // Whose lock cannot be made is not free either.
        std::fs::remove_file(path.join("LOCK")).unwrap();
        std::fs::create_dir(path.join("LOCK")).unwrap();
        let error = open().unwrap_err();
        assert!(!is_in_use(&error) && may_be_in_use(&error));
    }
}
