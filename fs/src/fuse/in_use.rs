//! Where a FUSE file system is mounted, and whether anything but its own mount point uses it.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nacre_blobstore::Digest;

/// Bytes of a list of mounts that are looked at; one that is longer counts as a use.
const MOUNTINFO_BYTES_MAX: u64 = 64 << 20;

/// Tells whether the file system with the device number `device`, mounted at `mount_point`, is
/// mounted elsewhere too or lies below an overlay, in any mount namespace of a process that can be
/// seen. What cannot be told counts as a use. Open files are no matter of this.
pub(super) fn is_in_use(device: u64, mount_point: &Path) -> bool {
    let mut seen = HashSet::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    for process in processes.flatten() {
        let is_process = process.file_name().as_bytes()[0].is_ascii_digit();
        // Gone, or a kernel thread's: those that live in the first namespace are not the only ones.
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else {
            continue;
        };
        if is_process
            && seen.insert(namespace)
            && let Ok(file) = fs::File::open(process.path().join("mountinfo"))
        {
            let mut text = Vec::new();
            let read = file.take(MOUNTINFO_BYTES_MAX).read_to_end(&mut text);
            let is_whole = read.is_ok_and(|len| (len as u64) < MOUNTINFO_BYTES_MAX);
            if !is_whole || names_use(&text, device, mount_point) {
                return true;
            }
        }
    }
    seen.is_empty()
}

/// Tells whether the topmost mount at `mount_point` is of the file system `device`. Asks nothing of
/// the file system, which may have no daemon.
pub(super) fn is_mounted_at(device: u64, mount_point: &Path) -> bool {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let own = escape(mount_point.as_os_str().as_bytes());
    let lines = text.split(|byte| *byte == b'\n');
    let mut devices = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (numbers, point) = (fields.nth(2)?, fields.nth(1)?);
        (point == own).then_some(numbers)
    });
    devices.next_back() == Some(&numbers(device))
}

/// Writes a device number as the list of mounts does.
fn numbers(device: u64) -> Vec<u8> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("{major}:{minor}").into_bytes()
}

/// Looks for a use in a list of mounts (proc_pid_mountinfo(5)).
fn names_use(text: &[u8], device: u64, mount_point: &Path) -> bool {
    let device = numbers(device);
    // Copies of the mount itself in other namespaces are none: every new namespace has one.
    let own = escape(mount_point.as_os_str().as_bytes());
    text.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (found, root, point) = (fields.nth(2), fields.next(), fields.next());
        if found == Some(&device) {
            return root != Some(b"/") || point != Some(&own);
        }
        let mut fields = fields.skip_while(|field| *field != b"-");
        fields.nth(1) == Some(b"overlay") && fields.any(|options| has_layer(options, &own))
    })
}

/// Tells whether an overlay has a layer below `folder`. Of layers relative to a directory that nobody
/// knows any more, those that may be: by the folder's name, or a tree's id.
fn has_layer(options: &[u8], folder: &[u8]) -> bool {
    let name = folder.rsplit(|byte| *byte == b'/').next().unwrap_or(folder);
    let is_id = |part: &[u8]| part.len() == 2 * Digest::LEN && part.is_ascii();
    let is_below = |layer: &[u8]| match layer.first() {
        None => false,
        Some(b'/') => layer.starts_with(folder),
        Some(_) => layer
            .split(|byte| *byte == b'/')
            .any(|part| part == name || is_id(part)),
    };
    let layers = options.split(|byte| *byte == b',').filter_map(|option| {
        let (name, value) = option.split_at(option.iter().position(|b| *b == b'=')?);
        let lists_layers = name.starts_with(b"lowerdir") || name.starts_with(b"datadir");
        lists_layers.then_some(&value[1..])
    });
    layers
        .flat_map(|layers| layers.split(|byte| *byte == b':'))
        .any(is_below)
}

/// Escapes as the kernel does in its list of mounts.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            escaped.extend(format!("\\{byte:03o}").bytes());
        } else {
            escaped.push(*byte);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_and_overlays_are_uses_and_the_mount_itself_is_none() {
        let device = rustix::fs::makedev(0, 49);
        let own = "36 25 0:49 / /r\\040x/content ro,noatime shared:1 - fuse.nacre nacre ro\n";
        let uses = |more: &str| {
            let text = format!("25 1 8:1 / / rw - ext4 /dev/vda rw\n{own}{more}");
            names_use(text.as_bytes(), device, Path::new("/r x/content"))
        };
        assert!(!uses(""));
        assert!(!uses(
            "40 25 0:50 / /mnt rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c\n"
        ));
        assert!(!uses("40 25 0:50 / /mnt rw - tmpfs /r\\040x/content rw\n"));
        assert!(uses("40 25 0:49 /trees/ab /mnt ro - fuse.nacre nacre ro\n"));
        assert!(uses("40 25 0:49 / /elsewhere ro - fuse.nacre nacre ro\n"));
        let overlay = "40 25 0:50 / /mnt rw - overlay overlay rw,lowerdir=/e::/s::";
        assert!(uses(&format!("{overlay}/r\\040x/content/content::/a\n")));
        assert!(uses(&format!("{overlay}content/content\n")));
        assert!(uses(&format!("{overlay}{}\n", "0".repeat(64))));
        assert!(!uses(&format!("{overlay}layers/1\n")));
    }
}
