//! Whether this kernel can serve trees by itself, found out by doing it once.

use std::fs;
use std::path::Path;

use nacre_blobstore::{Attributes, ContentId, Digest};

use crate::erofs::{ImageBuilder, ImageEntry, ImageInode};
use crate::mount::{Lower, OverlaySpec, Umount, metadata, mounts_below, overlay, umount};

/// What the trial file holds.
const TRIAL: &[u8] = b"served by the kernel";

/// Mounts a metadata image of one file under two data-only layers, puts the file's content into
/// the second only after that, and reads it through the overlay: all that kernel mode rests on
/// (Linux 6.5 for data-only layers; changes below a mounted overlay are documented as undefined).
///
/// Works below `scratch`, an empty directory that no one else uses, and needs `CAP_SYS_ADMIN`.
/// Takes some milliseconds and leaves nothing behind.
///
/// # Errors
/// The reason, for people, why trees must be served by FUSE.
pub fn probe_kernel_mode(scratch: &Path) -> Result<(), String> {
    clean(scratch)?;
    let tried = try_once(scratch);
    clean(scratch)?;
    tried
}

fn try_once(scratch: &Path) -> Result<(), String> {
    let because = |what: &'static str| move |error| format!("{what}: {error}");
    let folder = |name: &str| {
        let path = scratch.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let make = |name| folder(name).map_err(|error| format!("no directory for a trial: {error}"));
    let (names, near, far, merged) = (make("names")?, make("near")?, make("far")?, make("merged")?);

    let content = ContentId::new(Digest::of(TRIAL));
    let image = scratch.join("image");
    fs::write(&image, trial_image(content)?).map_err(because_io("no file for a trial"))?;
    metadata(&image, &names).map_err(because("no EROFS from a file"))?;
    let spec = OverlaySpec {
        lower: Lower {
            layers: vec![names],
            data: vec![near, far.clone()],
        },
        upper: None,
        target: merged.clone(),
        options: Vec::new(),
    };
    overlay(&spec).map_err(because("no overlayfs with data-only layers"))?;
    // Asked for once in vain: the kernel must look again.
    drop(fs::read(merged.join("file")));
    let hex = content.to_string();
    let (shard, rest) = hex.split_at(2);
    let put = || {
        fs::create_dir(far.join(shard))?;
        fs::write(far.join(shard).join(rest), TRIAL)
    };
    put().map_err(because_io("no file for a trial"))?;
    match fs::read(merged.join("file")) {
        Ok(bytes) if bytes == TRIAL => Ok(()),
        Ok(_) => Err("overlayfs reads wrong bytes from a data-only layer".to_owned()),
        Err(error) => Err(format!(
            "overlayfs does not see what a data-only layer gained: {error}"
        )),
    }
}

fn because_io(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn trial_image(content: ContentId) -> Result<Vec<u8>, String> {
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let (mut image, root) = ImageBuilder::new([0; 16], &attributes);
    let file = ImageEntry {
        name: b"file",
        attributes: &attributes,
        inode: ImageInode::File {
            content,
            size_bytes: TRIAL.len() as u64,
        },
        hard_link: None,
    };
    image
        .write_directory(root, &[file])
        .map_err(|error| error.to_string())?;
    Ok(image.finish())
}

/// Removes what a trial that was interrupted left.
fn clean(scratch: &Path) -> Result<(), String> {
    let gone = || -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(scratch)?;
        let scratch = scratch.canonicalize()?;
        for point in mounts_below(&scratch)? {
            umount(&point, Umount::Detach)?;
        }
        for entry in fs::read_dir(scratch)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    };
    gone().map_err(|error| format!("no place for a trial: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root and Linux 6.12, as `make test` has.
    #[test]
    fn this_kernel_serves_trees_and_the_trial_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("trial");
        assert_eq!(probe_kernel_mode(&path), Ok(()));
        assert_eq!(probe_kernel_mode(&path), Ok(()), "twice");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(
            mounts_below(&path.canonicalize().unwrap())
                .unwrap()
                .is_empty()
        );
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(probe_kernel_mode(&path).unwrap_err().contains("trial"));
    }
}
