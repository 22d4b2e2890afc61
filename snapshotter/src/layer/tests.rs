//! Both producers against each other: what GNU tar makes of a directory, in every format it has,
//! reads like the directory itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::*;

/// Reads a layer to its end: every entry with its data.
pub(super) fn read_all(
    source: &mut impl EntrySource,
) -> Result<Vec<(LayerEntry, Vec<u8>)>, LayerError> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 300_000];
    while let Some(entry) = source.next_entry()? {
        let mut data = Vec::new();
        loop {
            match source.read_data(&mut buffer)? {
                0 => break,
                len => data.extend_from_slice(&buffer[..len]),
            }
        }
        if let EntryKind::File { size_bytes } = entry.kind {
            assert_eq!(data.len() as u64, size_bytes, "{:?}", entry.path);
        } else {
            assert!(data.is_empty(), "{:?}", entry.path);
        }
        all.push((entry, data));
    }
    assert!(source.next_entry()?.is_none(), "the end stays the end");
    Ok(all)
}

fn read_directory(directory: &Path) -> Vec<(LayerEntry, Vec<u8>)> {
    let limits = LayerLimits::default();
    read_all(&mut DirectoryReader::open(directory, "dir", limits).unwrap()).unwrap()
}

fn read_tar(bytes: &[u8]) -> Vec<(LayerEntry, Vec<u8>)> {
    read_all(&mut TarReader::new(bytes, "tar", LayerLimits::default())).unwrap()
}

fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--sort=name", "--numeric-owner", "--file=-"])
        .args(options)
        .arg("--directory")
        .arg(directory)
        .arg(".")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Writes what every format can hold: short names, whole seconds, small ids, no devices.
fn write_plain(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/tool"), vec![7; 1_000_000]).unwrap();
    fs::write(root.join("usr/block"), vec![1; 512]).unwrap();
    fs::write(root.join("usr/empty"), b"").unwrap();
    fs::write(root.join("usr.conf"), b"sorts after usr/ by components").unwrap();
    fs::hard_link(root.join("usr/block"), root.join("usr/linked")).unwrap();
    symlink("../usr", root.join("usr/self")).unwrap();
    for path in [
        "usr/bin/tool",
        "usr/block",
        "usr/empty",
        "usr.conf",
        "usr/self",
        "usr/bin",
    ] {
        set_times(&root.join(path), 1_700_000_000, 0);
    }
    let mode = Mode::from_raw_mode(0o4751);
    rustix::fs::chmod(root.join("usr/bin/tool"), mode).unwrap();
    rustix::fs::chmod(root.join("usr"), Mode::from_raw_mode(0o1777)).unwrap();
    set_times(&root.join("usr"), 1, 0);
    set_times(root, 1_700_000_001, 0);
}

/// Adds what only the GNU and PAX formats hold: devices, long names and targets, large ids.
fn write_special(root: &Path) {
    let mode = Mode::from_raw_mode(0o600);
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        (
            "large",
            FileType::BlockDevice,
            rustix::fs::makedev(259, 300_000),
        ),
        ("pipe", FileType::Fifo, 0),
    ] {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, device).unwrap();
        set_times(&root.join(name), 1_700_000_000, 0);
    }
    let deep = root.join(["d".repeat(120), "e".repeat(200)].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(255)), b"deep").unwrap();
    symlink("t".repeat(400), root.join("far")).unwrap();
    fs::hard_link(deep.join("f".repeat(255)), root.join("short")).unwrap();
    std::os::unix::fs::lchown(root.join("short"), Some(3_000_000), Some(4_000_000_000)).unwrap();
    for path in [
        &deep.join("f".repeat(255)),
        &deep,
        deep.parent().unwrap(),
        &root.join("far"),
    ] {
        set_times(path, -86_400, 0);
    }
    set_times(root, 1_700_000_001, 0);
}

