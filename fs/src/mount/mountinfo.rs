//! The kernel's list of mounts (proc_pid_mountinfo(5)).

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::MountError;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Index of the device number among the fields of a line.
const DEVICE_FIELD: usize = 2;
/// Index of the mount point among the fields of a line.
const MOUNT_POINT_FIELD: usize = 4;

/// Returns all mount points, oldest first.
pub(super) fn mount_points() -> Result<Vec<PathBuf>, MountError> {
    Ok(parse(&read()?))
}

/// An overlay, at one of the places where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The device number of its directories.
    pub device: u64,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Its options, as the kernel writes them: its layers are among them.
    pub options: String,
}

impl Overlay {
    /// Tells whether the whole file system refuses writes.
    pub(super) fn is_read_only(&self) -> bool {
        self.options.split(',').next() == Some("ro")
    }
}

/// Returns each overlay once.
pub(super) fn overlays() -> Result<Vec<Overlay>, MountError> {
    Ok(parse_overlays(&read()?))
}

fn read() -> Result<Vec<u8>, MountError> {
    std::fs::read(MOUNTINFO).map_err(|source| MountError::Mountinfo {
        path: MOUNTINFO,
        source,
    })
}

/// After the field `-` come the type, the source and the options of the file system.
pub(super) fn parse_overlays(text: &[u8]) -> Vec<Overlay> {
    let mut seen = HashSet::new();
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_overlay)
        .filter(|overlay| seen.insert(overlay.device))
        .collect()
}

fn parse_overlay(line: &[u8]) -> Option<Overlay> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(DEVICE_FIELD)?).ok()?;
    let target = fields.nth(MOUNT_POINT_FIELD - DEVICE_FIELD - 1)?;
    let mut fields = fields.skip_while(|field| *field != b"-");
    let kind = fields.nth(1)?;
    let options = fields.nth(1)?;
    let (major, minor) = device.split_once(':')?;
    (kind == b"overlay").then_some(Overlay {
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        target: PathBuf::from(OsString::from_vec(unescape(target))),
        options: String::from_utf8_lossy(options).into_owned(),
    })
}

/// A line without the field is left out: there is nothing to umount then.
pub(super) fn parse(text: &[u8]) -> Vec<PathBuf> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(MOUNT_POINT_FIELD))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash. What is not three octal
/// digits of one byte stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.first_chunk::<3>()).flatten();
        if let Some(value) = octal.and_then(octal_byte) {
            plain.push(value);
            rest = &after[3..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

fn octal_byte(digits: &[u8; 3]) -> Option<u8> {
    let value = digits.iter().try_fold(0_u16, |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| value * 8 + u16::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}
