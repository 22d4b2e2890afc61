//! What containerd is told to mount: plain kernel mounts, which every version of it can make.

use std::path::{Path, PathBuf};

use nacre_fs::mount::{Lower, OverlaySpec, UpperDirs};

use super::disk::Disk;
use super::error::SnapshotsError;
use super::record::Kind;
use super::table::Chain;

/// Lower directories may be mounted elsewhere, copied, and older than an upper.
pub(super) const INDEX_OFF: &str = "index=off";

/// A type of mount that containerd leaves to the kernel.
const UNKNOWN_KIND: &str = "none";

/// A mount, as containerd's `mount.Mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) kind: String,
    pub(super) source: String,
    /// A directory below the root that is mounted before it; empty for that root.
    pub(super) target: String,
    pub(super) options: Vec<String>,
}

impl Mount {
    fn has_data_only_layers(&self) -> bool {
        let mut lower = self.options.iter();
        // A colon of a path is written with a backslash.
        lower.any(|option| option.starts_with("lowerdir=") && option.contains("::"))
    }
}

/// A layer that is served from the store, ready to be mounted.
#[derive(Debug, Clone)]
pub(super) struct OpenedLayer {
    /// The lower side of an overlay that shows it.
    pub(super) lower: Lower,
    /// Where it can be seen by itself, when it is served by FUSE.
    pub(super) view: PathBuf,
}

/// Returns the directories below a snapshot, topmost first, and the data-only layers below these.
pub(super) fn lower(disk: &Disk, chain: &Chain, opened: Option<&OpenedLayer>) -> Lower {
    let directories = chain.directories.iter().map(|number| disk.files(*number));
    let mut lower = Lower {
        layers: directories.collect(),
        data: Vec::new(),
    };
    if let Some(opened) = opened {
        lower.layers.extend(opened.lower.layers.iter().cloned());
        lower.data.clone_from(&opened.lower.data);
    }
    lower
}

/// Returns the mount of snapshot `number` over `lower`: an overlay, or the directory itself where
/// there is nothing to lay over another.
pub(super) fn root(
    disk: &Disk,
    number: u64,
    kind: Kind,
    lower: Lower,
    opened: Option<&OpenedLayer>,
) -> Result<Mount, SnapshotsError> {
    let is_view = kind == Kind::View;
    match (&*lower.layers, &*lower.data) {
        ([], _) => bind(&disk.files(number), is_view),
        ([only], []) if is_view => {
            let is_opened = opened.is_some_and(|opened| opened.lower.top() == only);
            let shown = opened.filter(|_| is_opened);
            bind(shown.map_or(only, |opened| &opened.view), true)
        }
        _ => overlay(lower, (!is_view).then(|| upper(disk, number))),
    }
}

/// Returns all mounts of a snapshot, in order: its root, and what is shown below it.
///
/// containerd from 2.3 on looks for users in the last of the mounts: if that is an overlay it reads
/// the directories itself (its `internal/fsview/mount.go`), and knows no data-only layers. These are
/// followed by a mount of a type that it does not know, so that it mounts all. Nothing comes of
/// that one: all versions leave out a `remount` that changes nothing (`core/mount/mount_linux.go`),
/// as do Kata's shim, which has the same code, and shims in Rust.
pub(super) fn all(root: Mount, shown: Vec<Mount>) -> Vec<Mount> {
    let mut all = vec![root];
    all.extend(shown);
    let last = all.last().filter(|last| last.has_data_only_layers());
    let nothing = last.map(|last| Mount {
        kind: UNKNOWN_KIND.to_owned(),
        source: UNKNOWN_KIND.to_owned(),
        // Whoever unmounts them one by one, the last first, begins here.
        target: last.target.clone(),
        options: vec!["remount".to_owned()],
    });
    all.extend(nothing);
    all
}

/// Returns the mount that shows `opened` at `path` of the root that is mounted before it, read-only.
pub(super) fn shown(path: &str, opened: &OpenedLayer) -> Result<Mount, SnapshotsError> {
    let mount = match (&*opened.lower.layers, &*opened.lower.data) {
        ([_], []) => Mount {
            // So that containerd does not look for users in this one; see `all`. mount(2) does not
            // look at the type of a bind mount.
            kind: UNKNOWN_KIND.to_owned(),
            ..bind(&opened.view, true)?
        },
        _ => overlay(opened.lower.clone(), None)?,
    };
    Ok(Mount {
        target: path.to_owned(),
        ..mount
    })
}

pub(super) fn upper(disk: &Disk, number: u64) -> UpperDirs {
    UpperDirs {
        upper: disk.files(number),
        work: disk.work(number),
    }
}

fn bind(path: &Path, read_only: bool) -> Result<Mount, SnapshotsError> {
    let access = if read_only { "ro" } else { "rw" };
    let source = path.to_str().ok_or_else(|| not_text(path))?;
    Ok(Mount {
        kind: "bind".to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    })
}

fn overlay(lower: Lower, upper: Option<UpperDirs>) -> Result<Mount, SnapshotsError> {
    let spec = OverlaySpec {
        lower,
        upper,
        // For whoever mounts it to say.
        target: PathBuf::new(),
        options: vec![INDEX_OFF.to_owned()],
    };
    let text = |option| String::from_utf8(option).map_err(|_| not_text(Path::new("of a layer")));
    Ok(Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: spec
            .options()
            .into_iter()
            .map(text)
            .collect::<Result<_, _>>()?,
    })
}

fn not_text(path: &Path) -> SnapshotsError {
    SnapshotsError::Internal(format!("the path {} is no text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(layers: &[&str], data: &[&str]) -> Lower {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Lower {
            layers: paths(layers),
            data: paths(data),
        }
    }

    #[test]
    fn nothing_that_containerd_knows_comes_after_data_only_layers() {
        let kernel = overlay(lower(&["/a"], &["/s", "/g"]), None).unwrap();
        let plain = overlay(lower(&["/a::b", "/c"], &[]), None).unwrap();
        let bound = bind(Path::new("/a"), true).unwrap();
        let at = |target: &str, mount: &Mount| Mount {
            target: target.to_owned(),
            ..mount.clone()
        };
        let kinds = |root: &Mount, shown: &[Mount]| -> Vec<String> {
            let all = all(root.clone(), shown.to_vec());
            let kind = |mount: Mount| format!("{}{}", mount.kind, mount.target);
            all.into_iter().map(kind).collect()
        };
        assert_eq!(kinds(&kernel, &[]), ["overlay", "none"]);
        let shown = kinds(&plain, &[at("/b", &bound), at("/k", &kernel)]);
        assert_eq!(shown, ["overlay", "bind/b", "overlay/k", "none/k"]);
        assert_eq!(kinds(&plain, &[]), ["overlay"]);
        assert_eq!(kinds(&bound, &[]), ["bind"]);
    }
}
