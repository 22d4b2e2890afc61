use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use super::*;

fn open(directory: &Path, limits: LayerLimits) -> DirectoryReader {
    DirectoryReader::open(directory, "dir:/x", limits).unwrap()
}

/// Advances to the file called `name`.
fn advance(reader: &mut DirectoryReader, name: &str) -> LayerEntry {
    loop {
        let entry = reader.next_entry().unwrap().expect("the file is there");
        if entry.path.to_string() == name {
            return entry;
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let changes: [fn(File); 3] = [
        |file| {
            file.set_len(10).unwrap();
        },
        |file| {
            file.write_all_at(b"more", 1_000).unwrap();
        },
        |file| {
            file.write_all_at(b"new", 0).unwrap();
        },
    ];
    for change in changes {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        fs::write(&path, [1; 1_000]).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.set_modified(std::time::UNIX_EPOCH).unwrap();
        let mut reader = open(root.path(), LayerLimits::default());
        advance(&mut reader, "f");
        let mut buffer = [0; 100];
        assert_eq!(reader.read_data(&mut buffer).unwrap(), 100);
        change(writer);
        let error = loop {
            match reader.read_data(&mut buffer) {
                Ok(len) => assert!(len > 0, "the change goes unnoticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LayerError::Changed { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "layer dir:/x, entry \"f\" changed while it was read"
        );
        assert!(reader.next_entry().is_err(), "an error is final");
    }
}

#[test]
fn an_entry_that_vanishes_is_a_change() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("f"), b"").unwrap();
    let mut reader = open(root.path(), LayerLimits::default());
    assert!(reader.next_entry().unwrap().unwrap().path.is_root());
    fs::remove_file(root.path().join("f")).unwrap();
    assert!(matches!(
        reader.next_entry(),
        Err(LayerError::Changed { .. })
    ));
}

#[test]
fn links_are_not_followed_and_names_mean_nothing() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"").unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
    fs::write(root.path().join(".wh.x"), b"plain").unwrap();
    let mut reader = open(root.path(), LayerLimits::default());
    let mut kinds = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        kinds.push((entry.path.to_string(), entry.kind));
    }
    let target = outside.path().as_os_str().as_encoded_bytes().into();
    assert_eq!(
        kinds,
        [
            (String::new(), EntryKind::Directory),
            (".wh.x".into(), EntryKind::File { size_bytes: 5 }),
            ("out".into(), EntryKind::Symlink(target)),
        ]
    );
}

#[test]
fn limits_hold_for_directories_too() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b/c")).unwrap();
    fs::write(root.path().join("a/f"), [0; 100]).unwrap();
    let limits = LayerLimits::default;
    for (limits, what) in [
        (
            LayerLimits {
                entries_max: 4,
                ..limits()
            },
            "entries",
        ),
        (
            LayerLimits {
                depth_max: 2,
                ..limits()
            },
            "directories in a path",
        ),
        (
            LayerLimits {
                file_bytes_max: 99,
                ..limits()
            },
            "bytes in a file",
        ),
        (
            LayerLimits {
                plain_bytes_max: 99,
                ..limits()
            },
            "bytes in all files",
        ),
    ] {
        let mut reader = open(root.path(), limits);
        let error = loop {
            match reader.next_entry() {
                Ok(entry) => assert!(entry.is_some(), "{what} is not limited"),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, LayerError::Limit { what: w, .. } if w == what),
            "{error:?}"
        );
    }
}

#[test]
fn what_is_no_directory_cannot_be_opened() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("f"), b"").unwrap();
    for name in ["f", "missing"] {
        let result = DirectoryReader::open(&root.path().join(name), "l", LayerLimits::default());
        assert!(matches!(result, Err(LayerError::Io { .. })), "{name}");
    }
}
