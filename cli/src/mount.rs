//! `nacre mount` and `nacre umount`: an image on a directory of the host.

use std::path::{Path, PathBuf};

use nacre_blobstore::Digest;
use nacre_fs::mount::{
    Lower, OverlaySpec, Umount as How, UpperDirs, bind, copy_root_attributes, is_mount_point,
    overlay, umount as unmount,
};

use nacre_snapshotter::MountMode;

use crate::args::{Mount, Umount};
use crate::failure::{BUSY, Failure, NOT_FOUND};
use crate::node;
use crate::output;
use crate::settings::Settings;

pub(crate) async fn mount(settings: &Settings, arguments: &Mount) -> Result<(), Failure> {
    let began = settings.clock.elapsed();
    let target = absolute(&arguments.directory)?;
    let object = format!("{} on {}", arguments.name, target.display());
    let fail = |error: &dyn std::fmt::Display| Failure::new("mount", &object, error);
    if is_mount_point(&target).map_err(|error| fail(&error))? {
        return Err(fail(&"something is mounted there").with_code(BUSY));
    }
    let opened = node::open_image(settings, &arguments.name, arguments.mode.wanted())
        .await?
        .map_err(Failure::of("mount", &object))?;
    if !arguments.rw && opened.mode == MountMode::Fuse {
        bind(&opened.view, &target, true).map_err(|error| fail(&error))?;
    } else {
        let upper = if arguments.rw {
            let upper = upper(settings, &target, &opened.lower);
            Some(upper.map_err(|error| fail(&error))?)
        } else {
            None
        };
        let spec = OverlaySpec {
            lower: opened.lower,
            upper,
            target,
            options: Vec::new(),
        };
        overlay(&spec).map_err(|error| fail(&error))?;
    }
    let seconds = settings.clock.elapsed().saturating_sub(began).as_secs_f64();
    if settings.json {
        let report = serde_json::json!({
            "mode": opened.mode, "image": opened.image, "tree": opened.tree, "seconds": seconds,
        });
        return output::json(&report);
    }
    output::line(&format!("mounted {object} in {:.0} ms", seconds * 1000.0))
}

pub(crate) fn umount(settings: &Settings, arguments: &Umount) -> Result<(), Failure> {
    let target = absolute(&arguments.directory)?;
    let object = target.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("unmount", &object, error);
    if !is_mount_point(&target).map_err(|error| fail(&error))? {
        return Err(fail(&"nothing is mounted there").with_code(NOT_FOUND));
    }
    unmount(&target, How::IfIdle).map_err(|error| {
        let busy = matches!(error, nacre_fs::mount::MountError::Busy { .. });
        if busy {
            fail(&error).with_code(BUSY)
        } else {
            fail(&error)
        }
    })?;
    match std::fs::remove_dir_all(scratch(settings, &target)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(&error)),
        _ if settings.json => output::json(&serde_json::json!({ "unmounted": object })),
        _ => Ok(()),
    }
}

/// Makes the directories that take the writes to a mount.
fn upper(settings: &Settings, target: &Path, lower: &Lower) -> std::io::Result<UpperDirs> {
    let scratch = scratch(settings, target);
    let dirs = UpperDirs {
        upper: scratch.join("upper"),
        work: scratch.join("work"),
    };
    for directory in [&dirs.upper, &dirs.work] {
        std::fs::create_dir_all(directory)?;
    }
    copy_root_attributes(lower.top(), &dirs.upper)?;
    Ok(dirs)
}

/// Where the writes to a mount go.
fn scratch(settings: &Settings, target: &Path) -> PathBuf {
    let name = Digest::of(target.as_os_str().as_encoded_bytes()).to_string();
    settings.root.join("mounts").join(name)
}

fn absolute(directory: &Path) -> Result<PathBuf, Failure> {
    directory
        .canonicalize()
        .map_err(|error| Failure::new("use directory", &directory.display().to_string(), &error))
}
