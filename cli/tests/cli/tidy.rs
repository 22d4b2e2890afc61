//! Rules of the source tree that no compiler checks.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages from the bottom up; those on one line do not know each other.
const LAYERS: [&[&str]; 5] = [
    &["nacre-blobstore"],
    &["nacre-fs", "nacre-region-cache"],
    &["nacre-snapshotter"],
    &["nacre-launcher"],
    &["nacre-cli"],
];

/// Heavy libraries, and the only places that may name each; RocksDB has one for each owner of a
/// database.
const CONFINED: [(&str, &[&str]); 7] = [
    ("object_store::", &["blobstore/src/store"]),
    (
        "rocksdb::",
        &[
            "blobstore/src/index",
            "blobstore/src/kept",
            "snapshotter/src/containerd/index",
        ],
    ),
    ("fuser::", &["fs/src/fuse"]),
    ("oci_client::", &["snapshotter/src/oci"]),
    (
        "opentelemetry::",
        &["cli/src/telemetry", "region-cache/src/trace_context"],
    ),
    (
        "opentelemetry_sdk::",
        &["cli/src/telemetry", "region-cache/src/trace_context"],
    ),
    (
        "tonic::",
        &[
            "snapshotter/src/containerd",
            "cli/tests/cli/containerd/cri",
            "cli/tests/cli/spans",
        ],
    ),
];

/// No source file may be longer, in lines.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&package))
}

/// Says what is wrong with an import, if anything is.
fn judge(package: &str, dependency: &str) -> Option<String> {
    match (layer(package), layer(dependency)) {
        (None, _) => Some(format!("{package} is in no layer")),
        (_, None) => None,
        (Some(above), Some(below)) if above > below || package == dependency => None,
        (Some(_), Some(_)) => Some(format!(
            "{package} imports {dependency}, which is not below it"
        )),
    }
}

#[test]
fn imports_go_downwards_only() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(
        packages.len(),
        LAYERS.iter().map(|layer| layer.len()).sum::<usize>()
    );
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            assert_eq!(judge(name, dependency["name"].as_str().unwrap()), None);
        }
    }
}

#[test]
fn an_upward_import_would_be_noticed() {
    assert!(judge("nacre-blobstore", "nacre-fs").is_some());
    assert!(judge("nacre-fs", "nacre-region-cache").is_some());
    assert!(judge("nacre-new", "nacre-fs").is_some());
    assert_eq!(judge("nacre-cli", "nacre-fs"), None);
}

/// All Rust sources but those of the fuzz workspace, relative to the root.
fn sources() -> Vec<PathBuf> {
    fn visit(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for package in [
        "blobstore",
        "cli",
        "fs",
        "launcher",
        "region-cache",
        "snapshotter",
    ] {
        visit(&root().join(package), &mut found);
    }
    assert!(found.len() > 100, "the sources are elsewhere");
    found
        .iter()
        .map(|path| path.strip_prefix(root()).unwrap().to_owned())
        .collect()
}

#[test]
fn heavy_libraries_are_named_in_one_place_each() {
    for path in sources() {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        for (library, places) in CONFINED {
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let named = code.into_iter().any(|line| {
                line.trim_start().starts_with(&format!("use {library}"))
                    || line.contains(&format!(" {library}"))
                    || line.contains(&format!("({library}"))
            });
            let is_in =
                |place: &&str| path.starts_with(place) || path.starts_with(format!("{place}.rs"));
            let allowed = places.iter().any(is_in) || path.ends_with("tests/cli/tidy.rs");
            assert!(!named || allowed, "{} names {library}", path.display());
        }
    }
}

#[test]
fn files_are_short_and_ascii() {
    for path in sources() {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        assert!(text.is_ascii(), "{} is not ASCII", path.display());
    }
}
