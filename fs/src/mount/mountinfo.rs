//! The kernel's list of mounts (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::MountError;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Index of the mount point among the fields of a line.
const MOUNT_POINT_FIELD: usize = 4;

/// Returns all mount points, oldest first.
pub(super) fn mount_points() -> Result<Vec<PathBuf>, MountError> {
    Ok(parse(&read()?))
}

/// Returns the options of all overlay mounts, as the kernel writes them: their layers are among them.
pub(super) fn overlay_options() -> Result<Vec<String>, MountError> {
    Ok(parse_overlays(&read()?))
}

fn read() -> Result<Vec<u8>, MountError> {
    std::fs::read(MOUNTINFO).map_err(|source| MountError::Mountinfo {
        path: MOUNTINFO,
        source,
    })
}

/// After the field `-` come the type, the source and the options of the file system.
pub(super) fn parse_overlays(text: &[u8]) -> Vec<String> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line
                .split(|byte| *byte == b' ')
                .skip_while(|field| *field != b"-");
            let kind = fields.nth(1)?;
            let options = fields.nth(1)?;
            (kind == b"overlay").then(|| String::from_utf8_lossy(options).into_owned())
        })
        .collect()
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
