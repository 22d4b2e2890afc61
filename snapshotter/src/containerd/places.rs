//! Directories in the root of a container, for what is mounted there.
//!
//! They are made where the container itself would see them made: in an overlay that is mounted for that
//! alone, by paths that are resolved inside of it. What a crash leaves mounted goes with the snapshot's
//! directory.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use nacre_fs::mount::{Lower, OverlaySpec, RootedDir, Umount, overlay, umount};

use super::disk::Disk;
use super::error::SnapshotsError;
use super::mounts::{INDEX_OFF, upper};

/// The folder at which the overlay is mounted, beside the snapshot's files.
const FOLDER: &str = "root";

/// Makes directories at `paths` of the root that snapshot `number` has over `lower`, where there are
/// none. Those that are made are the snapshot's own. Blocks.
///
/// # Errors
/// [`SnapshotsError::Precondition`] when something else is at such a path; the disk's errors.
pub(super) fn make(
    disk: &Disk,
    number: u64,
    lower: Lower,
    paths: &[String],
) -> Result<(), SnapshotsError> {
    if paths.is_empty() {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| {
        SnapshotsError::Internal(format!("look into the root of a snapshot: {error}"))
    };
    let overlaid = match lower.layers.is_empty() {
        true => None,
        false => Some(Overlaid::mount(disk, number, lower).map_err(|error| failed(&*error))?),
    };
    let at = match &overlaid {
        Some(overlaid) => overlaid.target.clone(),
        None => disk.files(number),
    };
    let root = RootedDir::open(&at).map_err(|error| failed(&error))?;
    for path in paths {
        root.create_dir_all(Path::new(path)).map_err(|error| {
            SnapshotsError::Precondition(format!("nothing can be mounted at {path}: {error}"))
        })?;
    }
    Ok(())
}

/// Takes away what a crash left mounted in the directory of a snapshot.
pub(super) fn detach(directory: &Path) {
    // Mostly there is nothing.
    drop(umount(&directory.join(FOLDER), Umount::Detach));
}

/// The root of a snapshot, mounted for a moment: in a folder that only root enters.
struct Overlaid {
    target: PathBuf,
}

impl Overlaid {
    fn mount(disk: &Disk, number: u64, lower: Lower) -> Result<Self, Box<dyn Error>> {
        let upper = upper(disk, number);
        let target = upper.upper.with_file_name(FOLDER);
        fs::create_dir(&target)?;
        // Its end takes the folder away as well.
        let overlaid = Self { target };
        overlay(&OverlaySpec {
            lower,
            upper: Some(upper),
            target: overlaid.target.clone(),
            options: vec![INDEX_OFF.to_owned()],
        })?;
        Ok(overlaid)
    }
}

impl Drop for Overlaid {
    fn drop(&mut self) {
        if let Some(directory) = self.target.parent() {
            detach(directory);
        }
        if let Err(error) = fs::remove_dir(&self.target) {
            tracing::warn!(path = %self.target.display(), %error, "remove a mount point");
        }
    }
}
