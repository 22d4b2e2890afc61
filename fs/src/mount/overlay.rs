//! Overlay mounts by mount(2).

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::{Lower, MountError, options_text};

/// Longest option string, in bytes: mount(2) copies one page, and the kernel wants its NUL.
pub(super) const OPTIONS_BYTES_MAX: usize = 4095;

/// An overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySpec {
    /// The layers that are only read.
    pub lower: Lower,
    /// The directory that takes the writes, and overlayfs' work directory on the same file system;
    /// without it the mount is read-only.
    pub upper: Option<UpperDirs>,
    /// Where to mount it.
    pub target: PathBuf,
    /// Further options of overlayfs, such as `metacopy=off`, taken as they are.
    pub options: Vec<String>,
}

/// The writable side of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpperDirs {
    /// Takes the writes.
    pub upper: PathBuf,
    /// Empty scratch directory on the same file system as `upper`; not to be shared.
    pub work: PathBuf,
}

impl OverlaySpec {
    /// Returns the options, to be joined with commas: what they hold of these is escaped.
    pub fn options(&self) -> Vec<Vec<u8>> {
        let mut lower = b"lowerdir=".to_vec();
        for (i, layer) in self.lower.layers.iter().enumerate() {
            if i > 0 {
                lower.push(b':');
            }
            push_escaped(&mut lower, layer);
        }
        for layer in &self.lower.data {
            lower.extend(b"::");
            push_escaped(&mut lower, layer);
        }
        let mut options = vec![lower];
        if !self.lower.data.is_empty() {
            // What overlayfs asks for to look at data-only layers at all; it brings redirects.
            options.push(b"metacopy=on".to_vec());
        }
        if let Some(dirs) = &self.upper {
            for (name, path) in [(&b"upperdir="[..], &dirs.upper), (b"workdir=", &dirs.work)] {
                let mut option = name.to_vec();
                push_escaped(&mut option, path);
                options.push(option);
            }
        }
        let further = self
            .options
            .iter()
            .map(|option| option.clone().into_bytes());
        options.extend(further);
        options
    }

    /// Returns the option string for mount(2).
    pub(super) fn option_bytes(&self) -> Vec<u8> {
        self.options().join(&b',')
    }
}

/// Appends a path; overlayfs splits options at `,` and lower directories at `:`, and takes the
/// byte after a backslash literally (`ovl_next_opt`, `ovl_parse_param_split_lowerdirs`).
fn push_escaped(options: &mut Vec<u8>, path: &Path) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            options.push(b'\\');
        }
        options.push(byte);
    }
}

/// Mounts an overlay.
///
/// # Errors
/// [`MountError::Options`] when the paths do not fit into one page; [`MountError::Kernel`]
/// (`ELOOP` for a layer that occurs twice, `EBUSY` for an upper in use).
pub fn overlay(spec: &OverlaySpec) -> Result<(), MountError> {
    let options = options_text(&spec.target, spec.option_bytes())?;
    let flags = if spec.upper.is_some() {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    mount(
        c"overlay",
        &spec.target,
        c"overlay",
        flags,
        options.as_c_str(),
    )
    .map_err(|errno| MountError::kernel("mount overlay at", &spec.target, errno))
}