/// Adds what only PAX holds: nanoseconds and xattrs.
fn write_pax_only(root: &Path) {
    let tool = root.join("usr/bin/tool");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&tool, "security.capability", &capability);
    set_xattr(&tool, "user.binary", b"line\nother=\0\xff 12 x=y\n");
    set_xattr(&tool, "user.empty", b"");
    set_xattr(&root.join("usr"), "trusted.directory", b"yes");
    set_xattr(&root.join("far"), "trusted.link", b"symlinks have them too");
    set_times(&tool, 1_700_000_000, 123_456_789);
    set_times(&root.join("usr.conf"), -1, 500_000_000);
    set_times(&root.join("usr"), -2, 1);
    set_times(root, 1_700_000_001, 999_999_999);
}

#[test]
fn every_format_of_gnu_tar_reads_like_the_directory() {
    let root = tempfile::tempdir().unwrap();
    write_plain(root.path());
    let plain = read_directory(root.path());
    for format in ["v7", "ustar", "oldgnu", "gnu", "posix"] {
        assert_eq!(
            read_tar(&gnu_tar(root.path(), &["--format", format])),
            plain,
            "{format}"
        );
    }
    write_special(root.path());
    let special = read_directory(root.path());
    assert_eq!(special.len(), plain.len() + 8);
    for format in ["oldgnu", "gnu", "posix"] {
        assert_eq!(
            read_tar(&gnu_tar(root.path(), &["--format", format])),
            special,
            "{format}"
        );
    }
    write_pax_only(root.path());
    let options = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    assert_eq!(
        read_tar(&gnu_tar(root.path(), &options)),
        read_directory(root.path())
    );
}

#[test]
fn every_sparse_form_reads_like_the_file() {
    use std::os::unix::fs::FileExt;
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, size: u64, at: &[u64]| {
        let file = fs::File::create(root.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        at.iter()
            .for_each(|at| file.write_all_at(b"data", *at).unwrap());
        drop(file);
        set_times(&root.path().join(name), 5, 0);
    };
    write("all-hole", 3_000_000, &[]);
    write("ends-in-hole", 2_000_001, &[0]);
    write("ends-in-data", 2_000_004, &[1_000_000, 2_000_000]);
    // More segments than a header and an extension block hold, and than one block of a 1.0 map.
    write(
        "many",
        10_000_000,
        &(0..150).map(|at| at * 65_536 + 5).collect::<Vec<_>>(),
    );
    fs::write(root.path().join("dense"), vec![3; 100_000]).unwrap();
    set_times(&root.path().join("dense"), 5, 0);
    set_times(root.path(), 5, 0);
    let expected = read_directory(root.path());
    for form in ["gnu", "0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={form}");
        let options = match form {
            "gnu" => vec!["--format=gnu", "-S"],
            _ => vec!["--format=posix", "-S", version.as_str()],
        };
        let tar = gnu_tar(root.path(), &options);
        assert!(
            tar.len() < 2_000_000,
            "{form} is not stored sparse: {}",
            tar.len()
        );
        let read = read_tar(&tar);
        for ((entry, data), (expected_entry, expected_data)) in read.iter().zip(&expected) {
            assert_eq!(entry, expected_entry, "{form}");
            assert!(data == expected_data, "{form}: {:?}", entry.path);
        }
        assert_eq!(read.len(), expected.len(), "{form}");
    }
}

#[test]
fn a_directory_keeps_sockets_and_its_order() {
    let root = tempfile::tempdir().unwrap();
    write_plain(root.path());
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    let entries = read_directory(root.path());
    let paths: Vec<_> = entries
        .iter()
        .map(|(entry, _)| entry.path.clone())
        .collect();
    assert!(paths.is_sorted(), "{paths:?}");
    assert!(paths[0].is_root());
    let kind = |path: &str| {
        let found = entries
            .iter()
            .find(|(entry, _)| entry.path.to_string() == path);
        found.unwrap().0.kind.clone()
    };
    assert_eq!(kind("socket"), EntryKind::Socket);
    assert_eq!(kind("usr/block"), EntryKind::File { size_bytes: 512 });
    assert!(matches!(kind("usr/linked"), EntryKind::HardLink(to) if to.as_bytes() == b"usr/block"));
}
